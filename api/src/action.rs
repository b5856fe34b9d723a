//! The whole control surface of a VMM: everything that can be asked of it, and what it answers.

use serde_json::Value;

use crate::config::{
    BalloonSpec, BootSourceSpec, CpuTemplate, DriveSpec, EntropySpec, FilesystemSpec, LoggerSpec,
    MachineSpec, MemoryHotplugSpec, MetricsSpec, MmdsSpec, NetSpec, PmemSpec, SerialSpec, VmSpec,
    VsockSpec,
};
use crate::ext::{ForkParams, ForkReport, ShutdownParams, Timeline, VmDetails};
use crate::v1::{
    BalloonHintingStatus, BalloonStats, BalloonStatsUpdate, BalloonUpdate, CreateSnapshotParams,
    InstanceInfo, LoadSnapshotParams, MachinePatch, MemoryHotplugStatus, MemoryHotplugUpdate,
    PatchDrive, PatchNet, PatchPmem, StartHinting,
};

/// Declares [`VmmAction`] and the names of its variants.
macro_rules! actions {
    ($($(#[doc = $doc:literal])+ $variant:ident $(($payload:ty))? = $name:literal,)*) => {
        /// Something that can be asked of a VMM.
        #[derive(Clone, Debug, PartialEq)]
        pub enum VmmAction {
            $($(#[doc = $doc])+ $variant $(($payload))?,)*
        }

        impl VmmAction {
            /// A stable name, for logs and metrics.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)*
                }
            }

            /// The names of all actions.
            pub const NAMES: &'static [&'static str] = &[$($name),*];
        }
    };
}

actions! {
    /// What the VM is and how far.
    GetInstanceInfo = "get_instance_info",
    /// The version of the VMM.
    GetVersion = "get_version",
    /// The whole configuration.
    GetVmConfig = "get_vm_config",
    /// What to boot. Before the start.
    ConfigureBootSource(BootSourceSpec) = "configure_boot_source",
    /// Adds a drive or replaces the one of its name. Before the start.
    InsertDrive(DriveSpec) = "insert_drive",
    /// Changes a drive's image or limits. After the start.
    UpdateDrive(PatchDrive) = "update_drive",
    /// Adds a network interface or replaces the one of its name. Before the start.
    InsertNet(NetSpec) = "insert_net",
    /// Changes a network interface's limits. After the start.
    UpdateNet(PatchNet) = "update_net",
    /// vCPUs and memory.
    GetMachineConfig = "get_machine_config",
    /// vCPUs and memory, all of it. Before the start.
    SetMachineConfig(MachineSpec) = "set_machine_config",
    /// vCPUs and memory, some of it. Before the start.
    UpdateMachineConfig(MachinePatch) = "update_machine_config",
    /// Sockets between host and guest. Before the start.
    SetVsock(VsockSpec) = "set_vsock",
    /// A source of randomness. Before the start.
    SetEntropy(EntropySpec) = "set_entropy",
    /// A balloon. Before the start.
    SetBalloon(BalloonSpec) = "set_balloon",
    /// The balloon's configuration.
    GetBalloon = "get_balloon",
    /// Changes how much the guest should give back.
    UpdateBalloon(BalloonUpdate) = "update_balloon",
    /// The balloon's statistics. After the start.
    GetBalloonStats = "get_balloon_stats",
    /// Changes how often statistics are asked for.
    UpdateBalloonStats(BalloonStatsUpdate) = "update_balloon_stats",
    /// Asks the guest which pages it has free. After the start.
    StartHinting(StartHinting) = "start_hinting",
    /// Lets the guest have its free pages back. After the start.
    StopHinting = "stop_hinting",
    /// How far hinting is. After the start.
    GetHintingStatus = "get_hinting_status",
    /// Adds persistent memory or replaces that of its name. Before the start.
    InsertPmem(PmemSpec) = "insert_pmem",
    /// Changes the limits of persistent memory. After the start.
    UpdatePmem(PatchPmem) = "update_pmem",
    /// Memory that can be plugged. Before the start.
    SetMemoryHotplug(MemoryHotplugSpec) = "set_memory_hotplug",
    /// How much memory is plugged.
    GetMemoryHotplug = "get_memory_hotplug",
    /// Changes how much memory should be plugged. After the start.
    UpdateMemoryHotplug(MemoryHotplugUpdate) = "update_memory_hotplug",
    /// The metadata service. Before the start.
    SetMmdsConfig(MmdsSpec) = "set_mmds_config",
    /// Replaces the metadata; an object.
    PutMmds(Value) = "put_mmds",
    /// Changes the metadata by a merge patch (RFC 7396); an object.
    PatchMmds(Value) = "patch_mmds",
    /// The metadata.
    GetMmds = "get_mmds",
    /// The VMM's log.
    ConfigureLogger(LoggerSpec) = "configure_logger",
    /// The VMM's metrics. Before the start.
    ConfigureMetrics(MetricsSpec) = "configure_metrics",
    /// The output of the guest's serial port. Before the start.
    ConfigureSerial(SerialSpec) = "configure_serial",
    /// What the guest's CPUs announce. Before the start.
    SetCpuConfig(CpuTemplate) = "set_cpu_config",
    /// Starts the VM.
    InstanceStart = "instance_start",
    /// Asks the guest to shut down. After the start.
    SendCtrlAltDel = "send_ctrl_alt_del",
    /// Writes the metrics now. After the start.
    FlushMetrics = "flush_metrics",
    /// Makes the VM stand still. After the start.
    Pause = "pause",
    /// Makes the VM run on. After the start.
    Resume = "resume",
    /// Saves the VM, which must be paused.
    CreateSnapshot(CreateSnapshotParams) = "create_snapshot",
    /// Brings a saved VM back, in a VMM in which nothing but log and metrics is configured.
    LoadSnapshot(LoadSnapshotParams) = "load_snapshot",
    /// Ours: adds a drive while the VM runs.
    HotplugDrive(DriveSpec) = "hotplug_drive",
    /// Ours: removes the drive of this identifier while the VM runs.
    HotunplugDrive(String) = "hotunplug_drive",
    /// Ours: adds a network interface while the VM runs.
    HotplugNet(NetSpec) = "hotplug_net",
    /// Ours: removes the network interface of this identifier while the VM runs.
    HotunplugNet(String) = "hotunplug_net",
    /// Ours: adds persistent memory while the VM runs.
    HotplugPmem(PmemSpec) = "hotplug_pmem",
    /// Ours: removes the persistent memory of this identifier while the VM runs.
    HotunplugPmem(String) = "hotunplug_pmem",
    /// Ours: adds a file system: to the configuration, replacing that of its name, before the start;
    /// to the VM while it runs.
    AddFilesystem(FilesystemSpec) = "add_filesystem",
    /// Ours: removes the file system of this identifier, before the start or while the VM runs.
    RemoveFilesystem(String) = "remove_filesystem",
    /// Ours: saves one consistent point of the VM while it runs.
    Fork(ForkParams) = "fork",
    /// Ours: presses the guest's power button, and kills the VM at the deadline.
    Shutdown(ShutdownParams) = "shutdown",
    /// Ours: ends the VM at once.
    Kill = "kill",
    /// Ours: the VMM's metrics as Prometheus' text.
    GetMetrics = "get_metrics",
    /// Ours: how the VM came up.
    GetTimeline = "get_timeline",
    /// Ours: all that's known of the VM.
    GetDetails = "get_details",
}

/// What a VMM answers when it did what was asked.
#[derive(Clone, Debug, PartialEq)]
pub enum VmmData {
    /// It's done, and there's nothing to say.
    Empty,
    /// What the VM is and how far.
    InstanceInfo(InstanceInfo),
    /// The version of the VMM.
    Version(String),
    /// The whole configuration.
    VmConfig(Box<VmSpec>),
    /// vCPUs and memory, every key written out.
    MachineConfig(MachineSpec),
    /// The balloon's configuration.
    Balloon(BalloonSpec),
    /// The balloon's statistics.
    BalloonStats(Box<BalloonStats>),
    /// How far hinting is.
    HintingStatus(BalloonHintingStatus),
    /// How much memory is plugged.
    MemoryHotplug(MemoryHotplugStatus),
    /// The metadata; `null` where there's none.
    Mmds(Value),
    /// How a fork went.
    Fork(ForkReport),
    /// Metrics in Prometheus' text format, version 0.0.4.
    Metrics(String),
    /// How the VM came up.
    Timeline(Timeline),
    /// All that's known of the VM.
    Details(Box<VmDetails>),
}
