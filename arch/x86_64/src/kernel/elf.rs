//! `vmlinux`: an ELF executable, entered by PVH's note where it has one, else at its 64-bit entry.

use std::io::{Read, Seek};

use arch::{BootError, BootProtocol, GuestRange, KernelFormat, KernelInfo, MemoryLayout};
use vm_memory::{GuestAddress, GuestMemoryBackend, ReadVolatile};

use super::{Source, check_room, malformed, not_64_bit, number, read_at, read_into};
use crate::layout;

/// Byte 4 of an ELF file: 64-bit (System V ABI, "ELF Identification").
const CLASS_64: u64 = 2;
/// Byte 5: little-endian.
const LITTLE_ENDIAN: u64 = 1;
/// `e_type`: executable at fixed addresses.
const EXECUTABLE: u64 = 2;
/// `e_machine` of x86_64 and of others that people have lying about.
const X86_64: u64 = 62;
const I386: u64 = 3;
const AARCH64: u64 = 183;
const RISCV: u64 = 243;
/// Size of a program header.
const PROGRAM_HEADER_BYTES: u64 = 56;
/// Linux has five; a file with more than this is no kernel.
const PROGRAM_HEADERS_MAX: u64 = 64;
/// `p_type`: loaded, and notes.
const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;
/// Notes longer than this are not looked at.
const NOTES_MAX_BYTES: u64 = 64 << 10;
/// Xen's note that holds PVH's 32-bit entry point (Xen public/elfnote.h,
/// `XEN_ELFNOTE_PHYS32_ENTRY`).
const PHYS32_ENTRY: u64 = 18;
/// `COMMAND_LINE_SIZE` of x86 without the terminating NUL; the file doesn't say.
const CMDLINE_MAX_BYTES: usize = 2047;

/// A part of the file that is loaded, its addresses checked.
struct Segment {
    offset: u64,
    file_bytes: u64,
    range: GuestRange,
}

/// Loads a vmlinux where its program headers say.
pub(super) fn load<M, F>(
    memory: &M,
    layout: &MemoryLayout,
    file: &mut F,
    source: &Source<'_>,
) -> Result<KernelInfo, BootError>
where
    M: GuestMemoryBackend,
    F: Read + Seek + ReadVolatile,
{
    let entry_64 = check_header(source)?;
    let headers = program_headers(file, source)?;
    let mut segments = Vec::new();
    let mut pvh = None;
    for header in headers.chunks_exact(56) {
        match number::<4>(header, 0) {
            Some(PT_LOAD) => segments.extend(segment(header, source)?),
            Some(PT_NOTE) if pvh.is_none() => pvh = pvh_entry(file, header, source)?,
            _ => {}
        }
    }
    let (protocol, entry) = match pvh {
        Some(entry) => (BootProtocol::Pvh, entry),
        None => (BootProtocol::Linux64, entry_64),
    };
    let entry = GuestAddress(entry);
    if !segments.iter().any(|segment| segment.range.contains(entry)) {
        return Err(malformed(format!("its entry point {:#x} is in no segment", entry.0)));
    }
    let start = segments.iter().map(|segment| segment.range.start()).min().unwrap_or(entry);
    let end = segments.iter().map(|segment| segment.range.end()).max().unwrap_or(entry);
    let reserved = GuestRange::from_bounds(start, end);
    check_room(layout, &reserved)?;
    for segment in &segments {
        let address = segment.range.start();
        read_into(memory, file, segment.offset, address, segment.file_bytes)?;
    }
    Ok(KernelInfo {
        format: KernelFormat::Elf,
        protocol,
        entry,
        loaded: reserved,
        reserved,
        initrd_end_max: layout.low_ram().end(),
        cmdline_max_bytes: CMDLINE_MAX_BYTES,
        version: None,
        boot_header: Vec::new(),
    })
}

/// Checks the file header and returns the entry point, a physical address in Linux's `vmlinux`.
fn check_header(source: &Source<'_>) -> Result<u64, BootError> {
    source.check("the ELF header", 0, 64)?;
    let head = source.head;
    let machine = number::<2>(head, 18);
    match machine {
        Some(AARCH64) => {
            return Err(BootError::WrongMachine { found: "aarch64", expected: "x86_64" });
        }
        Some(RISCV) => return Err(BootError::WrongMachine { found: "riscv", expected: "x86_64" }),
        Some(X86_64 | I386) => {}
        _ => return Err(BootError::WrongMachine { found: "another CPU", expected: "x86_64" }),
    }
    if number::<1>(head, 4) != Some(CLASS_64) || machine == Some(I386) {
        return Err(not_64_bit(KernelFormat::Elf));
    }
    if number::<1>(head, 5) != Some(LITTLE_ENDIAN) {
        return Err(malformed("it is big-endian".to_owned()));
    }
    if number::<2>(head, 16) != Some(EXECUTABLE) {
        let reason = "it is no executable at fixed addresses, as a vmlinux is".to_owned();
        return Err(BootError::Unsupported { reason });
    }
    number::<8>(head, 24).ok_or_else(|| malformed("it has no entry point".to_owned()))
}

/// Reads all program headers.
fn program_headers<F: Read + Seek>(
    file: &mut F,
    source: &Source<'_>,
) -> Result<Vec<u8>, BootError> {
    let offset = number::<8>(source.head, 32).unwrap_or_default();
    let size = number::<2>(source.head, 54).unwrap_or_default();
    let count = number::<2>(source.head, 56).unwrap_or_default();
    if size != PROGRAM_HEADER_BYTES || count == 0 || count > PROGRAM_HEADERS_MAX {
        return Err(malformed(format!("it has {count} program headers of {size} bytes")));
    }
    source.check("the program header table", offset, size * count)?;
    read_at(file, offset, size * count)
}

/// Checks one loaded segment; one without any memory is none.
fn segment(header: &[u8], source: &Source<'_>) -> Result<Option<Segment>, BootError> {
    let field = |offset| number::<8>(header, offset).unwrap_or_default();
    let (offset, address, file_bytes, memory_bytes) = (field(8), field(24), field(32), field(40));
    if memory_bytes == 0 {
        return Ok(None);
    }
    if file_bytes > memory_bytes {
        return Err(malformed("a segment has more bytes in the file than in memory".to_owned()));
    }
    source.check("a segment", offset, file_bytes)?;
    let range = GuestRange::new(GuestAddress(address), memory_bytes)
        .filter(|range| range.start() >= layout::HIGH_MEMORY)
        .ok_or_else(|| malformed(format!("a segment wants to be loaded at {address:#x}")))?;
    Ok(Some(Segment { offset, file_bytes, range }))
}

/// Looks for PVH's entry point among the notes that `header` describes.
fn pvh_entry<F: Read + Seek>(
    file: &mut F,
    header: &[u8],
    source: &Source<'_>,
) -> Result<Option<u64>, BootError> {
    let offset = number::<8>(header, 8).unwrap_or_default();
    let size = number::<8>(header, 32).unwrap_or_default();
    if size > NOTES_MAX_BYTES {
        return Ok(None);
    }
    source.check("the note segment", offset, size)?;
    let notes = read_at(file, offset, size)?;
    let mut rest = notes.as_slice();
    while let Some((note, next)) = split_note(rest) {
        if note.kind == PHYS32_ENTRY && note.name == b"Xen\0" {
            // Linux writes 4 bytes or 8, by its own word size.
            return Ok(number::<8>(note.content, 0).or_else(|| number::<4>(note.content, 0)));
        }
        rest = next;
    }
    Ok(None)
}

struct Note<'a> {
    kind: u64,
    name: &'a [u8],
    content: &'a [u8],
}

/// Splits off the first note: three words, the name and the content, each padded to four bytes.
fn split_note(bytes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let name_bytes = usize::try_from(number::<4>(bytes, 0)?).ok()?;
    let content_bytes = usize::try_from(number::<4>(bytes, 4)?).ok()?;
    let kind = number::<4>(bytes, 8)?;
    let content_start = 12_usize.checked_add(name_bytes.checked_next_multiple_of(4)?)?;
    let content_end = content_start.checked_add(content_bytes)?;
    let end = content_start.checked_add(content_bytes.checked_next_multiple_of(4)?)?;
    let note = Note {
        kind,
        name: bytes.get(12..12 + name_bytes)?,
        content: bytes.get(content_start..content_end)?,
    };
    Some((note, bytes.get(end..).unwrap_or_default()))
}
