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

fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(&bytes[offset..offset + size]);
    u64::from_le_bytes(wide)
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    number(bytes, offset, 8)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn every_table_has_its_length_and_sums_to_zero() {
    for pci in [true, false] {
        let (writes, _) = tables(&sample(pci));
        for write in writes.iter().filter(|write| write.what != "RSDP") {
            assert_eq!(number(&write.bytes, 4, 4), write.bytes.len() as u64, "{}", write.what);
            assert_eq!(sum(&write.bytes), 0, "{}", write.what);
        }
        // ACPI 6.5 §5.2.5.3: one sum over what ACPI 1.0 had, one over all.
        let rsdp = &find(&writes, "RSDP").bytes;
        assert_eq!((rsdp[15], number(rsdp, 20, 4)), (2, 36));
        assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
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

#[test]
fn every_vcpu_has_a_local_apic_and_all_share_one_io_apic() {
    for vcpus in [1, 2, 32, 254] {
        let platform = Platform { vcpus, pci: true, virtio_mmio: Vec::new() };
        let (writes, _) = tables(&platform);
        let madt = &find(&writes, "MADT").bytes;
        assert_eq!((&madt[..4], madt[8]), (&b"APIC"[..], 6));
        assert_eq!((number(madt, 36, 4), number(madt, 40, 4)), (0xfee0_0000, 0));
        let (local, io) = madt[44..].split_at(usize::from(vcpus) * 8);
        for (vcpu, apic) in (0..vcpus).zip(local.chunks(8)) {
            assert_eq!(apic, [0, 8, vcpu, vcpu, 1, 0, 0, 0]);
        }
        assert_eq!(io, [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);

        let dsdt = &find(&writes, "DSDT").bytes;
        let name = |vcpu: u8| format!("C{vcpu:03X}").into_bytes();
        assert!(contains(dsdt, &name(vcpus - 1)) && !contains(dsdt, &name(vcpus)));
    }
}

#[test]
fn fixed_description_is_hardware_reduced_with_reset_and_sleep_registers() {
    let (writes, _) = tables(&sample(true));
    let fadt = &find(&writes, "FADT").bytes;
    assert_eq!((&fadt[..4], fadt[8], fadt[131]), (&b"FACP"[..], 6, 5));
    // ACPI 6.5 Table 5.10: bit 20 hardware-reduced, 10 reset register, 5 and 4 no fixed buttons.
    let flags = number(fadt, 112, 4);
    assert_eq!(flags & (1 << 20 | 1 << 10 | 1 << 5 | 1 << 4), 1 << 20 | 1 << 10 | 1 << 5 | 1 << 4);
    assert_eq!(number(fadt, 109, 2), 1 << 2 | 1 << 4);
    for (register, offset, port) in
        [("reset", 116, 0x602), ("sleep control", 244, 0x600), ("sleep status", 256, 0x601)]
    {
        assert_eq!(fadt[offset..offset + 4], [1, 8, 0, 1], "{register}");
        assert_eq!(word(fadt, offset + 4), port, "{register}");
    }
    assert_eq!(fadt[128], ports::RESET_VALUE);
    // No fixed hardware at all: neither FACS nor any PM or GPE block.
    assert!(fadt[36..44].iter().chain(&fadt[48..92]).chain(&fadt[148..244]).all(|byte| *byte == 0));
}

#[test]
fn mcfg_covers_the_ecam_window_of_one_bus() {
    let (writes, _) = tables(&sample(true));
    let mcfg = &find(&writes, "MCFG").bytes;
    assert_eq!((&mcfg[..4], mcfg.len()), (&b"MCFG"[..], 60));
    assert_eq!(word(mcfg, 44), layout::PCI_ECAM.start().0);
    assert_eq!((number(mcfg, 52, 2), mcfg[54], mcfg[55]), (0, 0, 0));
}

#[test]
fn each_transport_has_its_devices_and_not_the_others() {
    let (pci, mmio) = (tables(&sample(true)).0, tables(&sample(false)).0);
    let dsdt = |writes| find(writes, "DSDT").bytes.clone();
    for (name, on_pci, on_mmio) in [
        ("PCI0", true, false),
        ("ECAM", true, false),
        ("LNRO0005", false, true),
        ("COM1", true, true),
        ("QEMU0001", true, true),
        ("PWRB", true, true),
        ("ACPI0013", true, true),
        ("_S5_", true, true),
    ] {
        assert_eq!(contains(&dsdt(&pci), name.as_bytes()), on_pci, "{name} with PCI");
        assert_eq!(contains(&dsdt(&mmio), name.as_bytes()), on_mmio, "{name} with MMIO");
    }
}

#[test]
fn windows_for_bars_are_the_layouts() {
    let layout = memory_layout(5 << 30, 46).unwrap();
    let (writes, _) = build(&layout, &sample(true)).unwrap();
    let dsdt = &find(&writes, "DSDT").bytes;
    // Least, greatest, no translation, length (ACPI 6.5 §6.4.3.5).
    let wide = layout.pci_mmio64;
    let fields = [wide.start().0, wide.end().0 - 1, 0, wide.size()];
    assert!(contains(dsdt, &fields.map(u64::to_le_bytes).concat()));
    let narrow = [0xc000_0000_u32, 0xdfff_ffff, 0, 0x2000_0000];
    assert!(contains(dsdt, &narrow.map(u32::to_le_bytes).concat()));
}
