use vm_memory::Address;

use super::*;
use crate::layout::memory_layout;

fn tables(platform: &Platform) -> (Vec<Write>, GuestAddress) {
    build(&memory_layout(128 << 20, 46).unwrap(), platform).unwrap()
}

fn sample(pci: bool) -> Platform {
    let window = GuestRange::new(layout::VIRTIO_MMIO.start(), 0x200).unwrap();
    let virtio_mmio = if pci { Vec::new() } else { vec![(window, 5)] };
    Platform { vcpus: 32, pci, virtio_mmio }
}

fn find<'w>(writes: &'w [Write], what: &str) -> &'w Write {
    writes.iter().find(|write| write.what == what).unwrap_or_else(|| panic!("no {what}"))
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn every_table_has_its_length_and_sums_to_zero() {
    for pci in [true, false] {
        let (writes, _) = tables(&sample(pci));
        for write in writes.iter().filter(|write| write.what != "RSDP") {
            let length = u32::from_le_bytes(write.bytes[4..8].try_into().unwrap());
            assert_eq!(length as usize, write.bytes.len(), "{}", write.what);
            let sum = write.bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "{}", write.what);
        }
    }
}

#[test]
fn tables_refer_to_each_other_and_lie_in_their_place_without_overlap() {
    let (writes, rsdp_address) = tables(&sample(true));
    let rsdp = find(&writes, "RSDP");
    assert_eq!(rsdp.address, rsdp_address);
    assert_eq!(&rsdp.bytes[..8], b"RSD PTR ");
    let xsdt = find(&writes, "XSDT");
    assert_eq!(word(&rsdp.bytes, 24), xsdt.address.raw_value());
    let listed: Vec<_> = xsdt.bytes[36..].chunks(8).map(|entry| word(entry, 0)).collect();
    let expected = ["FADT", "MADT", "MCFG"].map(|what| find(&writes, what).address.raw_value());
    assert_eq!(listed, expected);
    assert_eq!(word(&find(&writes, "FADT").bytes, 140), find(&writes, "DSDT").address.raw_value());

    let mut ranges: Vec<_> = writes
        .iter()
        .map(|write| GuestRange::new(write.address, write.bytes.len() as u64).unwrap())
        .collect();
    ranges.sort_by_key(|range| range.start());
    assert!(ranges.iter().all(|range| layout::ACPI_TABLES.encloses(range)));
    assert!(ranges.windows(2).all(|pair| !pair[0].overlaps(&pair[1])));
}

#[test]
fn machine_without_pci_has_no_mcfg() {
    let (writes, _) = tables(&sample(false));
    assert!(writes.iter().all(|write| write.what != "MCFG"));
}

#[test]
fn description_that_outgrows_its_place_is_refused() {
    let window = GuestRange::new(layout::VIRTIO_MMIO.start(), 0x200).unwrap();
    let platform = Platform { vcpus: 1, pci: false, virtio_mmio: vec![(window, 5); 4000] };
    let error = build(&memory_layout(128 << 20, 46).unwrap(), &platform).unwrap_err();
    assert!(matches!(error, BootError::TableTooLarge { .. }), "{error}");
}
