//! Guest-physical ranges and the layout made of them.

use vm_memory::{Address, GuestAddress};

/// The smallest unit of guest memory, in bytes, on every architecture here.
pub const PAGE_SIZE: u64 = 4096;

/// A range of guest-physical addresses, end-exclusive.
///
/// The end never overflows: [`GuestRange::new`] refuses what would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRange {
    start: GuestAddress,
    size: u64,
}

impl GuestRange {
    /// Makes the range of `size` bytes at `start`; `None` if its end isn't a 64-bit address.
    pub const fn new(start: GuestAddress, size: u64) -> Option<Self> {
        match start.0.checked_add(size) {
            Some(_) => Some(Self { start, size }),
            None => None,
        }
    }

    /// Makes the range from `start` up to, but not including, `end`; empty if `end` lies below.
    pub const fn from_bounds(start: GuestAddress, end: GuestAddress) -> Self {
        Self { start, size: end.0.saturating_sub(start.0) }
    }

    /// Returns the first address.
    pub const fn start(&self) -> GuestAddress {
        self.start
    }

    /// Returns the first address after the range.
    pub const fn end(&self) -> GuestAddress {
        GuestAddress(self.start.0 + self.size)
    }

    /// Returns the size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Says whether the range has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Says whether `address` lies in the range.
    pub const fn contains(&self, address: GuestAddress) -> bool {
        address.0 >= self.start.0 && address.0 - self.start.0 < self.size
    }

    /// Says whether all of `other` lies in the range.
    pub const fn encloses(&self, other: &Self) -> bool {
        other.start.0 >= self.start.0 && other.end().0 <= self.end().0
    }

    /// Says whether the two ranges share a byte.
    pub const fn overlaps(&self, other: &Self) -> bool {
        let start = if self.start.0 > other.start.0 { self.start.0 } else { other.start.0 };
        let end = if self.end().0 < other.end().0 { self.end().0 } else { other.end().0 };
        start < end
    }
}

impl std::fmt::Display for GuestRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.raw_value(), self.end().raw_value())
    }
}

/// Where RAM and the windows for devices lie in the guest-physical space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    /// RAM in ascending order; the first range holds the kernel and the boot structures.
    pub ram: Vec<GuestRange>,
    /// PCI's memory-mapped configuration space, 1 MiB for each bus (PCIe 5.0 §7.2.2).
    pub pci_ecam: GuestRange,
    /// Window for BARs below 4 GiB.
    pub pci_mmio32: GuestRange,
    /// Window for 64-bit BARs, above all RAM.
    pub pci_mmio64: GuestRange,
    /// Window for memory that devices bring (persistent memory, plugged memory), above all else. Where
    /// addresses are short there may be none.
    pub device_memory: GuestRange,
    /// Window for virtio-mmio register blocks, one page each.
    pub virtio_mmio: GuestRange,
}

impl MemoryLayout {
    /// Returns the RAM range at the lowest address.
    ///
    /// # Panics
    /// If [`MemoryLayout::ram`] has been emptied; no [`crate::Arch`] returns such a layout.
    pub fn low_ram(&self) -> GuestRange {
        self.ram[0]
    }

    /// Returns the size of all RAM in bytes.
    pub fn ram_bytes(&self) -> u64 {
        self.ram.iter().map(GuestRange::size).sum()
    }
}

/// Memory that no layout can be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// RAM comes in whole pages.
    #[error("guest memory of {ram_bytes} bytes is not a multiple of {PAGE_SIZE}")]
    Unaligned {
        /// What was asked for.
        ram_bytes: u64,
    },
    /// The boot structures alone need more.
    #[error("guest memory of {ram_bytes} bytes is below the minimum of {min_bytes}")]
    TooSmall {
        /// What was asked for.
        ram_bytes: u64,
        /// The least that this architecture can be laid out with.
        min_bytes: u64,
    },
    /// The guest couldn't address it.
    #[error(
        "guest memory of {ram_bytes} bytes is above the maximum of {max_bytes} that \
         {address_bits} physical address bits allow"
    )]
    TooLarge {
        /// What was asked for.
        ram_bytes: u64,
        /// The most that fits beside the device windows.
        max_bytes: u64,
        /// Width of a guest-physical address.
        address_bits: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> GuestRange {
        GuestRange::from_bounds(GuestAddress(start), GuestAddress(end))
    }

    #[test]
    fn range_past_the_address_space_is_refused() {
        assert!(GuestRange::new(GuestAddress(u64::MAX), 1).is_none());
        assert_eq!(GuestRange::new(GuestAddress(u64::MAX), 0).unwrap().end().0, u64::MAX);
    }

    #[test]
    fn reversed_bounds_make_an_empty_range() {
        assert!(range(8, 4).is_empty());
        assert!(!range(8, 4).contains(GuestAddress(8)));
    }

    #[test]
    fn ranges_that_only_touch_do_not_overlap() {
        assert!(!range(0, 8).overlaps(&range(8, 16)));
        assert!(range(0, 9).overlaps(&range(8, 16)));
        assert!(range(2, 3).overlaps(&range(0, 16)));
        assert!(!range(4, 4).overlaps(&range(0, 16)), "an empty range shares no byte");
    }

    #[test]
    fn range_encloses_itself_and_nothing_larger() {
        assert!(range(4, 8).encloses(&range(4, 8)));
        assert!(!range(4, 8).encloses(&range(4, 9)));
        assert!(!range(4, 8).encloses(&range(3, 8)));
    }
}
