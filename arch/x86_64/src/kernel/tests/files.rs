//! Builds the files.

/// `XEN_ELFNOTE_PHYS32_ENTRY`.
pub(super) const PHYS32_ENTRY: u32 = 18;
/// Where the program headers of [`elf`] start: notes, code, data, one unused.
const PROGRAM_HEADERS: usize = 64;
/// The program header of the notes.
pub(super) const NOTE_HEADER: usize = program_header(0);
/// Where [`elf`] has its code, 0x100 bytes for 1 MiB.
pub(super) const CODE: usize = 0x140;
/// Where it has its data, 0x40 bytes of a page at 1 MiB and 8 KiB.
pub(super) const ELF_DATA: usize = 0x240;
/// Where it has its notes: at the end.
pub(super) const NOTES: usize = 0x280;

/// Returns where the program header of that number is.
pub(super) const fn program_header(index: usize) -> usize {
    PROGRAM_HEADERS + index * 56
}

/// Overwrites what is at `offset`.
pub(super) fn put(file: &mut [u8], offset: usize, bytes: &[u8]) {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Returns `file` with `bytes` at `offset`.
pub(super) fn patched(mut file: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    put(&mut file, offset, bytes);
    file
}

/// Returns bytes of which no two neighbours are the same.
fn pattern(size: usize) -> impl Iterator<Item = u8> {
    (1..=251).cycle().take(size)
}

/// Makes a vmlinux with a 64-bit entry and no notes.
pub(super) fn elf() -> Vec<u8> {
    let mut file = vec![0; CODE];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &2_u16.to_le_bytes());
    put(&mut file, 18, &62_u16.to_le_bytes());
    put(&mut file, 24, &0x10_0020_u64.to_le_bytes());
    put(&mut file, 32, &(PROGRAM_HEADERS as u64).to_le_bytes());
    put(&mut file, 54, &56_u16.to_le_bytes());
    put(&mut file, 56, &4_u16.to_le_bytes());
    segment(&mut file, 0, 4, [NOTES as u64, 0, 0, 0]);
    segment(&mut file, 1, 1, [CODE as u64, 0x10_0000, 0x100, 0x100]);
    segment(&mut file, 2, 1, [ELF_DATA as u64, 0x10_2000, 0x40, 0x1000]);
    file.extend(pattern(0x140));
    file
}

/// Writes a program header: type, then offset, physical address, bytes in the file and in memory.
fn segment(file: &mut [u8], index: usize, kind: u32, [offset, address, size, memory]: [u64; 4]) {
    let at = program_header(index);
    put(file, at, &kind.to_le_bytes());
    for (field, value) in [(8, offset), (16, !0), (24, address), (32, size), (40, memory)] {
        put(file, at + field, &value.to_le_bytes());
    }
}

/// Makes a vmlinux with these notes.
pub(super) fn with_notes(notes: &[u8]) -> Vec<u8> {
    let mut file = elf();
    put(&mut file, NOTE_HEADER + 32, &(notes.len() as u64).to_le_bytes());
    file.extend(notes);
    file
}

/// Makes a vmlinux with PVH's note of this content.
pub(super) fn pvh(content: &[u8]) -> Vec<u8> {
    with_notes(&note(b"Xen\0", PHYS32_ENTRY, content))
}

/// Makes one note.
pub(super) fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let mut note = [length(name), length(content), kind.to_le_bytes()].concat();
    for part in [name, content] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// Makes a bzImage: two sectors of setup code, 0x400 bytes of protected-mode code for 2 MiB.
pub(super) fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 0x600];
    put(&mut file, 0, b"MZ");
    put(&mut file, 0x1f1, &[2]);
    put(&mut file, 0x1f4, &0x40_u32.to_le_bytes());
    put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &0x20f_u16.to_le_bytes());
    put(&mut file, 0x20e, &0x280_u16.to_le_bytes());
    put(&mut file, 0x211, &[1]);
    put(&mut file, 0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(&mut file, 0x236, &1_u16.to_le_bytes());
    put(&mut file, 0x238, &2047_u32.to_le_bytes());
    put(&mut file, 0x248, &0x300_u32.to_le_bytes());
    put(&mut file, 0x24c, &0x80_u32.to_le_bytes());
    put(&mut file, 0x258, &0x20_0000_u64.to_le_bytes());
    put(&mut file, 0x260, &0x1_0000_u32.to_le_bytes());
    put(&mut file, 0x480, b"6.12.0-test (somebody@somewhere) #1\0");
    file.extend(pattern(0x400));
    put(&mut file, 0x900, &[0x28, 0xb5, 0x2f, 0xfd]);
    file
}
