//! The paths of the API: one table, from which requests are read and the OpenAPI document is
//! written.
//!
//! ```text
//! method, path, body ──parse──> Request ──the VMM──> VmmData ──respond──> status and body
//! ```
//!
//! What's malformed gets the status that Firecracker gives it, 400 nearly always. Below `/ext/`,
//! which is ours, unknown paths and methods get 404 and 405.

mod call;
mod ext;
mod table;
#[cfg(test)]
mod tests;
mod v1;

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use self::call::Call;
pub(crate) use self::table::{Body, Success, TypeSchema};
pub use self::table::{Method, Route};
use crate::action::{VmmAction, VmmData};
use crate::config::MmdsVersion;
use crate::error::{ApiError, Status};
use crate::v1::VersionInfo;

/// A request that has been read.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are actions, and each is passed on once")]
pub enum Request {
    /// Something is asked of the VMM.
    Action(VmmAction),
    /// The OpenAPI document; the server has it.
    OpenApi,
    /// The stream of events; the server has it.
    Events,
}

/// All routes, Firecracker's first.
pub fn all() -> impl Iterator<Item = &'static Route> {
    v1::ROUTES.iter().chain(ext::ROUTES)
}

/// Reads a request. `path` is the target's path, without a query; an empty body is none.
///
/// # Errors
/// What's wrong with the request, with the status to answer with.
pub fn parse(method: &str, path: &str, body: &[u8]) -> Result<Request, ApiError> {
    let segments: Vec<Cow<'_, str>> = path
        .trim_start_matches('/')
        .split_terminator('/')
        .map(decode)
        .collect::<Option<_>>()
        .ok_or_else(|| ApiError::bad_request(format!("Malformed percent escape in {path:?}.")))?;
    let mut methods = Vec::new();
    for route in all() {
        let Some(id) = route.matches(&segments) else { continue };
        if route.method.as_str() == method {
            return route.read(&Call { method: route.method, id, body });
        }
        methods.push(route.method.as_str());
    }
    Err(no_route(method, path, &segments, &methods))
}

/// Says why no route fits; `methods` are those that the path knows.
fn no_route(method: &str, path: &str, segments: &[Cow<'_, str>], methods: &[&str]) -> ApiError {
    let is_ours = segments.first().is_some_and(|first| first == "ext");
    let message = if methods.is_empty() {
        format!("Invalid request method and/or path: {method} {path}. There is no such path.")
    } else {
        let methods = methods.join(", ");
        format!("Invalid request method and/or path: {method} {path}. The path knows {methods}.")
    };
    let status = match (is_ours, methods.is_empty()) {
        (false, _) => Status::BadRequest,
        (true, true) => Status::NotFound,
        (true, false) => Status::MethodNotAllowed,
    };
    ApiError::new(status, message)
}

/// Undoes percent escapes; `None` if one is malformed or the bytes aren't UTF-8.
fn decode(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?,
            _ => byte,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// What an HTTP server sends for something that the VMM did.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status: 200 with a body, 204 without.
    pub status: u16,
    /// The body's media type.
    pub content_type: &'static str,
    /// The body; empty for none.
    pub body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "Answer {{ {} {}: {body} }}", self.status, self.content_type)
    }
}

/// The media type of JSON.
pub const JSON: &str = "application/json";

/// The media type of Prometheus' text format.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The media type of JSON lines.
pub const NDJSON: &str = "application/x-ndjson";

/// Writes what the VMM answered.
#[must_use]
pub fn respond(data: &VmmData) -> Answer {
    match data {
        VmmData::Empty => Answer { status: 204, content_type: JSON, body: Vec::new() },
        VmmData::InstanceInfo(info) => json(info),
        VmmData::Version(version) => json(&VersionInfo { firecracker_version: version.clone() }),
        VmmData::VmConfig(config) => json(config),
        VmmData::MachineConfig(machine) => json(machine),
        VmmData::Balloon(balloon) => json(balloon),
        VmmData::BalloonStats(stats) => json(stats),
        VmmData::HintingStatus(status) => json(status),
        VmmData::MemoryHotplug(status) => json(status),
        VmmData::Mmds(serde_json::Value::Null) => json(&serde_json::Map::new()),
        VmmData::Mmds(value) => json(value),
        VmmData::Fork(report) => json(report),
        VmmData::Metrics(text) => {
            Answer { status: 200, content_type: PROMETHEUS, body: text.clone().into_bytes() }
        }
        VmmData::Timeline(timeline) => json(timeline),
        VmmData::Details(details) => json(details),
    }
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => Answer { status: 200, content_type: JSON, body },
        // Only a path that isn't UTF-8 can't be written, and configurations have none.
        Err(error) => {
            let fault = ApiError::internal(format!("The answer can't be written: {error}"));
            let body = serde_json::to_vec(&fault.body()).unwrap_or_default();
            Answer { status: fault.status.code(), content_type: JSON, body }
        }
    }
}

/// Why a client should ask otherwise: it used a key that Firecracker has deprecated. The server
/// then sends `Deprecation: true` along, as Firecracker does.
#[must_use]
pub fn deprecation(action: &VmmAction) -> Option<&'static str> {
    match action {
        VmmAction::SetVsock(vsock) if vsock.vsock_id.is_some() => {
            Some("PUT /vsock: vsock_id is deprecated and has no effect; leave it out.")
        }
        VmmAction::SetMachineConfig(machine) if machine.cpu_template.is_some() => {
            Some("PUT /machine-config: cpu_template is deprecated; use PUT /cpu-config.")
        }
        VmmAction::UpdateMachineConfig(machine) if machine.cpu_template.is_some() => {
            Some("PATCH /machine-config: cpu_template is deprecated; use PUT /cpu-config.")
        }
        VmmAction::SetMmdsConfig(mmds) if mmds.version.unwrap_or_default() == MmdsVersion::V1 => {
            Some("PUT /mmds/config: V1 is deprecated; use V2.")
        }
        VmmAction::LoadSnapshot(load) if load.deprecated_keys => Some(
            "PUT /snapshot/load: mem_file_path and enable_diff_snapshots are deprecated; use \
             mem_backend and track_dirty_pages.",
        ),
        _ => None,
    }
}
