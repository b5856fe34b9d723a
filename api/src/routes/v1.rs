//! Firecracker's paths.

use super::Route;
use super::table::{get, patch, put};
use crate::action::VmmAction;
use crate::config::{
    BalloonSpec, BootSourceSpec, CpuTemplate, DriveSpec, EntropySpec, LoggerSpec, MachineSpec,
    MemoryHotplugSpec, MetricsSpec, MmdsSpec, NetSpec, PmemSpec, SerialSpec, VmSpec, VsockSpec,
};
use crate::error::ApiError;
use crate::schema::MmdsContents;
use crate::v1::{
    ActionType, BalloonHintingStatus, BalloonStats, BalloonStatsUpdate, BalloonUpdate,
    CreateSnapshotParams, InstanceAction, InstanceInfo, LoadSnapshotBody, LoadSnapshotParams,
    MachinePatch, MemoryHotplugStatus, MemoryHotplugUpdate, PatchDrive, PatchNet, PatchPmem,
    StartHinting, TargetState, VersionInfo, VmTarget,
};

/// What shows the effect of most changes.
const CONFIG: &[&str] = &["getExportVmConfig"];

pub(super) const ROUTES: &[Route] = &[
    get("/", "describeInstance")
        .about("What the VM is and how far")
        .gives::<InstanceInfo>()
        .asks(|_| Ok(VmmAction::GetInstanceInfo)),
    put("/actions", "createSyncAction")
        .about("Starts the VM, asks the guest to shut down, or writes the metrics")
        .takes::<InstanceAction>(r#"{"action_type": "InstanceStart"}"#)
        .seen_by(&["describeInstance"])
        .asks(|call| {
            let action: InstanceAction = call.read(&[])?;
            Ok(match action.action_type {
                ActionType::InstanceStart => VmmAction::InstanceStart,
                ActionType::SendCtrlAltDel => VmmAction::SendCtrlAltDel,
                ActionType::FlushMetrics => VmmAction::FlushMetrics,
            })
        }),
    get("/balloon", "describeBalloonConfig")
        .about("The balloon's configuration")
        .gives::<BalloonSpec>()
        .asks(|_| Ok(VmmAction::GetBalloon)),
    put("/balloon", "putBalloon")
        .about("Sets the balloon; before the start")
        .takes::<BalloonSpec>(r#"{"amount_mib": 16, "deflate_on_oom": true}"#)
        .seen_by(&["describeBalloonConfig", "patchBalloon"])
        .asks(|call| call.read(&["amount_mib", "deflate_on_oom"]).map(VmmAction::SetBalloon)),
    patch("/balloon", "patchBalloon")
        .about("Changes how much the guest should give back; after the start")
        .takes::<BalloonUpdate>(r#"{"amount_mib": 32}"#)
        .seen_by(&["describeBalloonConfig", "describeBalloonStats"])
        .asks(|call| call.read(&[]).map(VmmAction::UpdateBalloon)),
    get("/balloon/statistics", "describeBalloonStats")
        .about("The balloon's statistics; after the start, if they were turned on before it")
        .gives::<BalloonStats>()
        .asks(|_| Ok(VmmAction::GetBalloonStats)),
    patch("/balloon/statistics", "patchBalloonStatsInterval")
        .about("Changes how often statistics are asked for, if they are at all")
        .takes::<BalloonStatsUpdate>(r#"{"stats_polling_interval_s": 5}"#)
        .seen_by(&["describeBalloonConfig", "describeBalloonStats"])
        .asks(|call| call.read(&[]).map(VmmAction::UpdateBalloonStats)),
    patch("/balloon/hinting/start", "startBalloonHinting")
        .about("Asks the guest which pages it has free; after the start")
        .may_take::<StartHinting>(r#"{"acknowledge_on_stop": true}"#)
        .seen_by(&["describeBalloonHinting", "stopBalloonHinting"])
        .asks(|call| call.read_or_default().map(VmmAction::StartHinting)),
    get("/balloon/hinting/status", "describeBalloonHinting")
        .about("How far hinting is; after the start")
        .gives::<BalloonHintingStatus>()
        .asks(|_| Ok(VmmAction::GetHintingStatus)),
    patch("/balloon/hinting/stop", "stopBalloonHinting")
        .about("Lets the guest have its free pages back; after the start")
        .ignores_body()
        .seen_by(&["describeBalloonHinting"])
        .asks(|_| Ok(VmmAction::StopHinting)),
    put("/boot-source", "putGuestBootSource")
        .about("Sets what to boot; before the start")
        .takes::<BootSourceSpec>(r#"{"kernel_image_path": "vmlinux"}"#)
        .seen_by(CONFIG)
        .asks(|call| call.read(&["kernel_image_path"]).map(VmmAction::ConfigureBootSource)),
    put("/cpu-config", "putCpuConfiguration")
        .about("Sets what the guest's CPUs announce; before the start")
        .takes::<CpuTemplate>(
            r#"{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0,
            "modifiers": [{"register": "ecx", "bitmap": "0b0xxxxxxx"}]}]}"#,
        )
        .seen_by(CONFIG)
        .asks(|call| call.read(&[]).map(VmmAction::SetCpuConfig)),
    put("/drives/{drive_id}", "putGuestDriveByID")
        .about("Adds a drive or replaces the one of its name; before the start")
        .takes::<DriveSpec>(
            r#"{"drive_id": "rootfs", "path_on_host": "root.img", "is_root_device": true,
            "is_read_only": true}"#,
        )
        .seen_by(&["getExportVmConfig", "patchGuestDriveByID"])
        .asks(|call| {
            call.read_with_id(&["drive_id", "is_root_device"], |drive: &DriveSpec| &drive.drive_id)
                .map(VmmAction::InsertDrive)
        }),
    patch("/drives/{drive_id}", "patchGuestDriveByID")
        .about("Changes a drive's image or limits; after the start")
        .takes::<PatchDrive>(r#"{"drive_id": "rootfs", "path_on_host": "other.img"}"#)
        .seen_by(CONFIG)
        .asks(|call| {
            let patch = call.read_with_id(&[], |drive: &PatchDrive| &drive.drive_id)?;
            patch.check()?;
            Ok(VmmAction::UpdateDrive(patch))
        }),
    put("/entropy", "putEntropyDevice")
        .about("Adds a source of randomness; before the start")
        .takes::<EntropySpec>("{}")
        .seen_by(CONFIG)
        .asks(|call| call.read(&[]).map(VmmAction::SetEntropy)),
    get("/hotplug/memory", "getMemoryHotplug")
        .about("How much memory is plugged")
        .gives::<MemoryHotplugStatus>()
        .asks(|_| Ok(VmmAction::GetMemoryHotplug)),
    put("/hotplug/memory", "putMemoryHotplug")
        .about("Sets how much memory can be plugged; before the start")
        .takes::<MemoryHotplugSpec>(r#"{"total_size_mib": 1024}"#)
        .seen_by(&["getMemoryHotplug", "patchMemoryHotplug"])
        .asks(|call| call.read(&[]).map(VmmAction::SetMemoryHotplug)),
    patch("/hotplug/memory", "patchMemoryHotplug")
        .about("Changes how much memory should be plugged; after the start")
        .takes::<MemoryHotplugUpdate>(r#"{"requested_size_mib": 512}"#)
        .seen_by(&["getMemoryHotplug"])
        .asks(|call| call.read(&[]).map(VmmAction::UpdateMemoryHotplug)),
    put("/logger", "putLogger")
        .about("Sets where the VMM's log goes; before the start")
        .takes::<LoggerSpec>(r#"{"log_path": "vmm.log", "level": "Info"}"#)
        .seen_by(CONFIG)
        .asks(|call| call.read(&[]).map(VmmAction::ConfigureLogger)),
    get("/machine-config", "getMachineConfiguration")
        .about("vCPUs and memory")
        .gives::<MachineSpec>()
        .asks(|_| Ok(VmmAction::GetMachineConfig)),
    put("/machine-config", "putMachineConfiguration")
        .about("Sets vCPUs and memory; before the start")
        .takes::<MachineSpec>(r#"{"vcpu_count": 2, "mem_size_mib": 256}"#)
        .seen_by(&["getMachineConfiguration", "patchMachineConfiguration"])
        .asks(|call| call.read(&["vcpu_count", "mem_size_mib"]).map(VmmAction::SetMachineConfig)),
    patch("/machine-config", "patchMachineConfiguration")
        .about("Changes vCPUs or memory; before the start")
        .takes::<MachinePatch>(r#"{"mem_size_mib": 512}"#)
        .seen_by(&["getMachineConfiguration"])
        .asks(|call| {
            let patch: MachinePatch = call.read(&[])?;
            if patch == MachinePatch::default() {
                return Err(ApiError::bad_request("Empty PATCH request: nothing is to change."));
            }
            Ok(VmmAction::UpdateMachineConfig(patch))
        }),
    put("/metrics", "putMetrics")
        .about("Sets where the VMM's metrics go; before the start, once")
        .takes::<MetricsSpec>(r#"{"metrics_path": "metrics.json"}"#)
        .seen_by(CONFIG)
        .asks(|call| call.read(&[]).map(VmmAction::ConfigureMetrics)),
    get("/mmds", "getMmds")
        .about("The metadata")
        .gives::<MmdsContents>()
        .asks(|_| Ok(VmmAction::GetMmds)),
    put("/mmds", "putMmds")
        .about("Replaces the metadata")
        .takes::<MmdsContents>(r#"{"latest": {"meta-data": {"ami-id": "ami-12345678"}}}"#)
        .seen_by(&["getMmds", "patchMmds"])
        .asks(|call| call.read_object().map(VmmAction::PutMmds)),
    patch("/mmds", "patchMmds")
        .about("Changes the metadata by a merge patch (RFC 7396)")
        .takes::<MmdsContents>(r#"{"latest": {"meta-data": {"ami-id": null}}}"#)
        .seen_by(&["getMmds"])
        .asks(|call| call.read_object().map(VmmAction::PatchMmds)),
    put("/mmds/config", "putMmdsConfig")
        .about("Sets how guests reach the metadata; before the start")
        .takes::<MmdsSpec>(r#"{"version": "V2", "network_interfaces": ["eth0"]}"#)
        .seen_by(CONFIG)
        .asks(|call| call.read(&[]).map(VmmAction::SetMmdsConfig)),
    put("/network-interfaces/{iface_id}", "putGuestNetworkInterfaceByID")
        .about("Adds a network interface or replaces the one of its name; before the start")
        .takes::<NetSpec>(r#"{"iface_id": "eth0", "host_dev_name": "tap0"}"#)
        .seen_by(&["getExportVmConfig", "patchGuestNetworkInterfaceByID"])
        .asks(|call| {
            call.read_with_id(&["iface_id", "host_dev_name|socket"], |net: &NetSpec| &net.iface_id)
                .map(VmmAction::InsertNet)
        }),
    patch("/network-interfaces/{iface_id}", "patchGuestNetworkInterfaceByID")
        .about("Changes a network interface's limits; after the start")
        .takes::<PatchNet>(
            r#"{"iface_id": "eth0",
            "rx_rate_limiter": {"bandwidth": {"size": 1048576, "refill_time": 1000}}}"#,
        )
        .seen_by(CONFIG)
        .asks(|call| {
            call.read_with_id(&[], |net: &PatchNet| &net.iface_id).map(VmmAction::UpdateNet)
        }),
    put("/pmem/{id}", "putGuestPmemByID")
        .about("Adds persistent memory or replaces that of its name; before the start")
        .takes::<PmemSpec>(r#"{"id": "pmem0", "path_on_host": "pmem.img"}"#)
        .seen_by(&["getExportVmConfig", "patchGuestPmemByID"])
        .asks(|call| call.read_with_id(&[], |pmem: &PmemSpec| &pmem.id).map(VmmAction::InsertPmem)),
    patch("/pmem/{id}", "patchGuestPmemByID")
        .about("Changes the limits of persistent memory; after the start")
        .takes::<PatchPmem>(
            r#"{"id": "pmem0", "rate_limiter": {"ops": {"size": 100, "refill_time": 1000}}}"#,
        )
        .seen_by(CONFIG)
        .asks(|call| {
            call.read_with_id(&[], |pmem: &PatchPmem| &pmem.id).map(VmmAction::UpdatePmem)
        }),
    put("/serial", "putSerialDevice")
        .about("Sets where the output of the guest's serial port goes; before the start")
        .takes::<SerialSpec>(r#"{"serial_out_path": "console.log"}"#)
        .seen_by(CONFIG)
        .asks(|call| call.read(&[]).map(VmmAction::ConfigureSerial)),
    put("/snapshot/create", "createSnapshot")
        .about("Saves the VM, which must be paused")
        .takes::<CreateSnapshotParams>(
            r#"{"snapshot_path": "vm.state", "mem_file_path": "vm.mem"}"#,
        )
        .seen_by(&["describeInstance"])
        .asks(|call| {
            let create: CreateSnapshotParams = call.read(&[])?;
            create.check()?;
            Ok(VmmAction::CreateSnapshot(create))
        }),
    put("/snapshot/load", "loadSnapshot")
        .about("Brings a saved VM back; before the start, with nothing but log and metrics set")
        .takes::<LoadSnapshotBody>(
            r#"{"snapshot_path": "vm.state",
            "mem_backend": {"backend_type": "File", "backend_path": "vm.mem"}}"#,
        )
        .seen_by(&["describeInstance", "getExportVmConfig"])
        .asks(|call| {
            let load: LoadSnapshotParams = call.read(&[])?;
            load.check()?;
            Ok(VmmAction::LoadSnapshot(load))
        }),
    get("/version", "getFirecrackerVersion")
        .about("The version of the VMM")
        .gives::<VersionInfo>()
        .asks(|_| Ok(VmmAction::GetVersion)),
    patch("/vm", "patchVm")
        .about("Makes the VM stand still or run on; after the start")
        .takes::<VmTarget>(r#"{"state": "Paused"}"#)
        .seen_by(&["describeInstance"])
        .asks(|call| {
            let target: VmTarget = call.read(&[])?;
            Ok(match target.state {
                TargetState::Paused => VmmAction::Pause,
                TargetState::Resumed => VmmAction::Resume,
            })
        }),
    get("/vm/config", "getExportVmConfig")
        .about("The whole configuration")
        .gives::<VmSpec>()
        .asks(|_| Ok(VmmAction::GetVmConfig)),
    put("/vsock", "putGuestVsock")
        .about("Adds sockets between host and guest; before the start")
        .takes::<VsockSpec>(r#"{"guest_cid": 3, "uds_path": "v.sock"}"#)
        .seen_by(CONFIG)
        .asks(|call| call.read(&[]).map(VmmAction::SetVsock)),
];
