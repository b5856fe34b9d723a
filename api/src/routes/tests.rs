//! Every route, and every refusal.

use serde_json::{Map, Value, json};

use super::*;
use crate::config::{MacAddr, MachineSpec, VmSpec};
use crate::ext::{ForkReport, ShutdownParams, Timeline, VmDetails};
use crate::v1::*;

mod refusals;

fn action(method: &str, path: &str, body: &Value) -> VmmAction {
    match parse(method, path, body.to_string().as_bytes()) {
        Ok(Request::Action(action)) => action,
        other => panic!("{method} {path} {body}: {other:?}"),
    }
}

/// A path of a route, with the identifier of its example.
fn concrete_path(route: &Route) -> String {
    let body: Value = serde_json::from_str(route.example).unwrap_or_default();
    match (route.path.split_once('{'), route.parameter()) {
        (Some((start, _)), Some(name)) => {
            format!("{start}{}", body[name].as_str().unwrap_or("disk"))
        }
        _ => route.path.to_owned(),
    }
}

#[test]
fn requests_become_the_actions_that_they_name() {
    for (method, path, body, expected) in [
        ("GET", "/", "", "get_instance_info"),
        ("GET", "", "", "get_instance_info"),
        ("GET", "/version", "", "get_version"),
        ("GET", "/version/", "", "get_version"),
        ("GET", "//version", "", "get_version"),
        ("GET", "/v%65rsion", "", "get_version"),
        ("GET", "/vm/config", "", "get_vm_config"),
        ("GET", "/machine-config", "", "get_machine_config"),
        ("GET", "/balloon", "", "get_balloon"),
        ("GET", "/balloon/statistics", "", "get_balloon_stats"),
        ("GET", "/balloon/hinting/status", "", "get_hinting_status"),
        ("GET", "/hotplug/memory", "", "get_memory_hotplug"),
        ("GET", "/mmds", "", "get_mmds"),
        ("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#, "instance_start"),
        ("PUT", "/actions", r#"{"action_type":"SendCtrlAltDel"}"#, "send_ctrl_alt_del"),
        ("PUT", "/actions", r#"{"action_type":"FlushMetrics"}"#, "flush_metrics"),
        ("PATCH", "/vm", r#"{"state":"Paused"}"#, "pause"),
        ("PATCH", "/vm", r#"{"state":"Resumed"}"#, "resume"),
        ("PATCH", "/balloon/hinting/start", "", "start_hinting"),
        ("PATCH", "/balloon/hinting/start", "{}", "start_hinting"),
        ("PATCH", "/balloon/hinting/stop", "", "stop_hinting"),
        ("PATCH", "/balloon/hinting/stop", "anything", "stop_hinting"),
        ("PUT", "/entropy", r#"{"rate_limiter":null}"#, "set_entropy"),
        ("PUT", "/cpu-config", "{}", "set_cpu_config"),
        ("PUT", "/mmds", "{}", "put_mmds"),
        ("DELETE", "/ext/v1/drives/my-disk", "", "hotunplug_drive"),
        ("DELETE", "/ext/v1/network-interfaces/eth0", "", "hotunplug_net"),
        ("POST", "/ext/v1/shutdown", "", "shutdown"),
        ("POST", "/ext/v1/kill", "", "kill"),
        ("GET", "/ext/v1/metrics", "", "get_metrics"),
        ("GET", "/ext/v1/timeline", "", "get_timeline"),
        ("GET", "/ext/v1/vm", "", "get_details"),
    ] {
        match parse(method, path, body.as_bytes()) {
            Ok(Request::Action(action)) => assert_eq!(action.name(), expected, "{method} {path}"),
            other => panic!("{method} {path} {body}: {other:?}"),
        }
    }
    assert_eq!(parse("GET", "/ext/v1/events", b""), Ok(Request::Events));
    assert_eq!(parse("GET", "/ext/v1/openapi.json", b""), Ok(Request::OpenApi));
}

#[test]
fn bodies_of_firecracker_clients_are_understood() {
    let drive = json!({
        "drive_id": "rootfs", "partuuid": "0eaa91a0-01", "is_root_device": true,
        "cache_type": "Writeback", "is_read_only": false, "path_on_host": "root.img",
        "io_engine": "Async", "socket": null,
        "rate_limiter": { "bandwidth": { "size": 0, "one_time_burst": 0, "refill_time": 0 },
                          "ops": null }
    });
    let VmmAction::InsertDrive(spec) = action("PUT", "/drives/rootfs", &drive) else { panic!() };
    assert_eq!(spec.partuuid.as_deref(), Some("0eaa91a0-01"));
    assert_eq!(spec.rate_limiter.unwrap().effective(), crate::config::RateLimiter::default());

    let machine = json!({ "vcpu_count": 2, "mem_size_mib": 1024, "smt": false,
                          "track_dirty_pages": true, "huge_pages": "2M", "cpu_template": "None" });
    let VmmAction::SetMachineConfig(spec) = action("PUT", "/machine-config", &machine) else {
        panic!()
    };
    assert_eq!((spec.vcpu_count, spec.track_dirty_pages), (Some(2), Some(true)));

    let load = json!({ "snapshot_path": "s", "mem_file_path": "m", "enable_diff_snapshots": true,
                       "resume_vm": true });
    let VmmAction::LoadSnapshot(load) = action("PUT", "/snapshot/load", &load) else { panic!() };
    assert_eq!(load.mem_backend.backend_type, MemoryBackendType::File);
    assert_eq!(load.mem_backend.backend_path.to_str(), Some("m"));
    assert!(load.track_dirty_pages && load.resume_vm && load.deprecated_keys);

    let create = json!({ "snapshot_path": "s", "mem_file_path": "m" });
    let VmmAction::CreateSnapshot(create) = action("PUT", "/snapshot/create", &create) else {
        panic!()
    };
    assert_eq!(create.snapshot_type, SnapshotType::Full);

    let VmmAction::StartHinting(start) = action("PATCH", "/balloon/hinting/start", &json!({}))
    else {
        panic!()
    };
    assert!(start.acknowledge_on_stop);
}

#[test]
fn snapshot_is_loaded_with_every_override() {
    let body = json!({
        "snapshot_path": "s",
        "mem_backend": { "backend_type": "Uffd", "backend_path": "uffd.sock" },
        "track_dirty_pages": true, "resume_vm": true, "clock_realtime": true,
        "network_overrides": [{ "iface_id": "eth0", "host_dev_name": "tap7" }],
        "vsock_override": { "uds_path": "v2.sock" },
        "drive_overrides": [{ "drive_id": "root", "path_on_host": "o.qcow2", "format": "qcow2" }],
        "working_set_path": "ws", "record_working_set_path": "ws2",
        "new_identity": {
            "mac_addresses": [{ "iface_id": "eth0", "guest_mac": "52:54:00:00:00:02" }],
            "guest_cid": 4
        }
    });
    let VmmAction::LoadSnapshot(load) = action("PUT", "/snapshot/load", &body) else { panic!() };
    assert_eq!(load.network_overrides[0].host_dev_name, "tap7");
    let identity = load.new_identity.as_ref().unwrap();
    let mac: MacAddr = "52:54:00:00:00:02".parse().unwrap();
    assert_eq!((identity.mac_addresses[0].guest_mac, identity.guest_cid), (mac, Some(4)));
    assert!(!load.deprecated_keys);
    // What a client writes is what the VMM reads.
    let written = serde_json::to_value(&load).unwrap();
    assert_eq!(written, body);
    assert_eq!(action("PUT", "/snapshot/load", &written), VmmAction::LoadSnapshot(load));
}

#[test]
fn machine_patch_changes_what_it_names() {
    let mut machine =
        MachineSpec { vcpu_count: Some(2), mem_size_mib: Some(64), ..MachineSpec::default() };
    let patch = json!({ "mem_size_mib": 128, "track_dirty_pages": true });
    let VmmAction::UpdateMachineConfig(patch) = action("PATCH", "/machine-config", &patch) else {
        panic!()
    };
    patch.apply(&mut machine);
    assert_eq!((machine.vcpu_count, machine.mem_size_mib), (Some(2), Some(128)));
    assert_eq!(machine.track_dirty_pages, Some(true));
}

#[test]
fn shutdown_has_a_deadline_in_any_case() {
    for (body, timeout_ms) in [("", 30_000), ("{}", 30_000), (r#"{"timeout_ms":0}"#, 0)] {
        let request = parse("POST", "/ext/v1/shutdown", body.as_bytes()).unwrap();
        let expected = VmmAction::Shutdown(ShutdownParams { timeout_ms });
        assert_eq!(request, Request::Action(expected));
    }
}

#[test]
fn answers_have_the_status_and_the_form_that_clients_expect() {
    let info = InstanceInfo {
        app_name: "vmm".to_owned(),
        id: "a".to_owned(),
        state: InstanceState::NotStarted,
        vmm_version: "1".to_owned(),
    };
    let details = VmDetails {
        id: "a".to_owned(),
        state: InstanceState::Paused,
        vmm_version: "1".to_owned(),
        pid: 1,
        started_ns: None,
        now_ns: 2,
        restored_from: None,
        devices: Vec::new(),
        config: VmSpec::default(),
    };
    let stats = BalloonStats { swap_in: Some(1), ..BalloonStats::default() };
    for (data, expected) in [
        (VmmData::Empty, ""),
        (
            VmmData::InstanceInfo(info),
            r#"{"app_name":"vmm","id":"a","state":"Not started","vmm_version":"1"}"#,
        ),
        (VmmData::Version("1.2".to_owned()), r#"{"firecracker_version":"1.2"}"#),
        (VmmData::VmConfig(Box::default()), r#"{"drives":[],"network-interfaces":[],"pmem":[]}"#),
        (VmmData::Mmds(Value::Null), "{}"),
        (VmmData::Mmds(json!({ "a": [1] })), r#"{"a":[1]}"#),
        (
            VmmData::BalloonStats(Box::new(stats)),
            r#"{"target_pages":0,"actual_pages":0,"target_mib":0,"actual_mib":0,"swap_in":1}"#,
        ),
        (
            VmmData::HintingStatus(BalloonHintingStatus { host_cmd: 2, guest_cmd: None }),
            r#"{"host_cmd":2,"guest_cmd":null}"#,
        ),
        (
            VmmData::Fork(ForkReport::default()),
            r#"{"paused_ns":0,"total_ns":0,"faulted_pages":0,"drives":[]}"#,
        ),
        (VmmData::Metrics("vmm_up 1\n".to_owned()), "vmm_up 1\n"),
        (VmmData::Timeline(Timeline::default()), r#"{"events":[]}"#),
    ] {
        let answer = respond(&data);
        assert_eq!(String::from_utf8(answer.body).unwrap(), expected);
        assert_eq!(answer.status, if expected.is_empty() { 204 } else { 200 });
        let is_text = matches!(data, VmmData::Metrics(_));
        assert_eq!(answer.content_type, if is_text { PROMETHEUS } else { JSON });
    }
    let answer = respond(&VmmData::Details(Box::new(details.clone())));
    assert_eq!(serde_json::from_slice::<VmDetails>(&answer.body).unwrap(), details);
}

#[test]
fn deprecated_keys_are_told() {
    for (method, path, body, is_deprecated) in [
        ("PUT", "/vsock", json!({ "guest_cid": 3, "uds_path": "v" }), false),
        ("PUT", "/vsock", json!({ "guest_cid": 3, "uds_path": "v", "vsock_id": "x" }), true),
        ("PUT", "/mmds/config", json!({ "network_interfaces": ["e"] }), true),
        ("PUT", "/mmds/config", json!({ "network_interfaces": ["e"], "version": "V2" }), false),
        ("PATCH", "/machine-config", json!({ "cpu_template": "None" }), true),
        ("PUT", "/snapshot/load", json!({ "snapshot_path": "s", "mem_file_path": "m" }), true),
    ] {
        let notice = deprecation(&action(method, path, &body));
        assert_eq!(notice.is_some(), is_deprecated, "{path} {body}");
    }
}
