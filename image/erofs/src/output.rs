//! Sequential writing of blocks to a file, with holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use twox_hash::XxHash3_128;
use zerocopy::IntoBytes;

use crate::ondisk::{self, BLOCK_SIZE, SUPER_AREA, SUPER_OFFSET, SuperBlock};

const BUFFER_SIZE: usize = 1 << 20;
/// Zeros up to this many bytes are written rather than skipped.
const SMALL_SKIP: usize = 64 << 10;

/// Appends to a file that was emptied before, and hashes what it appends.
pub(crate) struct Output<'a> {
    file: &'a File,
    buffer: Vec<u8>,
    /// Where the buffer's first byte belongs.
    start: u64,
    hash: XxHash3_128,
}

impl<'a> Output<'a> {
    /// Empties `file`; what's appended begins in its second block, after the superblock's.
    pub(crate) fn new(file: &'a File) -> io::Result<Self> {
        file.set_len(0)?;
        let buffer = Vec::with_capacity(BUFFER_SIZE);
        Ok(Self { file, buffer, start: BLOCK_SIZE, hash: XxHash3_128::new() })
    }

    /// Where the next byte goes.
    pub(crate) fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// The block that begins at the position, which must be a block's start. `None` if it's beyond
    /// what 32 bits can address.
    pub(crate) fn block(&self) -> Option<u32> {
        debug_assert_eq!(self.position() % BLOCK_SIZE, 0);
        u32::try_from(self.position() / BLOCK_SIZE).ok().filter(|&block| block != ondisk::HOLE)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER_SIZE {
            self.flush()?;
        }
        if bytes.len() < BUFFER_SIZE {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.write_through(bytes)
    }

    /// Moves on by `len` bytes, which read as zeros.
    pub(crate) fn skip(&mut self, len: u64) -> io::Result<()> {
        static ZEROS: [u8; SMALL_SKIP] = [0; SMALL_SKIP];
        if let Some(zeros) = usize::try_from(len).ok().and_then(|len| ZEROS.get(..len)) {
            return self.write(zeros);
        }
        self.flush()?;
        self.start = self.start.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
        self.hash.write(&len.to_le_bytes());
        Ok(())
    }

    /// Moves on to the next block's start.
    pub(crate) fn pad_to_block(&mut self) -> io::Result<()> {
        self.skip(self.position().next_multiple_of(BLOCK_SIZE) - self.position())
    }

    /// Writes the superblock, whose volume's UUID and checksum it makes, and what's buffered.
    pub(crate) fn finish(mut self, mut superblock: SuperBlock, len: u64) -> io::Result<()> {
        self.flush()?;
        self.hash.write(superblock.as_bytes());
        superblock.uuid = self.hash.finish_128().to_le_bytes();
        // RFC 9562 §5.8: a custom version, and the variant.
        superblock.uuid[6] = superblock.uuid[6] & 0x0f | 0x80;
        superblock.uuid[8] = superblock.uuid[8] & 0x3f | 0x80;
        let mut rest = [0; SUPER_AREA];
        rest[..size_of::<SuperBlock>()].copy_from_slice(superblock.as_bytes());
        superblock.checksum = ondisk::crc32c(&rest).into();
        self.file.write_all_at(superblock.as_bytes(), SUPER_OFFSET)?;
        self.file.set_len(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        self.write_through(&buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn write_through(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.start)?;
        self.start += bytes.len() as u64;
        self.hash.write(bytes);
        Ok(())
    }
}
