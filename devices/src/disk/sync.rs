//! The synchronous engine: each request is done when it has been submitted.

use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use sys::guest_io::GuestIo;
use sys::memory::GuestRam;
use vm_memory::GuestAddress;

use super::bounce::{AlignedBuffer, Bounce};
use super::direct;
use super::engine::{Completion, Durability, IoEngine, IoRequest};
use super::raw::{DISCARD, RawImage, is_unsupported, zeroing};
use crate::virtio::Segment;

/// How many zeros are written at a time where a file system can't make them, in bytes.
const ZEROS: usize = 64 << 10;

/// Serves a raw image by system calls on the calling thread.
pub(super) struct SyncEngine {
    io: SyncIo,
    done: Vec<Completion>,
}

impl SyncEngine {
    pub(super) fn new(image: RawImage, memory: GuestRam, durability: Durability) -> Self {
        Self { io: SyncIo::new(image, memory, durability), done: Vec::new() }
    }
}

impl IoEngine for SyncEngine {
    fn submit(&mut self, token: u16, request: IoRequest<'_>) {
        let outcome = self.io.execute(request);
        self.done.push(Completion { token, outcome });
    }

    fn kick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.done);
        Ok(())
    }
}

/// Carries out single requests.
pub(super) struct SyncIo {
    image: RawImage,
    durability: Durability,
    guest_io: GuestIo,
    bounce: Bounce,
}

impl SyncIo {
    pub(super) fn new(image: RawImage, memory: GuestRam, durability: Durability) -> Self {
        let bounce = Bounce::new(memory.clone(), image.buffer_alignment());
        Self { image, durability, guest_io: GuestIo::new(memory), bounce }
    }

    pub(super) fn execute(&mut self, request: IoRequest<'_>) -> io::Result<()> {
        match request {
            IoRequest::Read { offset, buffers } => self.read(offset, buffers),
            IoRequest::Write { offset, buffers } => self.write(offset, buffers),
            IoRequest::Flush if self.durability == Durability::Never => Ok(()),
            IoRequest::Flush => self.image.file.sync_data(),
            IoRequest::Discard { offset, len } => {
                match allocate(&self.image, DISCARD, offset, len) {
                    Err(error) if is_unsupported(&error) => Ok(()),
                    result => result.and_then(|()| self.sync_if_due()),
                }
            }
            IoRequest::WriteZeroes { offset, len, unmap } => {
                match allocate(&self.image, zeroing(unmap), offset, len) {
                    Err(error) if is_unsupported(&error) => self.write_zeros(offset, len)?,
                    result => result?,
                }
                self.sync_if_due()
            }
        }
    }

    fn read(&mut self, offset: u64, buffers: &[Segment]) -> io::Result<()> {
        let file = &self.image.file;
        match self.image.alignment {
            Some(alignment) if !direct::is_aligned(buffers, alignment) => {
                self.bounce.read(offset, buffers, |chunk, at| file.read_exact_at(chunk, at))
            }
            _ => self.guest_io.read_at(file, offset, addresses(buffers)),
        }
    }

    fn write(&mut self, offset: u64, buffers: &[Segment]) -> io::Result<()> {
        let file = &self.image.file;
        match self.image.alignment {
            Some(alignment) if !direct::is_aligned(buffers, alignment) => {
                self.bounce.write(offset, buffers, |chunk, at| file.write_all_at(chunk, at))?;
                self.sync_if_due()
            }
            _ => {
                let durable = self.durability == Durability::Always;
                self.guest_io.write_at(file, offset, addresses(buffers), durable)
            }
        }
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeros = AlignedBuffer::new(ZEROS, self.image.buffer_alignment());
        let (mut at, mut left) = (offset, len);
        while left > 0 {
            let size = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS);
            let part = zeros.as_slice().get(..size).unwrap_or_default();
            self.image.file.write_all_at(part, at)?;
            at = at.saturating_add(size as u64);
            left = left.saturating_sub(size as u64);
        }
        Ok(())
    }

    fn sync_if_due(&self) -> io::Result<()> {
        match self.durability {
            Durability::Always => self.image.file.sync_data(),
            Durability::OnFlush | Durability::Never => Ok(()),
        }
    }
}

/// Returns buffers as `sys` takes them.
pub(super) fn addresses(buffers: &[Segment]) -> impl Iterator<Item = (GuestAddress, u32)> + '_ {
    buffers.iter().map(|segment| (segment.address, segment.len))
}

fn allocate(image: &RawImage, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::fs::fallocate(&image.file, mode, offset, len))?;
    Ok(())
}
