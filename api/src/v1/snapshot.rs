//! Snapshots: how one is made, and how a VM comes out of one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check;
use crate::config::{ConsoleMode, DiskFormat, MacAddr};
use crate::error::ApiError;
use crate::schema::{EthernetAddress, HostPath, InterfaceName, SocketPath};

/// The body of `PUT /snapshot/create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshotParams {
    /// What of the memory is saved.
    #[serde(default)]
    #[schema(default = "Full")]
    pub snapshot_type: SnapshotType,
    /// The file that the state is written to.
    #[schema(value_type = HostPath)]
    pub snapshot_path: PathBuf,
    /// The file that memory is written to. For a differential snapshot it may be the file of the
    /// snapshot before, which then becomes a full one.
    #[schema(value_type = HostPath)]
    pub mem_file_path: PathBuf,
}

impl CreateSnapshotParams {
    /// Checks what can be without the host.
    ///
    /// # Errors
    /// A path that no file can have, or one path for both files.
    pub fn check(&self) -> Result<(), ApiError> {
        check::distinct_files([
            ("snapshot_path".to_owned(), self.snapshot_path.as_path()),
            ("mem_file_path".to_owned(), self.mem_file_path.as_path()),
        ])
    }
}

/// What of a VM's memory is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum SnapshotType {
    /// All of it.
    #[default]
    Full,
    /// What was written since the snapshot before, or since the VM was loaded.
    Diff,
}

/// The body of `PUT /snapshot/load`, once it's known where the memory is.
///
/// As JSON, memory is either `mem_backend` or, as it was before there were several,
/// `mem_file_path`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "LoadSnapshotBody")]
pub struct LoadSnapshotParams {
    /// The file that the state is in.
    pub snapshot_path: PathBuf,
    /// Where memory comes from.
    pub mem_backend: MemoryBackend,
    /// Whether written pages are logged from the start, as differential snapshots need.
    pub track_dirty_pages: bool,
    /// Whether the VM runs at once; otherwise it's paused.
    pub resume_vm: bool,
    /// Whether the guest's clocks jump by the time since the snapshot, so that its wall clock is
    /// right; `false` lets them go on from there. They jump unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_realtime: Option<bool>,
    /// TAP interfaces to use in place of those in the snapshot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_overrides: Vec<NetworkOverride>,
    /// The socket to use in place of the one in the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_override: Option<VsockOverride>,
    /// Ours: images to use in place of those in the snapshot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drive_overrides: Vec<DriveOverride>,
    /// Ours: a recorded working set to bring into memory at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_set_path: Option<PathBuf>,
    /// Ours: where to record the working set: the pages that the VM touches first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_working_set_path: Option<PathBuf>,
    /// Ours: what makes the VM another one than that in the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_identity: Option<NewIdentity>,
    /// Ours: where the guest's console goes, in place of where it went in the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_override: Option<ConsoleOverride>,
    /// Whether the request used a key that Firecracker has deprecated.
    #[serde(skip)]
    pub deprecated_keys: bool,
}

impl LoadSnapshotParams {
    /// Loads the state in `snapshot_path` with memory from `mem_backend`, and leaves the rest as
    /// it is in the snapshot; the VM is paused.
    #[must_use]
    pub const fn new(snapshot_path: PathBuf, mem_backend: MemoryBackend) -> Self {
        Self {
            snapshot_path,
            mem_backend,
            track_dirty_pages: false,
            resume_vm: false,
            clock_realtime: None,
            network_overrides: Vec::new(),
            vsock_override: None,
            drive_overrides: Vec::new(),
            working_set_path: None,
            record_working_set_path: None,
            new_identity: None,
            console_override: None,
            deprecated_keys: false,
        }
    }

    /// Checks what can be without the host and the snapshot.
    ///
    /// # Errors
    /// A path that no file or socket can have, a device that's named twice, or a context
    /// identifier that no guest can have.
    pub fn check(&self) -> Result<(), ApiError> {
        check::file("snapshot_path", &self.snapshot_path)?;
        match self.mem_backend.backend_type {
            MemoryBackendType::File => {
                check::file("mem_backend.backend_path", &self.mem_backend.backend_path)?;
            }
            MemoryBackendType::Uffd => {
                check::socket("mem_backend.backend_path", &self.mem_backend.backend_path)?;
            }
        }
        let nets = self.network_overrides.iter().map(|net| net.iface_id.as_str());
        check::distinct_ids("network_overrides", nets)?;
        if let Some(vsock) = &self.vsock_override {
            check::socket("vsock_override.uds_path", &vsock.uds_path)?;
        }
        let drives = self.drive_overrides.iter().map(|drive| drive.drive_id.as_str());
        check::distinct_ids("drive_overrides", drives)?;
        for drive in &self.drive_overrides {
            check::file("drive_overrides.path_on_host", &drive.path_on_host)?;
        }
        if let Some(path) = &self.working_set_path {
            check::file("working_set_path", path)?;
        }
        if let Some(path) = &self.record_working_set_path {
            check::file("record_working_set_path", path)?;
        }
        self.new_identity.as_ref().map_or(Ok(()), NewIdentity::check)
    }
}

/// The body of `PUT /snapshot/load`. Exactly one of `mem_file_path` and `mem_backend` must be
/// there.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LoadSnapshotParams)]
pub(crate) struct LoadSnapshotBody {
    /// The file that the state is in.
    #[schema(value_type = HostPath)]
    snapshot_path: PathBuf,
    /// Deprecated: the file that memory is in.
    #[schema(value_type = Option<HostPath>)]
    mem_file_path: Option<PathBuf>,
    /// Where memory comes from.
    mem_backend: Option<MemoryBackend>,
    /// Deprecated: the same as `track_dirty_pages`.
    #[serde(default)]
    enable_diff_snapshots: bool,
    /// Whether written pages are logged from the start, as differential snapshots need.
    #[serde(default)]
    track_dirty_pages: bool,
    /// Whether the VM runs at once; otherwise it's paused.
    #[serde(default)]
    resume_vm: bool,
    /// Whether the guest's clocks jump by the time since the snapshot, so that its wall clock is
    /// right; `false` lets them go on from there. They jump unless said.
    #[schema(default = true)]
    clock_realtime: Option<bool>,
    /// TAP interfaces to use in place of those in the snapshot.
    #[serde(default)]
    network_overrides: Vec<NetworkOverride>,
    /// The socket to use in place of the one in the snapshot.
    vsock_override: Option<VsockOverride>,
    /// Ours: images to use in place of those in the snapshot.
    #[serde(default)]
    drive_overrides: Vec<DriveOverride>,
    /// Ours: a recorded working set to bring into memory at once.
    #[schema(value_type = Option<HostPath>)]
    working_set_path: Option<PathBuf>,
    /// Ours: where to record the working set: the pages that the VM touches first.
    #[schema(value_type = Option<HostPath>)]
    record_working_set_path: Option<PathBuf>,
    /// Ours: what makes the VM another one than that in the snapshot.
    new_identity: Option<NewIdentity>,
    /// Ours: where the guest's console goes, in place of where it went in the snapshot.
    console_override: Option<ConsoleOverride>,
}

impl TryFrom<LoadSnapshotBody> for LoadSnapshotParams {
    type Error = &'static str;

    fn try_from(body: LoadSnapshotBody) -> Result<Self, Self::Error> {
        let deprecated_keys = body.mem_file_path.is_some() || body.enable_diff_snapshots;
        let mem_backend = match (body.mem_backend, body.mem_file_path) {
            (Some(backend), None) => backend,
            (None, Some(backend_path)) => {
                MemoryBackend { backend_type: MemoryBackendType::File, backend_path }
            }
            (None, None) => {
                return Err("missing field: either `mem_backend` or `mem_file_path` is required");
            }
            (Some(_), Some(_)) => {
                return Err(
                    "too many fields: either `mem_backend` or `mem_file_path` exclusively is \
                     required",
                );
            }
        };
        Ok(Self {
            snapshot_path: body.snapshot_path,
            mem_backend,
            track_dirty_pages: body.track_dirty_pages || body.enable_diff_snapshots,
            resume_vm: body.resume_vm,
            clock_realtime: body.clock_realtime,
            network_overrides: body.network_overrides,
            vsock_override: body.vsock_override,
            drive_overrides: body.drive_overrides,
            working_set_path: body.working_set_path,
            record_working_set_path: body.record_working_set_path,
            new_identity: body.new_identity,
            console_override: body.console_override,
            deprecated_keys,
        })
    }
}

/// Where a snapshot's memory comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryBackend {
    /// Who fills memory.
    pub backend_type: MemoryBackendType,
    /// The memory file, or the Unix socket of the process that serves page faults.
    #[schema(value_type = HostPath)]
    pub backend_path: PathBuf,
}

/// Who fills a snapshot's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum MemoryBackendType {
    /// The host's kernel, by a private mapping of the memory file.
    File,
    /// A process that's handed a userfaultfd over its socket.
    Uffd,
}

/// A TAP interface, or the socket of a user-mode network, to use in place of that in the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkOverride {
    /// The interface's identifier.
    pub iface_id: String,
    /// The TAP interface. Required, unless there's a `socket`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Option<InterfaceName>)]
    pub host_dev_name: String,
    /// Ours: the socket, as in a network interface's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SocketPath>)]
    pub socket: Option<PathBuf>,
}

/// The socket to use in place of that in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VsockOverride {
    /// The Unix socket on the host through which ports are reached.
    #[schema(value_type = SocketPath)]
    pub uds_path: PathBuf,
}

/// An image to use in place of that in the snapshot. Its contents must be what the guest knows.
///
/// With `overlay`, the image is made: empty, over the one in the snapshot, which isn't written any
/// more, so that several VMs can share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DriveOverride {
    /// The drive's identifier.
    pub drive_id: String,
    /// The image.
    #[schema(value_type = HostPath)]
    pub path_on_host: PathBuf,
    /// The image's format; without it, that in the snapshot. An overlay's is `qcow2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// The files that follow the image, for a drive of several; without it, those in the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256, value_type = Option<Vec<HostPath>>)]
    pub concat: Option<Vec<PathBuf>>,
    /// Whether to make the image, as a qcow2 overlay over the one in the snapshot. A file that's
    /// there already is refused; the overlay goes again if the snapshot can't be loaded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overlay: bool,
}

/// Where the guest's console goes, in place of where it went in the snapshot. The device that the
/// guest sees stays the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsoleOverride {
    /// What it's connected to.
    pub mode: ConsoleMode,
    /// The file, for the mode `file`; the socket, for the mode `socket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HostPath>)]
    pub path: Option<PathBuf>,
}

/// What makes a VM another one than that in the snapshot that it comes out of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewIdentity {
    /// New Ethernet addresses. The guest's driver reads its interface's when it next binds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mac_addresses: Vec<NewMac>,
    /// A new context identifier, at least 3; the guest's driver is told by an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 3, maximum = 4_294_967_294_u32)]
    pub guest_cid: Option<u32>,
}

impl NewIdentity {
    fn check(&self) -> Result<(), ApiError> {
        let nets = self.mac_addresses.iter().map(|mac| mac.iface_id.as_str());
        check::distinct_ids("new_identity.mac_addresses", nets)?;
        match self.guest_cid {
            // 0 to 2 are the hypervisor, the loopback and the host; the last one is any.
            Some(cid @ (0..=2 | u32::MAX)) => {
                let problem = format!("{cid} is not from 3 to 4294967294");
                Err(check::wrong("new_identity.guest_cid", &problem))
            }
            _ => Ok(()),
        }
    }
}

/// An interface's new Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMac {
    /// The interface's identifier.
    pub iface_id: String,
    /// The address.
    #[schema(value_type = EthernetAddress)]
    pub guest_mac: MacAddr,
}
