//! Buffers of this process between a file and guest memory, where the way straight isn't possible.

use std::io;

use sys::memory::GuestRam;
use vm_memory::{Address, Bytes, GuestAddress};

use crate::virtio::Segment;

/// How much is bounced at a time, in bytes.
const CHUNK: usize = 256 << 10;

/// Zeroed memory that starts at a multiple of an alignment.
pub(super) struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Allocates `len` bytes aligned to `alignment`, a power of two.
    pub(super) fn new(len: usize, alignment: usize) -> Self {
        let bytes = vec![0; len.saturating_add(alignment)];
        let start = bytes.as_ptr().align_offset(alignment);
        Self { bytes, start, len }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..).and_then(|rest| rest.get(..self.len)).unwrap_or_default()
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        let len = self.len;
        self.bytes.get_mut(self.start..).and_then(|rest| rest.get_mut(..len)).unwrap_or_default()
    }
}

/// Carries requests out through an aligned buffer, which is allocated for the first.
pub(super) struct Bounce {
    memory: GuestRam,
    alignment: usize,
    buffer: Option<AlignedBuffer>,
}

impl Bounce {
    /// Creates a bounce buffer aligned to `alignment` bytes, a power of two.
    pub(super) fn new(memory: GuestRam, alignment: usize) -> Self {
        Self { memory, alignment, buffer: None }
    }

    /// Fills `segments` with what `read` reads from `offset` on, a chunk at a time.
    pub(super) fn read(
        &mut self,
        offset: u64,
        segments: &[Segment],
        mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        self.each_chunk(offset, segments, |memory, cursor, chunk, offset| {
            read(chunk, offset)?;
            cursor.each_part(chunk.len(), |address, range| {
                let part = chunk.get(range).unwrap_or_default();
                memory.write_slice(part, address).map_err(io::Error::other)
            })
        })
    }

    /// Has `write` store what is in `segments` from `offset` on, a chunk at a time.
    pub(super) fn write(
        &mut self,
        offset: u64,
        segments: &[Segment],
        mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        self.each_chunk(offset, segments, |memory, cursor, chunk, offset| {
            cursor.each_part(chunk.len(), |address, range| {
                let part = chunk.get_mut(range).unwrap_or_default();
                memory.read_slice(part, address).map_err(io::Error::other)
            })?;
            write(chunk, offset)
        })
    }

    fn each_chunk(
        &mut self,
        offset: u64,
        segments: &[Segment],
        mut step: impl FnMut(&GuestRam, &mut Cursor<'_>, &mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let alignment = self.alignment;
        let buffer = self.buffer.get_or_insert_with(|| AlignedBuffer::new(CHUNK, alignment));
        let mut cursor = Cursor { segments: segments.iter(), current: None };
        let mut left: u64 = segments.iter().map(|segment| u64::from(segment.len)).sum();
        let mut offset = offset;
        while left > 0 {
            let size = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
            let chunk = buffer.as_mut_slice().get_mut(..size).unwrap_or_default();
            step(&self.memory, &mut cursor, chunk, offset)?;
            offset = offset.saturating_add(size as u64);
            left = left.saturating_sub(size as u64);
        }
        Ok(())
    }
}

/// A place in a list of segments.
struct Cursor<'a> {
    segments: std::slice::Iter<'a, Segment>,
    current: Option<Segment>,
}

impl Cursor<'_> {
    /// Goes `len` bytes on; calls `visit` with where each part lies in guest memory and in the
    /// chunk.
    fn each_part(
        &mut self,
        len: usize,
        mut visit: impl FnMut(GuestAddress, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = 0usize;
        while at < len {
            let Some(segment) = self.current.take().or_else(|| self.segments.next().copied())
            else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let missing = u32::try_from(len.saturating_sub(at)).unwrap_or(u32::MAX);
            let taken = segment.len.min(missing);
            let end = at.saturating_add(taken as usize);
            visit(segment.address, at..end)?;
            at = end;
            let rest = segment.len.saturating_sub(taken);
            self.current = segment
                .address
                .checked_add(taken.into())
                .filter(|_| rest > 0)
                .map(|address| Segment { address, len: rest });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::guest_ram;

    #[test]
    fn buffer_is_aligned_and_of_its_length() {
        for alignment in [1, 512, 4096] {
            let mut buffer = AlignedBuffer::new(1000, alignment);
            assert_eq!(buffer.as_slice().len(), 1000);
            assert!(buffer.as_mut_slice().as_ptr().addr().is_multiple_of(alignment));
        }
    }

    #[test]
    fn request_larger_than_the_buffer_goes_through_in_order_whatever_its_segments() {
        let memory = guest_ram();
        let total = 2 * CHUNK as u32 + 1024;
        let segments: Vec<Segment> = [1, CHUNK as u32, total - CHUNK as u32 - 2, 1]
            .iter()
            .zip(0u64..)
            .map(|(&len, n)| Segment { address: GuestAddress(0x10_0003 + n * 0x10_0000), len })
            .collect();
        let source: Vec<u8> = (0..total).map(|n| (n % 251) as u8).collect();
        let mut bounce = Bounce::new(memory.clone(), 512);
        let mut offsets = Vec::new();
        bounce
            .read(512, &segments, |chunk, offset| {
                offsets.push(offset);
                let start = offset as usize - 512;
                chunk.copy_from_slice(&source[start..start + chunk.len()]);
                Ok(())
            })
            .unwrap();
        assert_eq!(offsets, [512, 512 + CHUNK as u64, 512 + 2 * CHUNK as u64]);
        assert_eq!(memory.read_obj::<u8>(segments[3].address).unwrap(), source[source.len() - 1]);

        let mut copy = Vec::new();
        bounce
            .write(0, &segments, |chunk, _| {
                copy.extend_from_slice(chunk);
                Ok(())
            })
            .unwrap();
        assert_eq!(copy, source);
    }

    #[test]
    fn failing_file_ends_the_request() {
        let mut bounce = Bounce::new(guest_ram(), 1);
        let segments = [Segment { address: GuestAddress(0x8000), len: 512 }];
        let failed = bounce.read(0, &segments, |_, _| Err(io::ErrorKind::UnexpectedEof.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
