//! Hot-plugged memory while the VM runs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of `PATCH /hotplug/memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryHotplugUpdate {
    /// How much should be plugged, in MiB: a multiple of `block_size_mib`, at most
    /// `total_size_mib`.
    #[schema(maximum = 67_108_864)]
    pub requested_size_mib: u64,
}

/// The answer to `GET /hotplug/memory`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryHotplugStatus {
    /// How much there may be in all, in MiB.
    pub total_size_mib: u64,
    /// The least that the host takes back at a time, in MiB.
    pub slot_size_mib: u64,
    /// The least that the guest plugs at a time, in MiB.
    pub block_size_mib: u64,
    /// How much is plugged, in MiB.
    pub plugged_size_mib: u64,
    /// How much should be plugged, in MiB.
    pub requested_size_mib: u64,
}
