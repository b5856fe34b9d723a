//! Persistent memory, and memory that's plugged and unplugged.

use std::path::PathBuf;

use super::super::{MemoryHotplugSpec, PmemSpec, RateLimiter};

/// A file that the guest sees as persistent memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PmemConfig {
    /// Its unique name on the host's side.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// Whether the guest's root file system is on it.
    pub is_root: bool,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Limits of what the guest may flush.
    pub rate_limiter: RateLimiter,
}

/// Memory that's plugged into the running guest and unplugged from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryHotplugConfig {
    /// How much there may be in all, in MiB: a multiple of `slot_mib`.
    pub total_mib: u64,
    /// The least that the guest plugs at a time, in MiB: a power of two, at least 2.
    pub block_mib: u64,
    /// The least that the host takes back at a time, in MiB: a multiple of `block_mib`, at least
    /// 128.
    pub slot_mib: u64,
}

impl From<PmemConfig> for PmemSpec {
    fn from(pmem: PmemConfig) -> Self {
        Self {
            id: pmem.id,
            path_on_host: pmem.path,
            root_device: pmem.is_root,
            read_only: pmem.read_only,
            rate_limiter: super::written(pmem.rate_limiter),
        }
    }
}

impl From<MemoryHotplugConfig> for MemoryHotplugSpec {
    fn from(memory: MemoryHotplugConfig) -> Self {
        Self {
            total_size_mib: memory.total_mib,
            block_size_mib: Some(memory.block_mib),
            slot_size_mib: Some(memory.slot_mib),
        }
    }
}
