//! What's in a bzImage (Linux, Documentation/arch/x86/boot.rst), read without any trust in it.

use std::io::{self, Read, Write};

use flate2::read::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use super::{CacheError, io_error};

/// Offsets of the setup header's fields in the file.
const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// How much of a file's start says whether it's a bzImage.
pub(super) const HEADER_BYTES: usize = 0x250;

/// The first version of the protocol whose header tells of the payload.
const PAYLOAD_VERSION: u16 = 0x0208;

/// The unit of the setup code's size.
const SECTOR_BYTES: usize = 512;

/// The largest kernel that's unpacked; Debian's with everything built in is a tenth of it.
const MAX_UNPACKED_BYTES: u32 = 512 << 20;

/// The most memory that a decompressor may take for its window: what `zstd -22` and `xz -9` need.
const MAX_WINDOW_BYTES: u64 = 128 << 20;

/// A compressed kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload<'a> {
    compression: Compression,
    /// What the decompressor reads.
    data: &'a [u8],
    /// How long the kernel is once it's unpacked.
    unpacked_bytes: u32,
}

/// How a payload is compressed; the kernel's other methods (bzip2, lzma, lzo) are rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Xz,
    Lz4,
    Zstd,
}

/// Each method's first bytes.
const MAGICS: [(&[u8], Compression); 4] = [
    (&[0x1f, 0x8b], Compression::Gzip),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0x00], Compression::Xz),
    // The legacy frame format.
    (&[0x02, 0x21, 0x4c, 0x18], Compression::Lz4),
    (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
];

/// Whether a file that starts like this is a bzImage whose header tells of its payload.
pub(super) fn is_bzimage(header: &[u8]) -> bool {
    let version = header.get(VERSION..VERSION + 2).and_then(|bytes| bytes.try_into().ok());
    header.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
        && version.is_some_and(|version| u16::from_le_bytes(version) >= PAYLOAD_VERSION)
}

impl<'a> Payload<'a> {
    /// Finds the payload of a bzImage.
    pub(super) fn find(image: &'a [u8]) -> Result<Self, CacheError> {
        if !is_bzimage(image) {
            return Err(CacheError::NotPacked);
        }
        let payload = slice(image).ok_or(CacheError::Damaged("it isn't all there"))?;
        let known = MAGICS.iter().find(|(magic, _)| payload.starts_with(magic));
        let &(_, compression) = known.ok_or(CacheError::UnknownCompression)?;
        // The kernel's build appends the size to every method's output but gzip's, which ends
        // with it anyway.
        let (data, size) =
            payload.split_last_chunk::<4>().ok_or(CacheError::Damaged("it's too short"))?;
        let data = if compression == Compression::Gzip { payload } else { data };
        let unpacked_bytes = u32::from_le_bytes(*size);
        if unpacked_bytes > MAX_UNPACKED_BYTES {
            return Err(CacheError::Damaged("it claims to be larger than any kernel"));
        }
        Ok(Self { compression, data, unpacked_bytes })
    }

    /// Writes the unpacked kernel: a 64-bit x86 ELF file of just the size that the payload tells.
    pub(super) fn unpack(&self, out: &mut impl Write) -> Result<(), CacheError> {
        let mut reader = self.decompressor()?;
        let mut start = [0; 20];
        reader
            .read_exact(&mut start)
            .map_err(|_| CacheError::Damaged("it can't be decompressed"))?;
        if !is_x86_64_elf(&start) {
            return Err(CacheError::Damaged("it holds no 64-bit x86 kernel"));
        }
        out.write_all(&start).map_err(io_error("the cache can't be written"))?;
        let expected = u64::from(self.unpacked_bytes).saturating_sub(start.len() as u64);
        // One byte more than there should be tells that there's more.
        let mut rest = reader.take(expected + 1);
        match copy(&mut rest, out)? {
            copied if copied == expected => Ok(()),
            _ => Err(CacheError::Damaged("it isn't of the size that it tells")),
        }
    }

    fn decompressor(&self) -> Result<Box<dyn Read + 'a>, CacheError> {
        let data = self.data;
        Ok(match self.compression {
            Compression::Gzip => Box::new(GzDecoder::new(data)),
            Compression::Lz4 => Box::new(FrameDecoder::new(data)),
            Compression::Xz => {
                let limit_kib = u32::try_from(2 * MAX_WINDOW_BYTES / 1024).unwrap_or(u32::MAX);
                Box::new(XzReader::new_mem_limit(data, false, limit_kib))
            }
            Compression::Zstd => Box::new(
                StreamingDecoder::new_with_max_window_size(data, MAX_WINDOW_BYTES)
                    .map_err(|_| CacheError::Damaged("it can't be decompressed"))?,
            ),
        })
    }
}

/// The payload's bytes, if the file has them all.
fn slice(image: &[u8]) -> Option<&[u8]> {
    let field = |offset: usize| {
        let bytes = image.get(offset..offset + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup_sects = match *image.get(SETUP_SECTS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = ((setup_sects + 1) * SECTOR_BYTES).checked_add(field(PAYLOAD_OFFSET)?)?;
    image.get(start..start.checked_add(field(PAYLOAD_LENGTH)?)?)
}

fn is_x86_64_elf(start: &[u8; 20]) -> bool {
    // Class 2 is 64-bit, data 1 is little-endian; the machine is at offset 18.
    start.starts_with(b"\x7fELF\x02\x01") && start.ends_with(&[62, 0])
}

/// Copies, and tells a damaged source from a cache that can't be written.
fn copy(reader: &mut impl Read, out: &mut impl Write) -> Result<u64, CacheError> {
    let mut buffer = vec![0; 256 * 1024];
    let mut copied = 0;
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(CacheError::Damaged("it can't be decompressed")),
        };
        let read = buffer.get(..length).unwrap_or_default();
        out.write_all(read).map_err(io_error("the cache can't be written"))?;
        copied += length as u64;
    }
}
