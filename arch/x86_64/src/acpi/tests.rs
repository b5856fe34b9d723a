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
        ("S001", true, false),
        ("_EJ0", true, false),
        ("PCHK", true, false),
        ("PWRB", true, true),
        ("VM_Gen_Counter", true, true),
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

/// Bytes of a part of the DSDT, from where `name` first is to the end.
fn dsdt_from(pci: bool, name: &str) -> Vec<u8> {
    let (writes, _) = tables(&sample(pci));
    let dsdt = &find(&writes, "DSDT").bytes;
    let at = dsdt.windows(name.len()).position(|window| window == name.as_bytes());
    dsdt[at.unwrap_or_else(|| panic!("no {name}"))..].to_vec()
}

#[test]
fn every_slot_but_the_bridges_can_be_ejected_by_its_own_bit() {
    for (slot, bit) in (1_u8..32).map(|slot| (slot, 1_u32 << slot)) {
        let device = dsdt_from(true, &format!("S{slot:03}"));
        // ACPI 6.5 §20.2.5.1: Name(_ADR, slot << 16).
        let address = [b"\x08_ADR\x0c".as_slice(), &(u32::from(slot) << 16).to_le_bytes()].concat();
        assert_eq!(&device[4..14], &address, "{slot}");
        // Method(_EJ0, 1) { Store(bit, PEJT) }, the bit as narrow as it can be.
        let eject = &device[device.windows(4).position(|name| name == b"_EJ0").unwrap() + 4..];
        assert_eq!(eject[..2], [1, 0x70]);
        let width = 1 << (eject[2] - 0x0a);
        assert_eq!(number(eject, 3, width), u64::from(bit), "{slot}");
        assert_eq!(&eject[3 + width..7 + width], b"PEJT");
    }
    let (writes, _) = tables(&sample(true));
    let dsdt = &find(&writes, "DSDT").bytes;
    assert!(!contains(dsdt, b"S000") && !contains(dsdt, b"S032"));
}

#[test]
fn hot_plug_registers_are_three_double_words_at_their_ports() {
    let region = dsdt_from(true, "PREG");
    // SystemIO, word 0x610, byte 12; then the field: DWordAcc, NoLock, WriteAsZeros.
    assert_eq!(region[4..10], [1, 0x0b, 0x10, 0x06, 0x0a, 12]);
    let field = &region[13..];
    assert_eq!((&field[..4], field[4]), (b"PREG".as_slice(), 0x43));
    assert_eq!(&field[5..20], b"PCAM\x20PTGO\x20PEJT\x20");
}

#[test]
fn each_event_has_its_interrupt_and_its_action() {
    for (pci, gsis) in [(true, &[9, 3, 16][..]), (false, &[9, 3])] {
        let device = dsdt_from(pci, "GED_");
        let (resources, handlers) =
            device.split_at(device.windows(4).position(|name| name == b"_EVT").unwrap());
        for gsi in gsis {
            // ACPI 6.5 §6.4.3.6: edge, active high, exclusive; one number.
            let interrupt = [0x89, 6, 0, 0b0011, 1, *gsi, 0, 0, 0];
            assert!(contains(resources, &interrupt), "{gsi}");
            assert!(contains(handlers, &[0x93, 0x68, 0x0a, *gsi]), "{gsi}");
        }
        assert_eq!(resources.iter().filter(|byte| **byte == 0x89).count(), gsis.len());
        assert!(contains(handlers, b"\x86\\\x2e_SB_PWRB\x0a\x80"));
        assert!(contains(handlers, b"\x86\\\x2e_SB_VGEN\x0a\x80"));
        assert_eq!(contains(handlers, b"\\\x2f\x03_SB_PCI0PCHK"), pci);
    }
}

#[test]
fn generation_id_is_named_and_lies_in_reserved_memory() {
    let device = dsdt_from(false, "VGEN");
    assert!(contains(&device[..60], b"\x08_CID\x0dVM_Gen_Counter\0"));
    let address = device.windows(4).position(|name| name == b"ADDR").unwrap() + 4;
    // Package of two integers, low and high half (ACPI 6.5 §20.2.5.4).
    assert_eq!(device[address..address + 9], [0x12, 8, 2, 0x0c, 0, 0xf0, 0x0f, 0, 0]);
    assert_eq!(layout::VM_GENERATION_ID.start().raw_value(), 0xf_f000);
}

#[test]
fn hot_plug_costs_less_than_two_kib_of_aml() {
    let bytes = pci_hotplug::build().len();
    assert!(bytes < 2048, "{bytes} bytes");
}

/// For a look with ACPICA's disassembler: `iasl -d` on what `VMCTL_DSDT_DIR` names.
#[test]
#[ignore = "writes files"]
fn tables_to_disassemble() {
    let directory = std::path::PathBuf::from(std::env::var_os("VMCTL_DSDT_DIR").unwrap());
    for (pci, name) in [(true, "pci.aml"), (false, "mmio.aml")] {
        let (writes, _) = tables(&sample(pci));
        std::fs::write(directory.join(name), &find(&writes, "DSDT").bytes).unwrap();
    }
}
