//! What a driver says about one queue, and the checks that stand between that and a device.

use sys::memory::GuestRam;
use virtio_queue::{Queue, QueueState};
use vm_memory::{GuestAddress, GuestMemory, Permissions};

use super::super::queue::QueueCursor;

/// The three parts of a split queue (VIRTIO 1.3 §2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// The descriptor table.
    Descriptors,
    /// The available ring, also called driver area.
    Available,
    /// The used ring, also called device area.
    Used,
}

/// Which half of a 64-bit register an access means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

/// Why a queue can't be used as its driver described it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingFault {
    #[error("the rings of queue {queue} are misaligned: {source}")]
    Misaligned { queue: u16, source: virtio_queue::Error },
    #[error("{ring:?} of queue {queue} at {address:#x} is not in guest memory")]
    OutsideMemory { queue: u16, ring: Ring, address: u64 },
    #[error("{ring:?} of queue {queue} at {address:#x} overlaps another ring")]
    Overlap { queue: u16, ring: Ring, address: u64 },
}

/// The registers of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSetup {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) enabled: bool,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

impl QueueSetup {
    /// Creates the registers as they are after a reset.
    pub(super) fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, enabled: false, descriptors: 0, available: 0, used: 0 }
    }

    /// Returns the largest size that the device supports.
    pub fn max_size(&self) -> u16 {
        self.max_size
    }

    /// Returns the size that the driver wrote, valid or not; the largest one after a reset.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Tells whether the driver enabled the queue.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Returns the guest-physical address that the driver wrote for `ring`, valid or not.
    pub fn address(&self, ring: Ring) -> u64 {
        match ring {
            Ring::Descriptors => self.descriptors,
            Ring::Available => self.available,
            Ring::Used => self.used,
        }
    }

    /// Tells whether the size is one that a split queue can have (VIRTIO 1.3 §2.7).
    pub(super) fn has_valid_size(&self) -> bool {
        self.size.is_power_of_two() && self.size <= self.max_size
    }

    /// Replaces one half of the address of `ring`.
    pub(super) fn set_address(&mut self, ring: Ring, half: Half, value: u32) {
        let address = match ring {
            Ring::Descriptors => &mut self.descriptors,
            Ring::Available => &mut self.available,
            Ring::Used => &mut self.used,
        };
        *address = match half {
            Half::Low => *address & !u64::from(u32::MAX) | u64::from(value),
            Half::High => *address & u64::from(u32::MAX) | u64::from(value) << 32,
        };
    }

    /// Builds the ring that a device works on from `cursor` on, once its parts are known to be
    /// aligned.
    pub(super) fn build(
        &self,
        index: u16,
        event_idx: bool,
        cursor: &QueueCursor,
    ) -> Result<Queue, RingFault> {
        Queue::try_from(QueueState {
            max_size: self.max_size,
            next_avail: cursor.next_available(),
            next_used: cursor.next_used(),
            event_idx_enabled: event_idx,
            size: self.size,
            ready: self.enabled,
            desc_table: self.descriptors,
            avail_ring: self.available,
            used_ring: self.used,
        })
        .map_err(|source| RingFault::Misaligned { queue: index, source })
    }

    /// Lists the parts with their lengths in bytes (VIRTIO 1.3 §2.7). The event fields are there
    /// only if they were negotiated: a driver without them may use their bytes for something else.
    fn extents(&self, index: u16, event_idx: bool) -> [Extent; 3] {
        let size = u64::from(self.size);
        let event = if event_idx { 2 } else { 0 };
        // The largest size is 2^15, so that none of these comes near an overflow.
        [
            (Ring::Descriptors, size.saturating_mul(16)),
            (Ring::Available, size.saturating_mul(2).saturating_add(4).saturating_add(event)),
            (Ring::Used, size.saturating_mul(8).saturating_add(4).saturating_add(event)),
        ]
        .map(|(ring, len)| Extent { queue: index, ring, start: self.address(ring), len })
    }
}

/// The bytes that one part of one queue takes up.
struct Extent {
    queue: u16,
    ring: Ring,
    start: u64,
    len: u64,
}

/// Checks that every part of every enabled queue lies in `memory` and that no two overlap.
pub(super) fn check_placement(
    queues: &[QueueSetup],
    memory: &GuestRam,
    event_idx: bool,
) -> Result<(), RingFault> {
    let mut extents: Vec<Extent> = (0..)
        .zip(queues)
        .filter(|(_, setup)| setup.enabled)
        .flat_map(|(index, setup)| setup.extents(index, event_idx))
        .collect();
    for extent in &extents {
        let access = match extent.ring {
            Ring::Descriptors | Ring::Available => Permissions::Read,
            Ring::Used => Permissions::Write,
        };
        let len = usize::try_from(extent.len).unwrap_or(usize::MAX);
        if !memory.check_range(GuestAddress(extent.start), len, access) {
            let Extent { queue, ring, start: address, .. } = *extent;
            return Err(RingFault::OutsideMemory { queue, ring, address });
        }
    }
    extents.sort_unstable_by_key(|extent| extent.start);
    for pair in extents.windows(2) {
        if let [lower, upper] = pair
            && lower.start.saturating_add(lower.len) > upper.start
        {
            let Extent { queue, ring, start: address, .. } = *upper;
            return Err(RingFault::Overlap { queue, ring, address });
        }
    }
    Ok(())
}
