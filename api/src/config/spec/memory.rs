//! Persistent memory, and memory that's plugged and unplugged.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RateLimiter;
use crate::schema::{HostPath, ResourceId};

/// An element of `pmem`: a file that the guest sees as persistent memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PmemSpec {
    /// Its name on the host's side, unique among these devices.
    #[schema(value_type = ResourceId)]
    pub id: String,
    /// The file.
    #[schema(value_type = HostPath)]
    pub path_on_host: PathBuf,
    /// Whether the guest's root file system is on it: adds `root=` to the command line.
    #[serde(default)]
    pub root_device: bool,
    /// Whether the guest may only read.
    #[serde(default)]
    pub read_only: bool,
    /// Limits of what the guest may flush.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `memory-hotplug`: memory that's plugged into the running guest and unplugged from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryHotplugSpec {
    /// How much there may be in all, in MiB: a multiple of `slot_size_mib`.
    #[schema(minimum = 128, maximum = 67_108_864)]
    pub total_size_mib: u64,
    /// The least that the guest plugs at a time, in MiB: a power of two, 2 unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 2, maximum = 67_108_864)]
    pub block_size_mib: Option<u64>,
    /// The least that the host takes back at a time, in MiB: a multiple of `block_size_mib` and at
    /// least 128, which it is unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 128, maximum = 67_108_864)]
    pub slot_size_mib: Option<u64>,
}
