use arch::{BootProtocol, GuestRange, KernelFormat, KernelInfo};

use super::*;
use crate::e820::E820Kind;

const MIB: u64 = 1 << 20;

fn range(start: u64, end: u64) -> GuestRange {
    GuestRange::from_bounds(GuestAddress(start), GuestAddress(end))
}

/// A kernel with this setup header: of a bzImage, or of a vmlinux when it is empty.
fn kernel(boot_header: Vec<u8>) -> KernelInfo {
    KernelInfo {
        format: KernelFormat::BzImage,
        protocol: BootProtocol::Linux64,
        entry: GuestAddress(MIB),
        loaded: range(MIB, 2 * MIB),
        reserved: range(MIB, 2 * MIB),
        initrd_end_max: GuestAddress(u64::from(u32::MAX)),
        cmdline_max_bytes: 2047,
        version: None,
        boot_header,
    }
}

/// A setup header up to 0x26c of which every byte is 0xee: whatever isn't, was written.
fn header() -> Vec<u8> {
    vec![0xee; 0x26c - 0x1f1]
}

fn boot(kernel: &KernelInfo) -> BootInfo<'_> {
    BootInfo { kernel, initrd: None, cmdline: "quiet", rng_seed: &[] }
}

fn map() -> Vec<E820Entry> {
    vec![
        E820Entry { range: range(0, 0xa_0000), kind: E820Kind::Ram },
        E820Entry { range: range(0x1_0000_0000, 0x1_8000_0000), kind: E820Kind::Reserved },
        E820Entry { range: range(0xe_0000, 0x10_0000), kind: E820Kind::Acpi },
    ]
}

/// Memory maps of this many ranges.
fn long_map(count: usize) -> Vec<E820Entry> {
    vec![E820Entry { range: range(0, MIB), kind: E820Kind::Ram }; count]
}

const RSDP: GuestAddress = GuestAddress(0xe_0010);

fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(&bytes[offset..offset + size]);
    u64::from_le_bytes(wide)
}

fn find<'w>(writes: &'w [Write], what: &str) -> &'w Write {
    writes.iter().find(|write| write.what == what).unwrap_or_else(|| panic!("no {what}"))
}

fn zero_page(boot: &BootInfo<'_>) -> Vec<u8> {
    let writes = linux(boot, &map(), RSDP).unwrap();
    let page = find(&writes, "boot_params");
    assert_eq!(page.address.0, 0x2000);
    assert_eq!(page.bytes.len(), 4096);
    page.bytes.clone()
}

#[test]
fn zero_page_has_its_fields_where_linux_reads_them() {
    let kernel = kernel(header());
    let initrd = Some(range(0x3ff_f000, 0x400_0123));
    let page = zero_page(&BootInfo { initrd, ..boot(&kernel) });
    for (field, offset, size, expected) in [
        ("acpi_rsdp_addr", 0x070, 8, RSDP.0),
        ("ext_ramdisk_image", 0x0c0, 4, 0),
        ("ext_ramdisk_size", 0x0c4, 4, 0),
        ("ext_cmd_line_ptr", 0x0c8, 4, 0),
        ("e820_entries", 0x1e8, 1, 3),
        ("sentinel", 0x1ef, 1, 0),
        ("type_of_loader", 0x210, 1, 0xff),
        ("ramdisk_image", 0x218, 4, 0x3ff_f000),
        ("ramdisk_size", 0x21c, 4, 0x1123),
        ("cmd_line_ptr", 0x228, 4, 0x1_0000),
        ("cmdline_size", 0x238, 4, 0xeeee_eeee),
        ("setup_data", 0x250, 8, 0),
    ] {
        assert_eq!(number(&page, offset, size), expected, "{field}");
    }
    // The first byte of the header and the last two, and what is around it.
    assert_eq!(page[0x1f0..0x1f2], [0, 0xee]);
    assert_eq!(page[0x26b..0x26d], [0xee, 0]);
}

#[test]
fn zero_page_lists_the_memory_map() {
    let page = zero_page(&boot(&kernel(header())));
    for (index, (start, size, kind)) in
        [(0, 0xa_0000, 1), (0x1_0000_0000, 0x8000_0000, 2), (0xe_0000, 0x2_0000, 3)]
            .into_iter()
            .enumerate()
    {
        let at = 0x2d0 + index * 20;
        let entry = (number(&page, at, 8), number(&page, at + 8, 8), number(&page, at + 16, 4));
        assert_eq!(entry, (start, size, kind), "range {index}");
    }
    assert!(page[0x2d0 + 3 * 20..].iter().all(|byte| *byte == 0));
}

#[test]
fn kernel_without_an_initrd_is_told_of_none_whatever_its_header_says() {
    let page = zero_page(&boot(&kernel(header())));
    assert_eq!((number(&page, 0x218, 4), number(&page, 0x21c, 4)), (0, 0));
}

#[test]
fn vmlinux_gets_a_setup_header_that_linux_recognises() {
    let page = zero_page(&boot(&kernel(Vec::new())));
    assert_eq!(number(&page, 0x1fe, 2), 0xaa55);
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(page[0x210], 0xff);
    assert_eq!(number(&page, 0x228, 4), 0x1_0000);
    assert_eq!(number(&page, 0x238, 4), 2047);
}

#[test]
fn seed_is_the_only_node_of_the_setup_data() {
    let kernel = kernel(header());
    let seed = [0x5a; 32];
    let writes = linux(&BootInfo { rng_seed: &seed, ..boot(&kernel) }, &map(), RSDP).unwrap();
    assert_eq!(number(&find(&writes, "boot_params").bytes, 0x250, 8), 0x5000);
    let node = find(&writes, "setup data");
    assert_eq!(node.address.0, 0x5000);
    let (next, kind, length) =
        (number(&node.bytes, 0, 8), number(&node.bytes, 8, 4), number(&node.bytes, 12, 4));
    assert_eq!((next, kind, length), (0, 9, 32));
    assert_eq!(node.bytes[16..], seed);
}

#[test]
fn seed_that_outgrows_its_page_is_refused() {
    let kernel = kernel(header());
    let with = |seed: &[u8]| linux(&BootInfo { rng_seed: seed, ..boot(&kernel) }, &map(), RSDP);
    assert!(with(&[1; 4080]).is_ok());
    assert_eq!(
        with(&[1; 4081]).unwrap_err().to_string(),
        "the setup data needs 4097 bytes, 4096 are reserved for it"
    );
}

#[test]
fn more_ranges_than_a_protocol_has_room_for_are_refused() {
    let kernel = kernel(header());
    let writes = linux(&boot(&kernel), &long_map(128), RSDP).unwrap();
    assert_eq!(find(&writes, "boot_params").bytes[0x1e8], 128);
    assert_eq!(
        linux(&boot(&kernel), &long_map(129), RSDP).unwrap_err().to_string(),
        "the memory map needs 2580 bytes, 2560 are reserved for it"
    );
    // 88 bytes before the map, 24 for each range: (8192 - 88) / 24 = 337.
    assert!(pvh(&boot(&kernel), &long_map(337), RSDP).is_ok());
    assert_eq!(
        pvh(&boot(&kernel), &long_map(338), RSDP).unwrap_err().to_string(),
        "the memory map needs 8200 bytes, 8192 are reserved for it"
    );
}

#[test]
fn start_info_has_its_fields_where_pvh_puts_them() {
    let kernel = kernel(Vec::new());
    let initrd = Some(range(0x3ff_f000, 0x400_0123));
    let write = pvh(&BootInfo { initrd, ..boot(&kernel) }, &map(), RSDP).unwrap();
    assert_eq!(write.address.0, 0x3000);
    let modules = 56;
    let memory_map = modules + 32;
    for (field, offset, size, expected) in [
        ("magic", 0, 4, 0x336e_c578),
        ("version", 4, 4, 1),
        ("flags", 8, 4, 0),
        ("nr_modules", 12, 4, 1),
        ("modlist_paddr", 16, 8, 0x3000 + modules as u64),
        ("cmdline_paddr", 24, 8, 0x1_0000),
        ("rsdp_paddr", 32, 8, RSDP.0),
        ("memmap_paddr", 40, 8, 0x3000 + memory_map as u64),
        ("memmap_entries", 48, 4, 3),
        ("reserved", 52, 4, 0),
        ("module's paddr", modules, 8, 0x3ff_f000),
        ("module's size", modules + 8, 8, 0x1123),
        ("module's cmdline_paddr", modules + 16, 8, 0),
        ("module's reserved", modules + 24, 8, 0),
        ("second range's addr", memory_map + 24, 8, 0x1_0000_0000),
        ("second range's size", memory_map + 32, 8, 0x8000_0000),
        ("second range's type", memory_map + 40, 4, 2),
        ("second range's reserved", memory_map + 44, 4, 0),
        ("third range's addr", memory_map + 48, 8, 0xe_0000),
    ] {
        assert_eq!(number(&write.bytes, offset, size), expected, "{field}");
    }
    assert_eq!(write.bytes.len(), memory_map + 3 * 24);
}

#[test]
fn start_info_without_an_initrd_has_no_module() {
    let write = pvh(&boot(&kernel(Vec::new())), &map(), RSDP).unwrap();
    assert_eq!(number(&write.bytes, 12, 4), 0);
    assert_eq!((number(&write.bytes, 56, 8), number(&write.bytes, 64, 8)), (0, 0));
}
