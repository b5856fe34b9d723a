//! Recognises a kernel by its content and reads it into guest memory.

mod bzimage;
mod elf;
#[cfg(test)]
mod tests;

use std::io::{Read, Seek, SeekFrom};

use arch::{BootError, GuestRange, Image, KernelFormat, KernelInfo, MemoryLayout, image_size};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, ReadVolatile};

/// How much of a file is looked at to find out what it is: more than the longest setup header.
const HEAD_BYTES: u64 = 4096;

/// Reads the kernel in `file` into `memory`.
///
/// # Errors
/// [`BootError`] for anything that isn't a 64-bit x86 kernel, and one that doesn't fit.
pub(crate) fn load<M, F>(
    memory: &M,
    layout: &MemoryLayout,
    file: &mut F,
) -> Result<KernelInfo, BootError>
where
    M: GuestMemoryBackend,
    F: Read + Seek + ReadVolatile,
{
    let file_bytes = image_size(file, Image::Kernel)?;
    let head = read_at(file, 0, HEAD_BYTES.min(file_bytes))?;
    let source = Source { head: &head, file_bytes };
    if head.starts_with(b"\x7fELF") {
        elf::load(memory, layout, file, &source)
    } else if bzimage::is_one(&head) {
        bzimage::load(memory, layout, file, &source)
    } else {
        Err(refuse(&head))
    }
}

/// The start of a kernel file, and how long the whole is.
struct Source<'a> {
    head: &'a [u8],
    file_bytes: u64,
}

impl Source<'_> {
    /// Checks that the file has all of `part`, which is `size` bytes at `offset`.
    fn check(&self, part: &'static str, offset: u64, size: u64) -> Result<(), BootError> {
        let needed_bytes = offset
            .checked_add(size)
            .ok_or_else(|| malformed(format!("{part} ends past the largest file")))?;
        if needed_bytes > self.file_bytes {
            return Err(BootError::Truncated { part, needed_bytes, file_bytes: self.file_bytes });
        }
        Ok(())
    }
}

/// Says what a file is that is no kernel for this machine.
fn refuse(head: &[u8]) -> BootError {
    // Linux Documentation/arch/arm64/booting.rst: the magic number is at byte 56.
    if head.get(56..60) == Some(b"ARM\x64") {
        return BootError::WrongMachine { found: "aarch64", expected: "x86_64" };
    }
    let found = match head {
        [0x1f, 0x8b, ..] => "a gzip-compressed file",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "a zstd-compressed file",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "an xz-compressed file",
        [b'0', b'7', b'0', b'7', b'0', ..] => "a cpio archive (an initrd?)",
        [b'M', b'Z', ..] => "an EFI program without a Linux boot header",
        _ if is_text(head) => "a text file",
        _ => "data of an unknown format",
    };
    BootError::Unrecognised { found }
}

fn is_text(head: &[u8]) -> bool {
    head.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'))
}

/// Reads `size` bytes at `offset`, which the caller has checked to be in the file and few.
fn read_at<F: Read + Seek>(file: &mut F, offset: u64, size: u64) -> Result<Vec<u8>, BootError> {
    let failed = |source| BootError::Read { image: Image::Kernel, source };
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut bytes = Vec::new();
    Read::take(&mut *file, size).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 != size {
        return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

/// Reads `size` bytes at `offset` of the file straight into guest memory.
fn read_into<M, F>(
    memory: &M,
    file: &mut F,
    offset: u64,
    address: GuestAddress,
    size: u64,
) -> Result<(), BootError>
where
    M: GuestMemoryBackend,
    F: Seek + ReadVolatile,
{
    let failed = |source| BootError::Read { image: Image::Kernel, source };
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let count =
        usize::try_from(size).map_err(|_| malformed("a segment is too large".to_owned()))?;
    vm_memory::Bytes::read_exact_volatile_from(memory, address, file, count).map_err(|source| {
        match source {
            GuestMemoryError::IOError(source) => failed(source),
            source => BootError::GuestMemory { what: "the kernel", address, source },
        }
    })
}

/// Checks that `range` lies in the RAM that a kernel may be put into.
fn check_room(layout: &MemoryLayout, range: &GuestRange) -> Result<(), BootError> {
    let ram = layout.low_ram();
    if range.end() <= ram.end() {
        return Ok(());
    }
    // Past the gap below 4 GiB no amount of memory helps.
    let needed_bytes =
        (range.end() <= crate::layout::MMIO_GAP.start()).then(|| range.end().0 - ram.start().0);
    Err(BootError::DoesNotFit { image: Image::Kernel, ram_bytes: layout.ram_bytes(), needed_bytes })
}

fn malformed(reason: String) -> BootError {
    BootError::Malformed { reason }
}

fn not_64_bit(format: KernelFormat) -> BootError {
    BootError::Not64Bit { format }
}

/// Reads a little-endian number at `offset` of `bytes`.
fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(N)?)?;
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(field);
    Some(u64::from_le_bytes(wide))
}
