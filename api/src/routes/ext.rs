//! Our own paths.

use super::Route;
use super::table::{delete, get, post, put};
use crate::action::VmmAction;
use crate::config::{DriveSpec, FilesystemSpec, NetSpec, PmemSpec};
use crate::error::ApiError;
use crate::event::Event;
use crate::ext::{ForkParams, ForkReport, ShutdownParams, Timeline, VmDetails};

/// What shows the effect of a change.
const DETAILS: &[&str] = &["extGetVm"];

pub(super) const ROUTES: &[Route] = &[
    put("/ext/v1/drives/{drive_id}", "extAddDrive")
        .about("Adds a drive to the running VM")
        .takes::<DriveSpec>(
            r#"{"drive_id": "data", "path_on_host": "data.img", "is_root_device": false}"#,
        )
        .seen_by(&["extRemoveDrive", "extGetVm"])
        .asks(|call| {
            call.read_with_id(&["drive_id", "is_root_device"], |drive: &DriveSpec| &drive.drive_id)
                .map(VmmAction::HotplugDrive)
        }),
    delete("/ext/v1/drives/{drive_id}", "extRemoveDrive")
        .about("Removes a drive from the running VM, once the guest has let go of it")
        .seen_by(DETAILS)
        .asks(|call| Ok(VmmAction::HotunplugDrive(call.id.to_owned()))),
    put("/ext/v1/network-interfaces/{iface_id}", "extAddNetworkInterface")
        .about("Adds a network interface to the running VM")
        .takes::<NetSpec>(r#"{"iface_id": "eth1", "host_dev_name": "tap1"}"#)
        .seen_by(&["extRemoveNetworkInterface", "extGetVm"])
        .asks(|call| {
            call.read_with_id(&["iface_id", "host_dev_name|socket"], |net: &NetSpec| &net.iface_id)
                .map(VmmAction::HotplugNet)
        }),
    delete("/ext/v1/network-interfaces/{iface_id}", "extRemoveNetworkInterface")
        .about("Removes a network interface from the running VM, once the guest has let go of it")
        .seen_by(DETAILS)
        .asks(|call| Ok(VmmAction::HotunplugNet(call.id.to_owned()))),
    put("/ext/v1/pmem/{id}", "extAddPmem")
        .about("Adds persistent memory to the running VM")
        .takes::<PmemSpec>(r#"{"id": "pmem1", "path_on_host": "pmem.img"}"#)
        .seen_by(&["extRemovePmem", "extGetVm"])
        .asks(|call| {
            call.read_with_id(&[], |pmem: &PmemSpec| &pmem.id).map(VmmAction::HotplugPmem)
        }),
    delete("/ext/v1/pmem/{id}", "extRemovePmem")
        .about("Removes persistent memory from the running VM, once the guest has let go of it")
        .seen_by(DETAILS)
        .asks(|call| Ok(VmmAction::HotunplugPmem(call.id.to_owned()))),
    put("/ext/v1/filesystems/{fs_id}", "extAddFilesystem")
        .about("Shares the host's directories, before the start or with the running VM")
        .takes::<FilesystemSpec>(
            r#"{"fs_id": "shares", "shares": [{"path": "/srv/www", "is_read_only": true}]}"#,
        )
        .seen_by(&["extRemoveFilesystem", "extGetVm"])
        .asks(|call| {
            call.read_with_id(&[], |filesystem: &FilesystemSpec| &filesystem.fs_id)
                .map(VmmAction::AddFilesystem)
        }),
    delete("/ext/v1/filesystems/{fs_id}", "extRemoveFilesystem")
        .about("Stops sharing: at once before the start, then once the guest has let go of it")
        .seen_by(DETAILS)
        .asks(|call| Ok(VmmAction::RemoveFilesystem(call.id.to_owned()))),
    post("/ext/v1/fork", "extFork")
        .about("Saves one consistent point of the VM, disks included, while it runs")
        .takes::<ForkParams>(
            r#"{"snapshot_path": "vm.state", "mem_file_path": "vm.mem",
            "drives": [{"drive_id": "rootfs", "path_on_host": "root-fork.img"}]}"#,
        )
        .gives::<ForkReport>()
        .seen_by(DETAILS)
        .asks(|call| {
            let fork: ForkParams = call.read(&[])?;
            fork.check()?;
            Ok(VmmAction::Fork(fork))
        }),
    post("/ext/v1/shutdown", "extShutdown")
        .about("Presses the guest's power button, and kills the VM at the deadline")
        .may_take::<ShutdownParams>(r#"{"timeout_ms": 10000}"#)
        .asks(|call| {
            let params: ShutdownParams = call.read_or_default()?;
            if params.timeout_ms > ShutdownParams::MAX_TIMEOUT_MS {
                let most = ShutdownParams::MAX_TIMEOUT_MS;
                let message = format!("timeout_ms: {} is more than {most}.", params.timeout_ms);
                return Err(ApiError::bad_request(message));
            }
            Ok(VmmAction::Shutdown(params))
        }),
    post("/ext/v1/kill", "extKill").about("Ends the VM at once").asks(|_| Ok(VmmAction::Kill)),
    get("/ext/v1/events", "extEvents")
        .about("What happens to the VM, as JSON lines: first what has happened, then what does")
        .streams_events::<Event>(),
    get("/ext/v1/metrics", "extMetrics")
        .about("The VMM's metrics in Prometheus' text format")
        .gives_prometheus()
        .asks(|_| Ok(VmmAction::GetMetrics)),
    get("/ext/v1/timeline", "extTimeline")
        .about("How the VM came up")
        .gives::<Timeline>()
        .asks(|_| Ok(VmmAction::GetTimeline)),
    get("/ext/v1/vm", "extGetVm")
        .about("All that's known of the VM")
        .gives::<VmDetails>()
        .asks(|_| Ok(VmmAction::GetDetails)),
    get("/ext/v1/openapi.json", "extOpenApi").about("This document").gives_openapi(),
];
