//! The memory map that both boot protocols hand to the kernel, in the terms of the BIOS's E820
//! call (ACPI 6.5 §15.1), whose type numbers PVH's map shares.

use arch::{GuestRange, MemoryLayout, PAGE_SIZE};
use vm_memory::GuestAddress;

use crate::layout;

/// What a kernel may do with a range (ACPI 6.5 §15.1, Table 15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// RAM that is free to use.
    Ram = 1,
    /// Not to be used, not to be given to devices.
    Reserved = 2,
    /// RAM that is free once the ACPI tables in it have been read.
    Acpi = 3,
}

/// One range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// The range.
    pub range: GuestRange,
    /// What lies there.
    pub kind: E820Kind,
}

/// Returns the memory map of `layout` in ascending order.
///
/// ECAM is reserved because Linux distrusts an MCFG that the memory map doesn't confirm
/// (`is_mmconf_reserved` in arch/x86/pci/mmconfig-shared.c), KVM's pages because a guest that
/// wrote there would break its own real mode.
pub fn memory_map(layout: &MemoryLayout) -> Vec<E820Entry> {
    let low = layout.low_ram();
    let above_1_mib = GuestRange::from_bounds(layout::HIGH_MEMORY, low.end());
    let kvm_end = GuestAddress(layout::KVM_TSS.0 + 3 * PAGE_SIZE);
    let mut map = vec![
        E820Entry { range: layout::CONVENTIONAL_RAM, kind: E820Kind::Ram },
        E820Entry { range: layout::ACPI_TABLES, kind: E820Kind::Acpi },
        E820Entry { range: layout::VM_GENERATION_ID, kind: E820Kind::Reserved },
        E820Entry { range: above_1_mib, kind: E820Kind::Ram },
        E820Entry { range: layout.pci_ecam, kind: E820Kind::Reserved },
        E820Entry {
            range: GuestRange::from_bounds(layout::KVM_IDENTITY_MAP, kvm_end),
            kind: E820Kind::Reserved,
        },
    ];
    map.extend(
        layout.ram[1..].iter().map(|range| E820Entry { range: *range, kind: E820Kind::Ram }),
    );
    map.retain(|entry| !entry.range.is_empty());
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::memory_layout;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// RAM entries of the map for a memory size, as (start, end).
    fn ram(bytes: u64) -> Vec<(u64, u64)> {
        memory_map(&memory_layout(bytes, 46).unwrap())
            .into_iter()
            .filter(|entry| entry.kind == E820Kind::Ram)
            .map(|entry| (entry.range.start().0, entry.range.end().0))
            .collect()
    }

    #[test]
    fn ram_is_listed_around_the_holes_for_every_size() {
        let low = (0, 0xa_0000);
        for (bytes, expected) in [
            (MIB, vec![low]),
            (MIB + PAGE_SIZE, vec![low, (MIB, MIB + PAGE_SIZE)]),
            (128 * MIB, vec![low, (MIB, 128 * MIB)]),
            (3 * GIB - PAGE_SIZE, vec![low, (MIB, 3 * GIB - PAGE_SIZE)]),
            (3 * GIB, vec![low, (MIB, 3 * GIB)]),
            (5 * GIB, vec![low, (MIB, 3 * GIB), (4 * GIB, 6 * GIB)]),
            (1024 * GIB, vec![low, (MIB, 3 * GIB), (4 * GIB, 1025 * GIB)]),
        ] {
            assert_eq!(ram(bytes), expected, "{bytes:#x} bytes");
        }
    }

    #[test]
    fn map_is_sorted_without_overlap_and_covers_no_device_window() {
        for bytes in [MIB, 128 * MIB, 3 * GIB, 5 * GIB, 1024 * GIB] {
            let layout = memory_layout(bytes, 46).unwrap();
            let map = memory_map(&layout);
            assert!(map.is_sorted_by(|a, b| a.range.end() <= b.range.start()), "{map:#x?}");
            for window in [layout.pci_mmio32, layout.pci_mmio64, layout.virtio_mmio] {
                assert!(map.iter().all(|entry| !entry.range.overlaps(&window)));
            }
        }
    }

    #[test]
    fn what_the_guest_must_not_use_is_reserved_and_acpi_tables_are_acpi_data() {
        let map = memory_map(&memory_layout(128 * MIB, 46).unwrap());
        let kind_at = |address: GuestAddress| {
            map.iter().find(|entry| entry.range.contains(address)).map(|entry| entry.kind)
        };
        assert_eq!(kind_at(layout::PCI_ECAM.start()), Some(E820Kind::Reserved));
        assert_eq!(kind_at(layout::KVM_TSS), Some(E820Kind::Reserved));
        assert_eq!(kind_at(layout::ACPI_TABLES.start()), Some(E820Kind::Acpi));
        assert_eq!(kind_at(layout::VM_GENERATION_ID.start()), Some(E820Kind::Reserved));
        assert_eq!(kind_at(GuestAddress(0xa_0000)), None);
    }
}
