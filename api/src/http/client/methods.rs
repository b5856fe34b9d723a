//! What can be asked of a VMM, by name.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Client, ClientError, Response, WireRequest};
use crate::action::VmmAction;
use crate::config::{
    BalloonSpec, DriveSpec, FilesystemSpec, MachineSpec, NetSpec, PmemSpec, VmSpec,
};
use crate::ext::{ForkParams, ForkReport, ShutdownParams, Timeline, VmDetails};
use crate::v1::{
    BalloonStats, CreateSnapshotParams, InstanceInfo, LoadSnapshotParams, MemoryHotplugStatus,
    MemoryHotplugUpdate, VersionInfo,
};

/// Declares methods that ask for one action each.
macro_rules! methods {
    ($($(#[doc = $doc:literal])+ $name:ident($($payload:ident: $type:ty)?) -> $answer:ty = $action:ident;)*) => {
        /// Each fails as [`Client::request`] does.
        #[expect(clippy::missing_errors_doc, reason = "said once, for all")]
        impl Client {
            $(
                $(#[doc = $doc])+
                pub fn $name(&mut self $(, $payload: $type)?) -> Result<$answer, ClientError> {
                    <$answer>::read(&self.act(&VmmAction::$action $(($payload))?)?)
                }
            )*
        }
    };
}

/// What an answer's body is made into.
trait Answer: Sized {
    fn read(response: &Response) -> Result<Self, ClientError>;
}

impl Answer for () {
    fn read(_: &Response) -> Result<Self, ClientError> {
        Ok(())
    }
}

impl Answer for String {
    fn read(response: &Response) -> Result<Self, ClientError> {
        Ok(Self::from_utf8_lossy(&response.body).into_owned())
    }
}

/// The answers that are JSON of a type of their own.
macro_rules! json_answers {
    ($($type:ty),*) => {
        $(impl Answer for $type {
            fn read(response: &Response) -> Result<Self, ClientError> {
                response.json()
            }
        })*
    };
}

json_answers!(
    InstanceInfo,
    VersionInfo,
    VmSpec,
    MachineSpec,
    BalloonSpec,
    BalloonStats,
    MemoryHotplugStatus,
    serde_json::Value,
    ForkReport,
    Timeline,
    VmDetails
);

methods! {
    /// What the VM is and how far.
    instance_info() -> InstanceInfo = GetInstanceInfo;
    /// The version of the VMM.
    version() -> VersionInfo = GetVersion;
    /// The whole configuration.
    vm_config() -> VmSpec = GetVmConfig;
    /// vCPUs and memory.
    machine_config() -> MachineSpec = GetMachineConfig;
    /// Starts the VM.
    start() -> () = InstanceStart;
    /// Presses Ctrl, Alt and Delete in the guest.
    send_ctrl_alt_del() -> () = SendCtrlAltDel;
    /// Makes the VM stand still.
    pause() -> () = Pause;
    /// Makes the VM run on.
    resume() -> () = Resume;
    /// Saves the paused VM. May take as long as memory takes to be written: see
    /// [`Client::set_timeout`].
    create_snapshot(params: CreateSnapshotParams) -> () = CreateSnapshot;
    /// Brings a saved VM back in this VMM, which has none yet.
    load_snapshot(params: LoadSnapshotParams) -> () = LoadSnapshot;
    /// Saves one consistent point of the VM while it runs. May take long, too.
    fork(params: ForkParams) -> ForkReport = Fork;
    /// The balloon's configuration.
    balloon() -> BalloonSpec = GetBalloon;
    /// The balloon's statistics.
    balloon_statistics() -> BalloonStats = GetBalloonStats;
    /// How much memory is plugged.
    memory_hotplug() -> MemoryHotplugStatus = GetMemoryHotplug;
    /// Changes how much memory should be plugged.
    update_memory_hotplug(update: MemoryHotplugUpdate) -> () = UpdateMemoryHotplug;
    /// The metadata.
    mmds() -> serde_json::Value = GetMmds;
    /// Replaces the metadata.
    put_mmds(data: serde_json::Value) -> () = PutMmds;
    /// Changes the metadata by a merge patch.
    patch_mmds(data: serde_json::Value) -> () = PatchMmds;
    /// Adds a drive to the running VM.
    hotplug_drive(drive: DriveSpec) -> () = HotplugDrive;
    /// Removes a drive from the running VM.
    hotunplug_drive(id: String) -> () = HotunplugDrive;
    /// Adds a network interface to the running VM.
    hotplug_net(net: NetSpec) -> () = HotplugNet;
    /// Removes a network interface from the running VM.
    hotunplug_net(id: String) -> () = HotunplugNet;
    /// Adds persistent memory to the running VM.
    hotplug_pmem(pmem: PmemSpec) -> () = HotplugPmem;
    /// Removes persistent memory from the running VM.
    hotunplug_pmem(id: String) -> () = HotunplugPmem;
    /// Shares the host's directories.
    add_filesystem(filesystem: FilesystemSpec) -> () = AddFilesystem;
    /// Stops sharing.
    remove_filesystem(id: String) -> () = RemoveFilesystem;
    /// Writes the metrics to where they are configured to go.
    flush_metrics() -> () = FlushMetrics;
    /// The metrics as Prometheus' text.
    metrics() -> String = GetMetrics;
    /// How the VM came up.
    timeline() -> Timeline = GetTimeline;
    /// All that's known of the VM.
    details() -> VmDetails = GetDetails;
    /// Ends the VM at once.
    kill() -> () = Kill;
}

impl Client {
    /// Asks for any action, and waits for its answer.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn act(&mut self, action: &VmmAction) -> Result<Response, ClientError> {
        self.act_within(action, self.timeout)
    }

    /// Asks for any action whose answer is JSON.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn ask<T: DeserializeOwned>(&mut self, action: &VmmAction) -> Result<T, ClientError> {
        self.act(action)?.json()
    }

    /// Presses the guest's power button, and has the VM killed when it hasn't powered off in
    /// `timeout` (whole milliseconds). The answer may be as long in coming.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn shutdown(&mut self, timeout: Duration) -> Result<(), ClientError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let action = VmmAction::Shutdown(ShutdownParams { timeout_ms });
        self.act_within(&action, self.timeout.saturating_add(timeout)).map(drop)
    }

    fn act_within(
        &mut self,
        action: &VmmAction,
        timeout: Duration,
    ) -> Result<Response, ClientError> {
        let request = WireRequest::of(action).map_err(ClientError::Unexpected)?;
        self.send(&request, timeout)
    }
}
