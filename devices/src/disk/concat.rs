//! Disks that are made of several raw files, one after the other. They are only read.
//!
//! ```text
//!  0          files[0].end     files[1].end        the disk's end
//!  ├─ path ────────┼─ concat[0] ────┼─ concat[1] ────────┤
//!             └── a request here is read part by part ──┘
//! ```
//!
//! A request that crosses files takes one slot of the ring, and its parts go through it one after
//! the other: few requests cross, and none can fill a queue with its parts.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::SeekFrom;
use sys::file_lock::FileLock;
use sys::memory::GuestRam;
use sys::uring::{FileRing, RingOp};
use vm_memory::Address;
use vmm_sys_util::eventfd::EventFd;

use super::engine::{Completion, Durability, IoEngine, IoRequest};
use super::raw::RawImage;
use super::sync::{SyncIo, addresses};
use super::{Cache, DiskBackend, DiskError, DiskOptions, Engine, cannot_open, direct, open_file};
use crate::virtio::Segment;

/// The largest physical block that is told to a guest.
const MAX_PHYSICAL_BLOCK: u32 = 4096;

/// A disk of several files.
pub(super) struct ConcatDisk {
    files: Arc<[Member]>,
    block_size: u32,
    physical_block: u32,
    engine: Engine,
    /// Those of all but the first file.
    _locks: Vec<FileLock>,
}

/// One file of a disk, and which of the disk's bytes are in it.
struct Member {
    image: RawImage,
    start: u64,
    end: u64,
}

impl ConcatDisk {
    /// Takes over the first file, of `len` bytes, and opens and locks what follows it.
    pub(super) fn open(
        first: Arc<File>,
        len: u64,
        engine: Engine,
        options: &DiskOptions,
    ) -> Result<Self, DiskError> {
        let mut files = Vec::with_capacity(options.concat.len().saturating_add(1));
        files.push(Member::new(first, 0, len, options)?);
        let mut locks = Vec::new();
        let mut end = len;
        for path in &options.concat {
            let options = DiskOptions { path: path.clone(), ..options.clone() };
            let file = Arc::new(open_file(&options)?);
            locks.extend(super::lock(&file, &options)?);
            let len = measure(&file, path)?;
            let member = Member::new(file, end, len, &options)?;
            end = member.end;
            files.push(member);
        }
        let block_size = files.iter().map(|file| file.image.alignment.unwrap_or(512)).max();
        let block_size = block_size.unwrap_or(512);
        for (file, path) in files.iter().zip(std::iter::once(&options.path).chain(&options.concat))
        {
            let len = file.end.saturating_sub(file.start);
            if !len.is_multiple_of(block_size.into()) {
                return Err(DiskError::Length { path: path.clone(), len, block_size });
            }
        }
        let physical_block = physical_block(&files, block_size);
        Ok(Self { files: files.into(), block_size, physical_block, engine, _locks: locks })
    }
}

impl DiskBackend for ConcatDisk {
    fn len_bytes(&self) -> u64 {
        self.files.last().map_or(0, |file| file.end)
    }

    fn read_only(&self) -> bool {
        true
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn physical_block_size(&self) -> u32 {
        self.physical_block
    }

    fn start(
        &self,
        memory: GuestRam,
        depth: u16,
        _write_through: bool,
    ) -> io::Result<Box<dyn IoEngine>> {
        let ring = match self.engine {
            Engine::Sync => None,
            Engine::IoUring => {
                let files = self.files.iter().map(|file| Arc::clone(&file.image.file)).collect();
                Some(FileRing::over(files, memory.clone(), depth)?)
            }
        };
        let files = Arc::clone(&self.files);
        let sync =
            |file: &Member| SyncIo::new(file.image.clone(), memory.clone(), Durability::Never);
        Ok(Box::new(ConcatEngine {
            alignment: files.iter().filter_map(|file| file.image.alignment).max(),
            sync: files.iter().map(sync).collect(),
            files,
            ring,
            rests: (0..depth).map(|_| Rest::default()).collect(),
            part: Vec::new(),
            done: Vec::new(),
            reaped: Vec::new(),
        }))
    }
}

impl Member {
    fn new(
        file: Arc<File>,
        start: u64,
        len: u64,
        options: &DiskOptions,
    ) -> Result<Self, DiskError> {
        let path = &options.path;
        let alignment = match options.cache {
            Cache::Direct => Some(
                direct::probe_alignment(&file)
                    .map_err(|source| DiskError::Direct { path: path.clone(), source })?,
            ),
            Cache::WriteBack | Cache::Unsafe => None,
        };
        let end = start.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
        let too_long = || cannot_open(path, io::ErrorKind::FileTooLarge.into());
        let end = end.ok_or_else(too_long)?;
        Ok(Self { image: RawImage { file, alignment }, start, end })
    }
}

/// Returns the length of an image, which isn't 0, in bytes.
fn measure(file: &File, path: &Path) -> Result<u64, DiskError> {
    // A block device's metadata don't tell its length.
    match rustix::fs::seek(file, SeekFrom::End(0)) {
        Ok(0) => Err(DiskError::Empty { path: path.to_owned() }),
        Ok(len) => Ok(len),
        Err(error) => Err(cannot_open(path, error.into())),
    }
}

/// Returns the unit that suits every file: no more than each has, and than each starts at.
fn physical_block(files: &[Member], block_size: u32) -> u32 {
    let preferred = |file: &Member| {
        let metadata = file.image.file.metadata().ok()?;
        u32::try_from(metadata.blksize()).ok().filter(|size| size.is_power_of_two())
    };
    let smallest = files.iter().map(|file| preferred(file).unwrap_or(block_size)).min();
    let mut unit = smallest.unwrap_or(block_size).clamp(block_size, MAX_PHYSICAL_BLOCK);
    while unit > block_size && !files.iter().all(|file| file.start.is_multiple_of(unit.into())) {
        unit >>= 1;
    }
    unit
}

/// What is left of a request that the ring has a part of.
#[derive(Default)]
struct Rest {
    offset: u64,
    buffers: Vec<Segment>,
}

/// Serves the requests of a queue from several files.
struct ConcatEngine {
    files: Arc<[Member]>,
    /// For each file, what the ring can't do; without a ring, all.
    sync: Vec<SyncIo>,
    ring: Option<FileRing>,
    /// What the files demand of offsets and buffers, in bytes, if they're past the page cache.
    alignment: Option<u32>,
    /// By token.
    rests: Box<[Rest]>,
    /// The buffers of the part that is being started; kept to be used again.
    part: Vec<Segment>,
    /// Completions that didn't come from the ring.
    done: Vec<Completion>,
    /// Completions of parts; kept to be used again.
    reaped: Vec<(u16, io::Result<()>)>,
}

impl ConcatEngine {
    /// Starts reading; returns the outcome if it's known at once.
    fn read(&mut self, token: u16, offset: u64, buffers: &[Segment]) -> Option<io::Result<()>> {
        let rest = self.rests.get_mut(usize::from(token))?;
        rest.offset = offset;
        rest.buffers.clear();
        rest.buffers.extend_from_slice(buffers);
        let is_aligned = self.alignment.is_none_or(|wanted| direct::is_aligned(buffers, wanted));
        if self.ring.is_some() && is_aligned {
            return self.push_next(token).map(Err);
        }
        Some(self.read_now(token))
    }

    /// Takes the next part of a request off what is left of it; returns its file and its place there.
    fn next_part(&mut self, token: u16) -> io::Result<Option<(usize, u64)>> {
        self.part.clear();
        let Some(rest) = self.rests.get_mut(usize::from(token)) else { return Ok(None) };
        if rest.buffers.is_empty() {
            return Ok(None);
        }
        let index = self.files.partition_point(|file| file.end <= rest.offset);
        let file = self.files.get(index).ok_or(io::ErrorKind::UnexpectedEof)?;
        let at = rest.offset.saturating_sub(file.start);
        let room = file.end.saturating_sub(rest.offset);
        let taken = split(&mut rest.buffers, room, &mut self.part);
        rest.offset = rest.offset.saturating_add(taken);
        Ok(Some((index, at)))
    }

    /// Reads all that is left of a request.
    fn read_now(&mut self, token: u16) -> io::Result<()> {
        while let Some((index, offset)) = self.next_part(token)? {
            let sync = self.sync.get_mut(index).ok_or(io::ErrorKind::UnexpectedEof)?;
            sync.execute(IoRequest::Read { offset, buffers: &self.part })?;
        }
        Ok(())
    }

    /// Puts the next part of a request in the ring. Returns why that can't be done.
    fn push_next(&mut self, token: u16) -> Option<io::Error> {
        let (index, offset) = match self.next_part(token) {
            Ok(Some(part)) => part,
            // A request without buffers doesn't come from a parser; it would never complete.
            Ok(None) => return Some(io::ErrorKind::InvalidInput.into()),
            Err(error) => return Some(error),
        };
        let ring = self.ring.as_mut()?;
        ring.push_to(index, token, RingOp::Read(offset, addresses(&self.part))).err()
    }

    /// Takes note of a completed part; returns the request's outcome unless another part follows.
    fn advance(&mut self, token: u16, outcome: io::Result<()>) -> Option<io::Result<()>> {
        let rest = self.rests.get(usize::from(token))?;
        if outcome.is_err() || rest.buffers.is_empty() {
            return Some(outcome);
        }
        self.push_next(token).map(Err)
    }
}

impl IoEngine for ConcatEngine {
    fn submit(&mut self, token: u16, request: IoRequest<'_>) {
        let outcome = match request {
            IoRequest::Read { offset, buffers } => self.read(token, offset, buffers),
            // Nothing is ever written.
            IoRequest::Flush => Some(Ok(())),
            IoRequest::Write { .. } | IoRequest::Discard { .. } | IoRequest::WriteZeroes { .. } => {
                Some(Err(io::ErrorKind::ReadOnlyFilesystem.into()))
            }
        };
        self.done.extend(outcome.map(|outcome| Completion { token, outcome }));
    }

    fn kick(&mut self) -> io::Result<()> {
        self.ring.as_mut().map_or(Ok(()), FileRing::submit)
    }

    fn reap(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.done);
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let mut reaped = std::mem::take(&mut self.reaped);
        let result = ring.reap(|token, outcome| reaped.push((token, outcome)));
        for (token, outcome) in reaped.drain(..) {
            let outcome = self.advance(token, outcome);
            done.extend(outcome.map(|outcome| Completion { token, outcome }));
        }
        self.reaped = reaped;
        result.and_then(|()| self.kick())
    }

    fn completed(&self) -> Option<&EventFd> {
        self.ring.as_ref().map(FileRing::completed)
    }
}

/// Moves at most `room` bytes of buffers from the front of `from` to `to`; returns how many.
fn split(from: &mut Vec<Segment>, room: u64, to: &mut Vec<Segment>) -> u64 {
    let mut taken = 0u64;
    let mut whole = 0usize;
    for segment in from.iter_mut() {
        let left = room.saturating_sub(taken);
        if u64::from(segment.len) <= left {
            to.push(*segment);
            taken = taken.saturating_add(segment.len.into());
            whole = whole.saturating_add(1);
            continue;
        }
        // Less than the segment, which has 32 bits.
        let part = u32::try_from(left).unwrap_or(u32::MAX);
        if part > 0 {
            to.push(Segment { address: segment.address, len: part });
            taken = taken.saturating_add(left);
            segment.address = segment.address.unchecked_add(left);
            segment.len = segment.len.saturating_sub(part);
        }
        break;
    }
    from.drain(..whole);
    taken
}

#[cfg(test)]
mod tests;
