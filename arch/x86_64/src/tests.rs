//! Boot data from end to end, in guest memory.

use arch::{GuestRange, KernelFormat};
use vm_memory::GuestAddress;

use super::*;

type GuestMemoryMmap = vm_memory::GuestMemoryMmap<()>;

const MIB: u64 = 1 << 20;
const RAM_BYTES: u64 = 8 * MIB;

fn kernel(protocol: BootProtocol) -> KernelInfo {
    let range = GuestRange::new(layout::HIGH_MEMORY, MIB).unwrap();
    KernelInfo {
        format: KernelFormat::Elf,
        protocol,
        entry: GuestAddress(0x10_0200),
        loaded: range,
        reserved: range,
        initrd_end_max: GuestAddress(RAM_BYTES),
        cmdline_max_bytes: 2047,
        version: None,
        boot_header: Vec::new(),
    }
}

/// Writes boot data into memory of which every byte below 1 MiB is 0xcc.
fn write(
    kernel: &KernelInfo,
    cmdline: &str,
    rng_seed: &[u8],
) -> Result<(BootState, GuestMemoryMmap), BootError> {
    let size = usize::try_from(RAM_BYTES).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
    memory.write_slice(&vec![0xcc; 1 << 20], GuestAddress(0)).unwrap();
    let layout = X86_64::memory_layout(RAM_BYTES, 46).unwrap();
    let boot = BootInfo { kernel, initrd: None, cmdline, rng_seed };
    let platform = Platform { vcpus: 2, pci: true, virtio_mmio: Vec::new() };
    let state = X86_64::write_boot_data(&memory, &layout, &boot, &platform)?;
    Ok((state, memory))
}

fn read(memory: &GuestMemoryMmap, start: GuestAddress, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    memory.read_slice(&mut bytes, start).unwrap();
    bytes
}

fn untouched(memory: &GuestMemoryMmap, place: GuestRange) -> bool {
    read(memory, place.start(), place.size()).iter().all(|byte| *byte == 0xcc)
}

#[test]
fn linux64_finds_all_that_its_registers_point_to() {
    let (state, memory) = write(&kernel(BootProtocol::Linux64), "console=ttyS0", &[7; 32]).unwrap();
    assert_eq!(state.rip, 0x10_0200);

    let page = read(&memory, GuestAddress(state.rsi), 4096);
    assert_eq!(&page[0x202..0x206], b"HdrS");
    let rsdp = u64::from_le_bytes(page[0x70..0x78].try_into().unwrap());
    assert_eq!(&read(&memory, GuestAddress(rsdp), 8), b"RSD PTR ");
    let cmdline = u32::from_le_bytes(page[0x228..0x22c].try_into().unwrap());
    assert_eq!(read(&memory, GuestAddress(cmdline.into()), 14), b"console=ttyS0\0");
    let setup_data = u64::from_le_bytes(page[0x250..0x258].try_into().unwrap());
    assert_eq!(read(&memory, GuestAddress(setup_data + 16), 33)[30..], [7, 7, 0xcc]);

    let place = layout::PAGE_TABLES;
    assert_eq!(state.cr3, place.start().0);
    assert_eq!(
        read(&memory, place.start(), place.size()),
        page_tables::identity_map(place.start())
    );
    assert_eq!(read(&memory, GuestAddress(state.gdt_base), state.gdt().len() as u64), state.gdt());
    assert!(untouched(&memory, layout::START_INFO));
}

#[test]
fn pvh_finds_all_that_its_registers_point_to_and_needs_no_page_tables() {
    let (state, memory) = write(&kernel(BootProtocol::Pvh), "console=ttyS0", &[7; 32]).unwrap();
    assert_eq!((state.rip, state.rsi, state.cr3), (0x10_0200, 0, 0));

    let info = read(&memory, GuestAddress(state.rbx), 56);
    assert_eq!(info[..4], 0x336e_c578_u32.to_le_bytes());
    let pointer = |offset: usize| {
        GuestAddress(u64::from_le_bytes(info[offset..offset + 8].try_into().unwrap()))
    };
    assert_eq!(read(&memory, pointer(24), 14), b"console=ttyS0\0");
    assert_eq!(&read(&memory, pointer(32), 8), b"RSD PTR ");
    assert_eq!(read(&memory, GuestAddress(state.gdt_base), state.gdt().len() as u64), state.gdt());
    for place in [layout::PAGE_TABLES, layout::BOOT_PARAMS, layout::SETUP_DATA] {
        assert!(untouched(&memory, place), "{place}");
    }
}

#[test]
fn nothing_is_written_outside_the_places_of_the_boot_data() {
    for protocol in [BootProtocol::Linux64, BootProtocol::Pvh] {
        let (_, memory) = write(&kernel(protocol), "quiet", &[7; 4080]).unwrap();
        for (start, end) in
            [(0, 0x1000), (0x6000, 0x8000), (0xe000, 0x1_0000), (0x2_0000, 0xe_0000)]
        {
            let place = GuestRange::from_bounds(GuestAddress(start), GuestAddress(end));
            assert!(untouched(&memory, place), "{protocol}: {place}");
        }
        assert_eq!(read(&memory, layout::HIGH_MEMORY, MIB), vec![0; 1 << 20]);
    }
}

#[test]
fn empty_command_line_is_a_nul() {
    let (_, memory) = write(&kernel(BootProtocol::Linux64), "", &[]).unwrap();
    assert_eq!(read(&memory, layout::CMDLINE.start(), 2), [0, 0xcc]);
}

#[test]
fn command_line_up_to_the_kernels_limit_is_taken_whole() {
    let longest = "x".repeat(2047);
    for protocol in [BootProtocol::Linux64, BootProtocol::Pvh] {
        let (_, memory) = write(&kernel(protocol), &longest, &[]).unwrap();
        let bytes = read(&memory, layout::CMDLINE.start(), 2049);
        assert_eq!(bytes[..2047], *longest.as_bytes());
        assert_eq!(bytes[2047..], [0, 0xcc]);
    }
}

#[test]
fn command_line_that_cannot_be_handed_over_is_refused() {
    let endless = KernelInfo { cmdline_max_bytes: usize::MAX, ..kernel(BootProtocol::Linux64) };
    let (long, longer) = ("x".repeat(2048), "x".repeat(0x1_0000));
    for (kernel, cmdline, expected) in [
        (
            kernel(BootProtocol::Linux64),
            long.as_str(),
            "the kernel command line has 2048 bytes; this kernel takes 2047",
        ),
        (
            kernel(BootProtocol::Pvh),
            &long,
            "the kernel command line has 2048 bytes; this kernel takes 2047",
        ),
        (endless, &longer, "the kernel command line has 65536 bytes; this kernel takes 65535"),
        (
            kernel(BootProtocol::Pvh),
            "root=/dev/vda\0init=/bin/sh",
            "the kernel command line contains a NUL byte",
        ),
    ] {
        assert_eq!(write(&kernel, cmdline, &[]).unwrap_err().to_string(), expected);
    }
}

#[test]
fn memory_that_is_not_as_laid_out_is_an_error() {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x8000)]).unwrap();
    let layout = X86_64::memory_layout(RAM_BYTES, 46).unwrap();
    let kernel = kernel(BootProtocol::Linux64);
    let boot = BootInfo { kernel: &kernel, initrd: None, cmdline: "", rng_seed: &[] };
    let platform = Platform { vcpus: 1, ..Platform::default() };
    let error = X86_64::write_boot_data(&memory, &layout, &boot, &platform).unwrap_err();
    assert!(matches!(error, BootError::GuestMemory { .. }), "{error}");
}
