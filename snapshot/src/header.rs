//! What every version of this program can read of every snapshot.
//!
//! The header never loses or renames a field, and none becomes required: what an older writer didn't
//! know has its default, what a newer one added is passed over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::id::SnapshotId;
use crate::memory::MemoryHash;

/// Whether a snapshot stands by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// All of the guest's memory.
    #[default]
    Full,
    /// The pages that changed since the parent was taken.
    Diff,
}

/// One range of guest RAM. A memory file holds them one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRegion {
    /// Guest-physical address of its first byte.
    pub guest_address: u64,
    /// Its length in bytes.
    pub size_bytes: u64,
}

/// What CPU the guest ran on, in short. The state itself says which features it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuSummary {
    /// Vendor, e.g. `GenuineIntel`.
    pub vendor: String,
    /// The name that the CPU gives itself.
    pub model_name: String,
    /// Family.
    pub family: u32,
    /// Model.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

/// Which memory file belongs to the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryInfo {
    /// Length of the whole file in bytes.
    pub file_bytes: u64,
    /// Length of the guest's RAM in bytes.
    pub content_bytes: u64,
    /// Pages of it that the file holds: neither zero nor, in a diff, unchanged.
    pub data_pages: u64,
    /// Checksum of the content.
    pub hash: MemoryHash,
}

/// What a state file says about its snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// Which snapshot this is.
    pub id: SnapshotId,
    /// The snapshot that a differential one builds upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<SnapshotId>,
    /// Full or differential.
    #[serde(default)]
    pub kind: Kind,
    /// Version of the program that wrote it.
    #[serde(default)]
    pub vmctl_version: String,
    /// When it was taken, in milliseconds since 1970 by the host's wall clock.
    #[serde(default)]
    pub created_unix_ms: u64,
    /// The guest's architecture, as `uname -m` prints it.
    #[serde(default)]
    pub architecture: String,
    /// The CPU that it was taken on.
    #[serde(default)]
    pub cpu: CpuSummary,
    /// How many vCPUs the guest has.
    #[serde(default)]
    pub vcpus: u32,
    /// The guest's RAM.
    #[serde(default)]
    pub regions: Vec<MemoryRegion>,
    /// The memory file.
    #[serde(default)]
    pub memory: MemoryInfo,
    /// Whether the guest's writes were being tracked, so that a diff can follow.
    #[serde(default)]
    pub tracks_dirty_pages: bool,
}

impl SnapshotHeader {
    /// Makes the header of snapshot `id`, taken now on this machine by this program. Its memory,
    /// vCPUs and CPU are for the caller to fill in.
    pub fn new(id: SnapshotId, parent: Option<SnapshotId>) -> Self {
        Self {
            id,
            parent,
            kind: if parent.is_some() { Kind::Diff } else { Kind::Full },
            vmctl_version: env!("CARGO_PKG_VERSION").to_owned(),
            created_unix_ms: now_unix_ms(),
            architecture: std::env::consts::ARCH.to_owned(),
            cpu: CpuSummary::default(),
            vcpus: 0,
            regions: Vec::new(),
            memory: MemoryInfo::default(),
            tracks_dirty_pages: false,
        }
    }

    /// Returns when the snapshot was taken.
    pub fn created(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.created_unix_ms))
    }

    /// Returns the guest's RAM in bytes.
    pub fn ram_bytes(&self) -> u64 {
        self.regions.iter().fold(0, |sum, region| sum.saturating_add(region.size_bytes))
    }
}

fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
