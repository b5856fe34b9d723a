//! What the guest tells about its memory.

use serde::{Deserialize, Serialize};
use sys::memory::GuestRam;
use vm_memory::{Address, Bytes};

use super::super::queue::Segment;

/// `struct virtio_balloon_stat`: a tag and a value, packed.
const ENTRY_SIZE: usize = 10;
/// How much of a buffer is looked at: several times what any driver has to tell.
const MAX_BYTES: usize = 64 * ENTRY_SIZE;

/// Memory statistics by the guest's own account (VIRTIO 1.3 §5.5.6.4, and the tags 10 to 15 that Linux
/// 6.12 added); `None` where it has none.
/// None of it can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalloonStats {
    /// Bytes swapped in since boot.
    pub swap_in_bytes: Option<u64>,
    /// Bytes swapped out since boot.
    pub swap_out_bytes: Option<u64>,
    /// Page faults that needed I/O since boot.
    pub major_faults: Option<u64>,
    /// Page faults that needed no I/O since boot.
    pub minor_faults: Option<u64>,
    /// Bytes not used for anything.
    pub free_bytes: Option<u64>,
    /// Bytes in all.
    pub total_bytes: Option<u64>,
    /// Bytes that new programs could have without swapping.
    pub available_bytes: Option<u64>,
    /// Bytes in caches that could be given up.
    pub cache_bytes: Option<u64>,
    /// Successful allocations of huge pages since boot.
    pub huge_page_allocations: Option<u64>,
    /// Failed allocations of huge pages since boot.
    pub huge_page_failures: Option<u64>,
    /// Programs ended for want of memory since boot.
    pub oom_kills: Option<u64>,
    /// Allocations that had to wait for memory since boot.
    pub allocation_stalls: Option<u64>,
    /// Bytes looked through in the background, for some to be had back, since boot.
    pub async_scanned_bytes: Option<u64>,
    /// Bytes looked through by allocations that waited since boot.
    pub direct_scanned_bytes: Option<u64>,
    /// Bytes had back in the background since boot.
    pub async_reclaimed_bytes: Option<u64>,
    /// Bytes had back by allocations that waited since boot.
    pub direct_reclaimed_bytes: Option<u64>,
}

impl BalloonStats {
    /// Reads the entries in a driver's buffers. Unknown tags and half an entry count for nothing; of
    /// a tag listed twice, the last counts.
    pub(super) fn read(memory: &GuestRam, segments: &[Segment]) -> Self {
        let mut bytes = Vec::new();
        for segment in segments {
            let old = bytes.len();
            let len = usize::try_from(segment.len).unwrap_or(usize::MAX);
            bytes.resize(old.saturating_add(len).min(MAX_BYTES), 0);
            if let Some(new) = bytes.get_mut(old..)
                && let Err(error) = memory.read_slice(new, segment.address)
            {
                let address = segment.address.raw_value();
                log::error!("statistics at {address:#x} can't be read: {error}");
            }
        }
        let mut stats = Self::default();
        for [t0, t1, value @ ..] in bytes.as_chunks::<ENTRY_SIZE>().0 {
            if let Some(field) = stats.field(u16::from_le_bytes([*t0, *t1])) {
                *field = Some(u64::from_le_bytes(*value));
            }
        }
        stats
    }

    fn field(&mut self, tag: u16) -> Option<&mut Option<u64>> {
        Some(match tag {
            0 => &mut self.swap_in_bytes,
            1 => &mut self.swap_out_bytes,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free_bytes,
            5 => &mut self.total_bytes,
            6 => &mut self.available_bytes,
            7 => &mut self.cache_bytes,
            8 => &mut self.huge_page_allocations,
            9 => &mut self.huge_page_failures,
            10 => &mut self.oom_kills,
            11 => &mut self.allocation_stalls,
            12 => &mut self.async_scanned_bytes,
            13 => &mut self.direct_scanned_bytes,
            14 => &mut self.async_reclaimed_bytes,
            15 => &mut self.direct_reclaimed_bytes,
            _ => return None,
        })
    }
}
