//! The bodies of our own API, below `/ext/v1/`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::VmSpec;
use crate::error::ApiError;
use crate::event::Event;
use crate::schema::{HostPath, ResourceId};
use crate::v1::{InstanceState, check};

/// The body of `POST /ext/v1/shutdown`; it may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShutdownParams {
    /// How long the guest has to power itself off after its power button was pressed, in
    /// milliseconds; then the VM is killed. 30 seconds unless said.
    #[serde(default = "ShutdownParams::default_timeout")]
    #[schema(default = 30_000, maximum = 86_400_000)]
    pub timeout_ms: u64,
}

impl ShutdownParams {
    /// The longest that a guest may be given, in milliseconds: a day.
    pub const MAX_TIMEOUT_MS: u64 = 86_400_000;

    const fn default_timeout() -> u64 {
        30_000
    }
}

impl Default for ShutdownParams {
    fn default() -> Self {
        Self { timeout_ms: Self::default_timeout() }
    }
}

/// The body of `POST /ext/v1/fork`: where one consistent point of a running VM goes.
///
/// The VM runs on; it stands still only while its devices are saved. Others come out of the files
/// by `PUT /snapshot/load`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkParams {
    /// The file that the state is written to.
    #[schema(value_type = HostPath)]
    pub snapshot_path: PathBuf,
    /// The file that memory is written to.
    #[schema(value_type = HostPath)]
    pub mem_file_path: PathBuf,
    /// Where each drive that the guest can write goes; all of them must be named.
    #[serde(default)]
    pub drives: Vec<ForkDrive>,
}

impl ForkParams {
    /// Checks what can be without the host and the VM.
    ///
    /// # Errors
    /// A path that no file can have, one path for two files, or a drive that's named twice.
    pub fn check(&self) -> Result<(), ApiError> {
        check::distinct_ids("drives", self.drives.iter().map(|drive| drive.drive_id.as_str()))?;
        let drives = self.drives.iter().enumerate().map(|(index, drive)| {
            (format!("drives[{index}].path_on_host"), drive.path_on_host.as_path())
        });
        let files = [
            ("snapshot_path".to_owned(), self.snapshot_path.as_path()),
            ("mem_file_path".to_owned(), self.mem_file_path.as_path()),
        ];
        check::distinct_files(files.into_iter().chain(drives))
    }
}

/// Where a drive goes when a VM is forked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkDrive {
    /// The drive.
    #[schema(value_type = ResourceId)]
    pub drive_id: String,
    /// The file that's made: the drive as it is at that point.
    #[schema(value_type = HostPath)]
    pub path_on_host: PathBuf,
}

/// The answer to `POST /ext/v1/fork`, once all files are complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForkReport {
    /// How long the VM stood still, in nanoseconds.
    pub paused_ns: u64,
    /// How long it took until all files were complete, in nanoseconds.
    pub total_ns: u64,
    /// How many pages were saved at the guest's first write to them, ahead of their turn.
    pub faulted_pages: u64,
    /// What became of each drive that the guest can write.
    #[serde(default)]
    pub drives: Vec<ForkedDrive>,
}

/// What became of a drive when its VM was forked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForkedDrive {
    /// The drive.
    #[schema(value_type = ResourceId)]
    pub drive_id: String,
    /// The fork's image.
    #[schema(value_type = HostPath)]
    pub path_on_host: PathBuf,
    /// The image that the fork's builds upon, if the file system couldn't share blocks between
    /// independent files. From now on it may only be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HostPath>)]
    pub overlay_of: Option<PathBuf>,
    /// The image that the VM itself writes to from now on, if it's another one than before; it
    /// builds upon `overlay_of`, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HostPath>)]
    pub origin_path: Option<PathBuf>,
}

/// The answer to `GET /ext/v1/timeline`: how the VM came up, the earliest event first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Timeline {
    /// What happened, with times by `CLOCK_MONOTONIC`.
    pub events: Vec<Event>,
}

/// The answer to `GET /ext/v1/vm`: all that's known of a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmDetails {
    /// The VM's identifier.
    pub id: String,
    /// How far the VM is.
    pub state: InstanceState,
    /// The version of the VMM.
    pub vmm_version: String,
    /// The process of the VMM.
    pub pid: u32,
    /// Since when the VM has run or stood still, by `CLOCK_MONOTONIC` in nanoseconds; absent if it
    /// hasn't started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ns: Option<u64>,
    /// `CLOCK_MONOTONIC` at the answer, in nanoseconds.
    pub now_ns: u64,
    /// The snapshot that it came out of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HostPath>)]
    pub restored_from: Option<PathBuf>,
    /// Its devices, in the order that the guest sees them.
    #[serde(default)]
    pub devices: Vec<DeviceDetails>,
    /// Its configuration, as `GET /vm/config` has it.
    pub config: VmSpec,
}

/// A device of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDetails {
    /// Its name on the host's side; for a device of which there's one only, its kind.
    pub id: String,
    /// What it is: `block`, `net`, `vsock`, `rng`, `balloon`, `console`, `pmem`, `fs` or `mem`.
    pub kind: String,
    /// Where it is: a PCI function such as `0000:00:03.0`, or an address such as `0xd0000000`.
    pub address: String,
    /// Whether the guest's driver has taken it into use.
    pub active: bool,
    /// Whether it's been added since the VM started.
    pub hotplugged: bool,
}
