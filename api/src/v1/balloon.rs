//! The balloon while the VM runs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of `PATCH /balloon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BalloonUpdate {
    /// How much the guest should give back, in MiB.
    #[schema(maximum = 67_108_864)]
    pub amount_mib: u64,
}

/// The body of `PATCH /balloon/statistics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BalloonStatsUpdate {
    /// How often the guest is asked, in seconds. Statistics can't be turned on or off while the VM
    /// runs: from and to 0 nothing leads.
    #[schema(maximum = 65535)]
    pub stats_polling_interval_s: u16,
}

/// The answer to `GET /balloon/statistics`. What the guest hasn't reported is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalloonStats {
    /// How many pages of 4 KiB the guest should have given back.
    pub target_pages: u64,
    /// How many pages of 4 KiB the guest has given back.
    pub actual_pages: u64,
    /// The same as `target_pages`, in MiB.
    pub target_mib: u64,
    /// The same as `actual_pages`, in MiB.
    pub actual_mib: u64,
    /// Memory swapped in, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<u64>,
    /// Memory swapped out, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<u64>,
    /// Page faults that needed I/O.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Page faults that needed none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    /// Memory that's used for nothing, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_memory: Option<u64>,
    /// All memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_memory: Option<u64>,
    /// Memory that programs can have without swapping, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_memory: Option<u64>,
    /// Memory of caches that can be dropped without I/O, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_caches: Option<u64>,
    /// Huge pages allocated in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that couldn't be allocated in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugetlb_failures: Option<u64>,
    /// Programs ended for want of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    /// Allocations that had to wait for memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alloc_stall: Option<u64>,
    /// Memory looked through in the background, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub async_scan: Option<u64>,
    /// Memory looked through by allocations that waited, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_scan: Option<u64>,
    /// Memory had back in the background, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub async_reclaim: Option<u64>,
    /// Memory had back by allocations that waited, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_reclaim: Option<u64>,
}

/// The body of `PATCH /balloon/hinting/start`; it may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartHinting {
    /// Whether the VMM lets the guest have its pages back as soon as it has named all of them.
    #[serde(default = "StartHinting::acknowledges")]
    #[schema(default = true)]
    pub acknowledge_on_stop: bool,
}

impl StartHinting {
    const fn acknowledges() -> bool {
        true
    }
}

impl Default for StartHinting {
    fn default() -> Self {
        Self { acknowledge_on_stop: Self::acknowledges() }
    }
}

/// The answer to `GET /balloon/hinting/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalloonHintingStatus {
    /// The host's latest command (VIRTIO 1.3 §5.5.6.7): 0 to stop, 1 to acknowledge, or the number
    /// of a run.
    pub host_cmd: u32,
    /// The guest's latest answer.
    #[serde(default)]
    pub guest_cmd: Option<u32>,
}
