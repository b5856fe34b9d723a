//! The seam between what parses a guest's requests and what carries them out.

use std::fs::File;
use std::io;

use super::{Disk, DiskError, DiskOptions};
use sys::memory::GuestRam;
use vmm_sys_util::eventfd::EventFd;

use super::Cache;
use crate::virtio::Segment;

/// One checked request to a disk. Offsets and lengths are in bytes and within the disk; buffers lie
/// in guest memory.
#[derive(Clone, Copy, Debug)]
pub enum IoRequest<'a> {
    /// Fills the buffers from `offset` on.
    Read {
        /// Where the data is on the disk.
        offset: u64,
        /// Where it goes in guest memory.
        buffers: &'a [Segment],
    },
    /// Stores the buffers from `offset` on.
    Write {
        /// Where the data goes on the disk.
        offset: u64,
        /// Where it is in guest memory.
        buffers: &'a [Segment],
    },
    /// Completes when every write that completed before is as durable as the disk's cache mode
    /// promises.
    Flush,
    /// Tells that a range's content doesn't matter any more. Not being able to is no error.
    Discard {
        /// Start of the range.
        offset: u64,
        /// Its length; never 0.
        len: u64,
    },
    /// Makes a range read as zeros.
    WriteZeroes {
        /// Start of the range.
        offset: u64,
        /// Its length; never 0.
        len: u64,
        /// Whether the range's storage may be given up.
        unmap: bool,
    },
}

/// The outcome of the request with this token.
#[derive(Debug)]
pub struct Completion {
    /// The token that the request was submitted with.
    pub token: u16,
    /// Whether it succeeded. After a failed read, part of the buffers may have been written.
    pub outcome: io::Result<()>,
}

/// Carries out the requests of one queue, on that queue's worker.
///
/// Requests that are in flight together may complete in any order. Dropping an engine waits until
/// none can touch guest memory any more.
pub trait IoEngine: Send {
    /// Takes a request. `token`, below the engine's depth, names it until its completion.
    ///
    /// It may be done at once or not before [`kick`](Self::kick); either way its outcome comes from
    /// [`reap`](Self::reap).
    fn submit(&mut self, token: u16, request: IoRequest<'_>);

    /// Starts all requests submitted so far.
    ///
    /// # Errors
    /// When the host refuses to start anything, which no single request is to blame for.
    fn kick(&mut self) -> io::Result<()>;

    /// Appends what has completed since to `done`.
    ///
    /// # Errors
    /// As [`kick`](Self::kick).
    fn reap(&mut self, done: &mut Vec<Completion>) -> io::Result<()>;

    /// Returns the eventfd that is signalled when there is something to reap; none if everything
    /// is after [`kick`](Self::kick).
    fn completed(&self) -> Option<&EventFd> {
        None
    }
}

/// When written data has to be on the host's storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// When a flush completes.
    OnFlush,
    /// When each write completes: the driver doesn't flush (VIRTIO 1.3 §5.2.6.2).
    Always,
    /// Whenever the host gets to it.
    Never,
}

impl Durability {
    /// Decides by the disk's cache mode, and by whether its driver leaves flushing to the device.
    pub(super) fn new(cache: Cache, write_through: bool) -> Self {
        match (cache, write_through) {
            (Cache::Unsafe, _) => Self::Never,
            (Cache::WriteBack | Cache::Direct, true) => Self::Always,
            (Cache::WriteBack | Cache::Direct, false) => Self::OnFlush,
        }
    }
}

/// An open image, shared by the queues of its device. Outlives its engines.
pub trait DiskBackend: Send + Sync {
    /// Returns the disk's length in bytes: a multiple of [`block_size`](Self::block_size).
    fn len_bytes(&self) -> u64;

    /// Tells whether there may be no request that changes the disk.
    fn read_only(&self) -> bool;

    /// Returns the smallest unit, in bytes, that can be read or written: a power of two, at least
    /// 512.
    fn block_size(&self) -> u32 {
        512
    }

    /// Returns the unit, in bytes, below which a write makes the host read first: a power of two,
    /// at least the block size.
    fn physical_block_size(&self) -> u32 {
        self.block_size()
    }

    /// Opens what is to take this disk's place: another image, or the same one grown
    /// ([`Disk::open_replacement`]).
    ///
    /// # Errors
    /// [`DiskError`], which names the path.
    fn replacement(&self, options: &DiskOptions) -> Result<Disk, DiskError> {
        Disk::open(options)
    }

    /// Returns the file that the disk's image is in, if it's in one.
    fn file(&self) -> Option<&File> {
        None
    }

    /// Hands what this process keeps of the disk to that file, so that everything which has
    /// completed can be found there. That doesn't make it durable.
    ///
    /// # Errors
    /// The host's answer.
    fn settle(&self) -> io::Result<()> {
        Ok(())
    }

    /// [Settles](Self::settle) a disk that nothing writes to any more, and lets others read its
    /// image. Nobody can lock it for writing as long as this is open.
    ///
    /// # Errors
    /// The host's answer. Nothing has changed then.
    fn freeze(&self) -> io::Result<()> {
        self.settle()
    }

    /// Takes the right to write back that [`freeze`](Self::freeze) gave up.
    ///
    /// # Errors
    /// When somebody reads the image.
    fn thaw(&self) -> io::Result<()> {
        Ok(())
    }

    /// Starts an engine for one queue with at most `depth` requests in flight. With `write_through`
    /// the driver doesn't flush: each write is as durable as a flush would make it.
    ///
    /// # Errors
    /// When the host refuses what the engine needs.
    fn start(
        &self,
        memory: GuestRam,
        depth: u16,
        write_through: bool,
    ) -> io::Result<Box<dyn IoEngine>>;
}
