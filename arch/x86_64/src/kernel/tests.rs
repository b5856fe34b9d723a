//! Small synthetic kernels, good and hostile.

mod files;
mod fuzz;
mod refused;

use std::io::Cursor;

use arch::{BootError, BootProtocol, GuestRange, KernelFormat, KernelInfo};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::layout::{self, memory_layout};
use files::{ELF_DATA, bzimage, elf, patched, put, pvh};

type GuestMemoryMmap = vm_memory::GuestMemoryMmap<()>;

const MIB: u64 = 1 << 20;
const RAM_BYTES: u64 = 8 * MIB;

/// Guest memory from 1 MiB up: a kernel that were put below would hit no memory at all.
fn memory() -> GuestMemoryMmap {
    let size = usize::try_from(RAM_BYTES - MIB).unwrap();
    GuestMemoryMmap::from_ranges(&[(layout::HIGH_MEMORY, size)]).unwrap()
}

fn load_into(memory: &GuestMemoryMmap, file: Vec<u8>) -> Result<KernelInfo, BootError> {
    let layout = memory_layout(RAM_BYTES, 46).unwrap();
    load(memory, &layout, &mut Cursor::new(file))
}

fn loaded(file: Vec<u8>) -> (KernelInfo, GuestMemoryMmap) {
    let memory = memory();
    let info = load_into(&memory, file).unwrap_or_else(|error| panic!("{error}"));
    (info, memory)
}

fn read(memory: &GuestMemoryMmap, address: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn range(start: u64, end: u64) -> GuestRange {
    GuestRange::from_bounds(GuestAddress(start), GuestAddress(end))
}

#[test]
fn vmlinux_is_loaded_where_its_program_headers_say() {
    let file = elf();
    let (info, memory) = loaded(file.clone());
    assert_eq!(
        info,
        KernelInfo {
            format: KernelFormat::Elf,
            protocol: BootProtocol::Linux64,
            entry: GuestAddress(0x10_0020),
            loaded: range(0x10_0000, 0x10_3000),
            reserved: range(0x10_0000, 0x10_3000),
            initrd_end_max: GuestAddress(RAM_BYTES),
            cmdline_max_bytes: 2047,
            version: None,
            boot_header: Vec::new(),
        }
    );
    assert_eq!(read(&memory, 0x10_0000, 0x100), file[files::CODE..files::CODE + 0x100]);
    assert_eq!(read(&memory, 0x10_2000, 0x40), file[ELF_DATA..ELF_DATA + 0x40]);
    assert_eq!(read(&memory, 0x10_0100, 0x1f00), [0; 0x1f00]);
    assert_eq!(read(&memory, 0x10_2040, 0xfc0), [0; 0xfc0]);
}

#[test]
fn vmlinux_with_a_pvh_note_is_entered_there() {
    for (what, content) in
        [("4 bytes", &0x10_0040_u32.to_le_bytes()[..]), ("8 bytes", &0x10_0040_u64.to_le_bytes())]
    {
        let (info, _) = loaded(pvh(content));
        assert_eq!((info.protocol, info.entry.0), (BootProtocol::Pvh, 0x10_0040), "{what}");
    }
}

#[test]
fn pvh_note_is_found_behind_other_notes_and_in_a_later_header() {
    let mut notes = files::note(b"GNU\0", 3, &[1, 2, 3]);
    notes.extend(files::note(b"Xen", files::PHYS32_ENTRY, &[0; 8]));
    notes.extend(files::note(b"Xen\0", 5, b"Linux\0"));
    notes.extend(files::note(b"Xen\0", files::PHYS32_ENTRY, &0x10_0040_u64.to_le_bytes()));
    let file = files::with_notes(&notes);
    assert_eq!(loaded(file.clone()).0.entry.0, 0x10_0040);

    // The last program header, unused so far, describes the notes; the first one none of them.
    let header = file[files::NOTE_HEADER..files::NOTE_HEADER + 56].to_vec();
    let mut file = patched(file, files::program_header(3), &header);
    put(&mut file, files::NOTE_HEADER + 32, &0_u64.to_le_bytes());
    assert_eq!(loaded(file.clone()).0.entry.0, 0x10_0040);

    // The other way around.
    let mut file = patched(file, files::NOTE_HEADER, &header);
    put(&mut file, files::program_header(3) + 32, &0_u64.to_le_bytes());
    assert_eq!(loaded(file).0.entry.0, 0x10_0040);
}

#[test]
fn notes_that_make_no_sense_leave_the_64_bit_entry() {
    let entry = 0x10_0040_u64.to_le_bytes();
    let good = files::note(b"Xen\0", files::PHYS32_ENTRY, &entry);
    for (what, notes) in [
        ("no notes", Vec::new()),
        ("half a header", vec![4, 0, 0, 0, 8, 0]),
        ("huge name", patched(good.clone(), 0, &u32::MAX.to_le_bytes())),
        (
            "name up to the limit of rounding",
            patched(good.clone(), 0, &0xffff_fffc_u32.to_le_bytes()),
        ),
        ("huge content", patched(good.clone(), 4, &u32::MAX.to_le_bytes())),
        ("content one byte past the end", patched(good.clone(), 4, &9_u32.to_le_bytes())),
        ("entry of 3 bytes", files::note(b"Xen\0", files::PHYS32_ENTRY, &entry[..3])),
        ("another owner", files::note(b"GNU\0", files::PHYS32_ENTRY, &entry)),
        ("cut in the content", good[..good.len() - 1].to_vec()),
        ("misaligned before the entry", [vec![0], good.clone()].concat()),
    ] {
        let (info, _) = loaded(files::with_notes(&notes));
        assert_eq!((info.protocol, info.entry.0), (BootProtocol::Linux64, 0x10_0020), "{what}");
    }
}

#[test]
fn last_note_needs_no_padding() {
    let mut notes = files::note(b"Xen\0", files::PHYS32_ENTRY, &0x10_0040_u64.to_le_bytes());
    notes.truncate(12 + 4 + 8);
    assert_eq!(loaded(files::with_notes(&notes)).0.protocol, BootProtocol::Pvh);
    let mut notes = files::note(b"Xen\0", files::PHYS32_ENTRY, &[0x40, 0, 0x10, 0, 0]);
    notes.truncate(12 + 4 + 5);
    assert_eq!(loaded(files::with_notes(&notes)).0.entry.0, 0x10_0040);
}

#[test]
fn notes_longer_than_any_kernels_are_not_read() {
    let size = 64 * 1024 + 4;
    let mut notes = files::note(b"Xen\0", files::PHYS32_ENTRY, &0x10_0040_u64.to_le_bytes());
    notes.resize(size, 0);
    assert_eq!(loaded(files::with_notes(&notes)).0.protocol, BootProtocol::Linux64);
    notes.truncate(size - 4);
    assert_eq!(loaded(files::with_notes(&notes)).0.protocol, BootProtocol::Pvh);
}

#[test]
fn segment_without_memory_is_ignored_wherever_it_claims_to_be() {
    let mut file = patched(elf(), files::program_header(3), &1_u32.to_le_bytes());
    put(&mut file, files::program_header(3) + 24, &7_u64.to_le_bytes());
    assert_eq!(loaded(file).0.loaded, range(0x10_0000, 0x10_3000));
}

#[test]
fn segment_without_file_bytes_takes_only_memory() {
    let mut file = patched(elf(), files::program_header(3), &1_u32.to_le_bytes());
    put(&mut file, files::program_header(3) + 24, &0x10_8000_u64.to_le_bytes());
    put(&mut file, files::program_header(3) + 40, &0x1000_u64.to_le_bytes());
    assert_eq!(loaded(file).0.reserved, range(0x10_0000, 0x10_9000));
}

#[test]
fn bzimage_is_loaded_at_its_preferred_address() {
    let file = bzimage();
    let (info, memory) = loaded(file.clone());
    assert_eq!(
        info,
        KernelInfo {
            format: KernelFormat::BzImage,
            protocol: BootProtocol::Linux64,
            entry: GuestAddress(0x20_0200),
            loaded: range(0x20_0000, 0x20_0400),
            reserved: range(0x20_0000, 0x21_0000),
            initrd_end_max: GuestAddress(0x8000_0000),
            cmdline_max_bytes: 2047,
            version: Some("6.12.0-test".to_owned()),
            boot_header: file[0x1f1..0x26c].to_vec(),
        }
    );
    assert_eq!(read(&memory, 0x20_0000, 0x400), file[0x600..0xa00]);
}

#[test]
fn what_follows_the_code_is_not_loaded() {
    let mut file = bzimage();
    file.resize(file.len() + 0x2_0000, 0xa5);
    let (info, memory) = loaded(file);
    assert_eq!(info.loaded, range(0x20_0000, 0x20_0400));
    assert_eq!(info.reserved, range(0x20_0000, 0x21_0000));
    assert_eq!(read(&memory, 0x20_0400, 16), [0; 16]);
}

#[test]
fn signature_may_be_larger_than_the_guests_memory() {
    let mut file = bzimage();
    file.resize(file.len() + usize::try_from(RAM_BYTES).unwrap(), 0xa5);
    assert_eq!(loaded(file).0.loaded.size(), 0x400);
}

#[test]
fn last_paragraph_of_the_code_need_not_be_whole() {
    let mut file = bzimage();
    file.truncate(0xa00 - 15);
    let (info, memory) = loaded(file.clone());
    assert_eq!(info.loaded.size(), 0x400 - 15);
    assert_eq!(read(&memory, 0x20_03f0, 2), [file[0x9f0], 0]);
}

#[test]
fn setup_of_no_sectors_has_four() {
    let file = bzimage();
    let mut four = patched(file.clone(), 0x1f1, &[0]);
    four.splice(0x600..0x600, [0; 0x400]);
    let (_, memory) = loaded(four);
    assert_eq!(read(&memory, 0x20_0000, 0x400), file[0x600..0xa00]);
}

#[test]
fn code_larger_than_what_it_says_it_needs_is_reserved_whole() {
    let file = patched(bzimage(), 0x260, &1_u32.to_le_bytes());
    assert_eq!(loaded(file).0.reserved, range(0x20_0000, 0x20_0400));
}

#[test]
fn kernel_may_fill_ram_to_the_last_byte() {
    let fits = u32::try_from(RAM_BYTES - 2 * MIB).unwrap();
    let (info, _) = loaded(patched(bzimage(), 0x260, &fits.to_le_bytes()));
    assert_eq!(info.reserved.end().0, RAM_BYTES);
    let error =
        load_into(&memory(), patched(bzimage(), 0x260, &(fits + 1).to_le_bytes())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the kernel does not fit into 8 MiB of guest memory: at least 9 MiB are needed"
    );
}

#[test]
fn version_is_read_from_the_setup_code_only() {
    for (what, pointer, expected) in [
        ("none", 0, None),
        ("in the code", 0x400, None),
        ("far outside", 0xffff, None),
        ("last byte of the setup code", 0x3ff, Some("x")),
        ("blank", 0x300, None),
    ] {
        let mut file = patched(bzimage(), 0x20e, &u16::to_le_bytes(pointer));
        file[0x200] = b'x';
        file[0x5ff] = b'x';
        file[0x600] = b'y';
        assert_eq!(loaded(file).0.version.as_deref(), expected, "{what}");
    }
}

#[test]
fn version_without_an_end_is_cut() {
    let mut file = bzimage();
    file[0x480..0x600].fill(b'7');
    assert_eq!(loaded(file).0.version.unwrap().len(), 256);
}

/// Files that are well-formed go where rust-vmm's own loader puts them, and are entered alike.
#[cfg(target_arch = "x86_64")]
#[test]
fn good_files_are_loaded_as_linux_loader_does() {
    use linux_loader::loader::elf::PvhBootCapability;
    use linux_loader::loader::{BzImage, Elf, KernelLoader};

    let size = usize::try_from(RAM_BYTES - MIB).unwrap();
    for file in [elf(), pvh(&0x10_0040_u64.to_le_bytes())] {
        let (info, ours) = loaded(file.clone());
        let theirs = memory();
        let result = Elf::load(&theirs, None, &mut Cursor::new(file), None).unwrap();
        let entry = match result.pvh_boot_cap {
            PvhBootCapability::PvhEntryPresent(entry) => entry,
            _ => result.kernel_load,
        };
        assert_eq!((info.entry, info.reserved.end().0), (entry, result.kernel_end));
        assert_eq!(read(&ours, MIB, size), read(&theirs, MIB, size));
    }
    let file = bzimage();
    let (info, ours) = loaded(file.clone());
    let theirs = memory();
    let at = Some(info.loaded.start());
    let result = BzImage::load(&theirs, at, &mut Cursor::new(file), None).unwrap();
    assert_eq!(info.loaded.start(), result.kernel_load);
    assert_eq!(read(&ours, MIB, size), read(&theirs, MIB, size));
}
