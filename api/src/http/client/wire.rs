//! How an action is asked for: method, path and body. The inverse of [`routes::parse`].
//!
//! [`routes::parse`]: crate::routes::parse

use std::fmt::Write;

use hyper::Method;
use hyper::body::Bytes;
use serde::Serialize;

use crate::action::VmmAction;
use crate::v1::{ActionType, InstanceAction, TargetState, VmTarget};

/// A request that is yet to be sent.
pub(super) struct WireRequest {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Bytes,
}

impl WireRequest {
    /// Writes an action as the request that stands for it.
    pub(super) fn of(action: &VmmAction) -> serde_json::Result<Self> {
        use VmmAction as A;
        Ok(match action {
            A::GetInstanceInfo => get("/"),
            A::GetVersion => get("/version"),
            A::GetVmConfig => get("/vm/config"),
            A::ConfigureBootSource(body) => put("/boot-source", body)?,
            A::InsertDrive(body) => put(&with_id("/drives", &body.drive_id), body)?,
            A::UpdateDrive(body) => patch(&with_id("/drives", &body.drive_id), body)?,
            A::InsertNet(body) => put(&with_id("/network-interfaces", &body.iface_id), body)?,
            A::UpdateNet(body) => patch(&with_id("/network-interfaces", &body.iface_id), body)?,
            A::GetMachineConfig => get("/machine-config"),
            A::SetMachineConfig(body) => put("/machine-config", body)?,
            A::UpdateMachineConfig(body) => patch("/machine-config", body)?,
            A::SetVsock(body) => put("/vsock", body)?,
            A::SetEntropy(body) => put("/entropy", body)?,
            A::SetBalloon(body) => put("/balloon", body)?,
            A::GetBalloon => get("/balloon"),
            A::UpdateBalloon(body) => patch("/balloon", body)?,
            A::GetBalloonStats => get("/balloon/statistics"),
            A::UpdateBalloonStats(body) => patch("/balloon/statistics", body)?,
            A::StartHinting(body) => patch("/balloon/hinting/start", body)?,
            A::StopHinting => bare(Method::PATCH, "/balloon/hinting/stop"),
            A::GetHintingStatus => get("/balloon/hinting/status"),
            A::InsertPmem(body) => put(&with_id("/pmem", &body.id), body)?,
            A::UpdatePmem(body) => patch(&with_id("/pmem", &body.id), body)?,
            A::SetMemoryHotplug(body) => put("/hotplug/memory", body)?,
            A::GetMemoryHotplug => get("/hotplug/memory"),
            A::UpdateMemoryHotplug(body) => patch("/hotplug/memory", body)?,
            A::SetMmdsConfig(body) => put("/mmds/config", body)?,
            A::PutMmds(body) => put("/mmds", body)?,
            A::PatchMmds(body) => patch("/mmds", body)?,
            A::GetMmds => get("/mmds"),
            A::ConfigureLogger(body) => put("/logger", body)?,
            A::ConfigureMetrics(body) => put("/metrics", body)?,
            A::ConfigureSerial(body) => put("/serial", body)?,
            A::SetCpuConfig(body) => put("/cpu-config", body)?,
            A::InstanceStart => instance_action(ActionType::InstanceStart)?,
            A::SendCtrlAltDel => instance_action(ActionType::SendCtrlAltDel)?,
            A::FlushMetrics => instance_action(ActionType::FlushMetrics)?,
            A::Pause => patch("/vm", &VmTarget { state: TargetState::Paused })?,
            A::Resume => patch("/vm", &VmTarget { state: TargetState::Resumed })?,
            A::CreateSnapshot(body) => put("/snapshot/create", body)?,
            A::LoadSnapshot(body) => put("/snapshot/load", body)?,
            A::HotplugDrive(body) => put(&with_id("/ext/v1/drives", &body.drive_id), body)?,
            A::HotunplugDrive(id) => bare(Method::DELETE, &with_id("/ext/v1/drives", id)),
            A::HotplugNet(body) => {
                put(&with_id("/ext/v1/network-interfaces", &body.iface_id), body)?
            }
            A::HotunplugNet(id) => bare(Method::DELETE, &with_id("/ext/v1/network-interfaces", id)),
            A::HotplugPmem(body) => put(&with_id("/ext/v1/pmem", &body.id), body)?,
            A::AddFilesystem(body) => put(&with_id("/ext/v1/filesystems", &body.fs_id), body)?,
            A::RemoveFilesystem(id) => bare(Method::DELETE, &with_id("/ext/v1/filesystems", id)),
            A::HotunplugPmem(id) => bare(Method::DELETE, &with_id("/ext/v1/pmem", id)),
            A::Fork(body) => with_body(Method::POST, "/ext/v1/fork", body)?,
            A::Shutdown(body) => with_body(Method::POST, "/ext/v1/shutdown", body)?,
            A::Kill => bare(Method::POST, "/ext/v1/kill"),
            A::GetMetrics => get("/ext/v1/metrics"),
            A::GetTimeline => get("/ext/v1/timeline"),
            A::GetDetails => get("/ext/v1/vm"),
        })
    }
}

fn bare(method: Method, path: &str) -> WireRequest {
    WireRequest { method, path: path.to_owned(), body: Bytes::new() }
}

fn get(path: &str) -> WireRequest {
    bare(Method::GET, path)
}

fn put(path: &str, body: &impl Serialize) -> serde_json::Result<WireRequest> {
    with_body(Method::PUT, path, body)
}

fn patch(path: &str, body: &impl Serialize) -> serde_json::Result<WireRequest> {
    with_body(Method::PATCH, path, body)
}

fn with_body(method: Method, path: &str, body: &impl Serialize) -> serde_json::Result<WireRequest> {
    let body = serde_json::to_vec(body)?.into();
    Ok(WireRequest { method, path: path.to_owned(), body })
}

fn instance_action(action_type: ActionType) -> serde_json::Result<WireRequest> {
    put("/actions", &InstanceAction { action_type })
}

/// Appends an identifier to a path. Whatever could mean something else in a path is escaped, so
/// that the VMM refuses the identifier and not a client's other request is made.
fn with_id(path: &str, id: &str) -> String {
    let mut path = format!("{path}/");
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"_-.~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::routes::{self, Request, Route};

    /// The action that a route's example asks for; none where the server answers by itself.
    fn example(route: &Route) -> Option<VmmAction> {
        let body: serde_json::Value = serde_json::from_str(route.example).unwrap_or_default();
        let path = match route.path.split_once('{') {
            Some((head, id)) => {
                let key = id.trim_end_matches('}');
                format!("{head}{}", body[key].as_str().unwrap_or("some_id"))
            }
            None => route.path.to_owned(),
        };
        match routes::parse(route.method.as_str(), &path, route.example.as_bytes()).unwrap() {
            Request::Action(action) => Some(action),
            Request::OpenApi | Request::Events => None,
        }
    }

    #[test]
    fn each_action_is_written_as_the_server_reads_it() {
        let mut actions: Vec<_> = routes::all().filter_map(example).collect();
        // Those that share a route with another.
        actions.extend([VmmAction::SendCtrlAltDel, VmmAction::FlushMetrics]);
        actions.extend([VmmAction::Pause, VmmAction::Resume]);
        for action in &actions {
            let request = WireRequest::of(action).unwrap();
            let read = routes::parse(request.method.as_str(), &request.path, &request.body);
            assert_eq!(read.unwrap(), Request::Action(action.clone()));
        }
        let covered: BTreeSet<_> = actions.iter().map(VmmAction::name).collect();
        let all: BTreeSet<_> = VmmAction::NAMES.iter().copied().collect();
        assert_eq!(covered, all);
    }

    #[test]
    fn identifier_stays_one_segment_of_the_path() {
        assert_eq!(with_id("/drives", "root_1"), "/drives/root_1");
        assert_eq!(with_id("/drives", "../a b?é"), "/drives/..%2Fa%20b%3F%C3%A9");
    }
}
