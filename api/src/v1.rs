//! The bodies of Firecracker's v1 API beyond those that are parts of a configuration, which are in
//! [`config`](crate::config).
//!
//! Each refuses keys that it doesn't know. What a client reads accepts them: a later VMM may say
//! more.

mod balloon;
pub(crate) mod check;
mod instance;
mod memory;
mod snapshot;
mod update;

pub use balloon::{
    BalloonHintingStatus, BalloonStats, BalloonStatsUpdate, BalloonUpdate, StartHinting,
};
pub use instance::{
    ActionType, InstanceAction, InstanceInfo, InstanceState, TargetState, VersionInfo, VmTarget,
};
pub use memory::{MemoryHotplugStatus, MemoryHotplugUpdate};
pub(crate) use snapshot::LoadSnapshotBody;
pub use snapshot::{
    ConsoleOverride, CreateSnapshotParams, DriveOverride, LoadSnapshotParams, MemoryBackend,
    MemoryBackendType, NetworkOverride, NewIdentity, NewMac, SnapshotType, VsockOverride,
};
pub use update::{MachinePatch, PatchDrive, PatchNet, PatchPmem};
