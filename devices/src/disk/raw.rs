//! Raw images: the file is the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use sys::memory::GuestRam;

use super::direct::{self, MAX_ALIGNMENT};
use super::engine::Durability;
use super::sync::SyncEngine;
use super::uring::UringEngine;
use super::{Cache, DiskBackend, DiskError, DiskOptions, Engine, IoEngine};

/// The largest physical block that is told to a guest: file systems take it as their own unit.
const MAX_PHYSICAL_BLOCK: u32 = 4096;

/// A raw image.
pub(super) struct RawDisk {
    image: RawImage,
    len: u64,
    physical_block: u32,
    engine: Engine,
    cache: Cache,
    read_only: bool,
}

/// What an engine needs to know of a raw image.
#[derive(Clone)]
pub(super) struct RawImage {
    pub(super) file: Arc<File>,
    /// The alignment in bytes that the file demands because it was opened for direct I/O.
    pub(super) alignment: Option<u32>,
}

impl RawDisk {
    /// Takes over an open file of `len` bytes.
    pub(super) fn open(
        file: Arc<File>,
        len: u64,
        engine: Engine,
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
        let block_size = alignment.unwrap_or(512);
        if !len.is_multiple_of(block_size.into()) {
            return Err(DiskError::Length { path: path.clone(), len, block_size });
        }
        let preferred = file.metadata().ok().and_then(|data| u32::try_from(data.blksize()).ok());
        let physical_block = preferred
            .filter(|size| size.is_power_of_two() && *size >= block_size)
            .map_or(block_size, |size| size.min(MAX_PHYSICAL_BLOCK));
        let image = RawImage { file, alignment };
        let (cache, read_only) = (options.cache, options.read_only);
        Ok(Self { image, len, physical_block, engine, cache, read_only })
    }
}

impl DiskBackend for RawDisk {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn block_size(&self) -> u32 {
        self.image.alignment.unwrap_or(512)
    }

    fn physical_block_size(&self) -> u32 {
        self.physical_block
    }

    fn start(
        &self,
        memory: GuestRam,
        depth: u16,
        write_through: bool,
    ) -> io::Result<Box<dyn IoEngine>> {
        let durability = Durability::new(self.cache, write_through);
        let image = self.image.clone();
        Ok(match self.engine {
            Engine::Sync => Box::new(SyncEngine::new(image, memory, durability)),
            Engine::IoUring => Box::new(UringEngine::new(image, memory, depth, durability)?),
        })
    }
}

impl RawImage {
    /// Returns the alignment for buffers of this process.
    pub(super) fn buffer_alignment(&self) -> usize {
        self.alignment.map_or(1, |_| MAX_ALIGNMENT)
    }
}

/// How a range is given up.
pub(super) const DISCARD: FallocateFlags =
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// Returns how a range is made to read as zeros; without `unmap` its storage stays allocated.
pub(super) fn zeroing(unmap: bool) -> FallocateFlags {
    if unmap { DISCARD } else { FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE }
}

/// Tells whether `error` says that the file system or device can't do this kind of `fallocate`, or
/// not on such a range, so that it must be done otherwise.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL)
    )
}
