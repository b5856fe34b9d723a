//! Restoring with pages that come when they are touched.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use snapshot::lazy::{GuestRegionUffdMapping, handshake};
use sys::discard::page_size;
use sys::memory::GuestRam;
use sys::uffd::{Mode, Uffd, UffdError, feature};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// Why nobody can supply the guest's pages.
#[derive(Debug, thiserror::Error)]
pub enum LazyRestoreError {
    /// This host doesn't let page faults be handled.
    #[error(transparent)]
    Uffd(#[from] UffdError),
    /// The page fault handler doesn't listen or doesn't take the memory.
    #[error("can't reach the page fault handler at {path:?}")]
    Handler {
        /// Its socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Guest memory whose missing pages another process supplies. Lives as long as the VM.
///
/// If that process ends before, every thread that touches a missing page waits for ever:
/// [`as_fd`](Self::as_fd) tells.
#[derive(Debug)]
pub struct LazyMemory {
    _uffd: Uffd,
    stream: UnixStream,
}

impl LazyMemory {
    /// Hands the pages of `memory`, which nobody may have touched, to the handler that listens at
    /// `path`. The regions' content lies in the memory file one after the other.
    ///
    /// # Errors
    /// [`LazyRestoreError`]; the memory is of no use then.
    pub fn connect(memory: &GuestRam, path: &Path) -> Result<Self, LazyRestoreError> {
        let fail = |source| LazyRestoreError::Handler { path: path.to_owned(), source };
        // Before anything else: a path that's wrong is the likeliest mistake.
        let stream = UnixStream::connect(path).map_err(fail)?;
        Self::hand_over(memory, stream, fail)
    }

    /// Hands the pages of `memory` to the handler at the other end of `stream`.
    pub(super) fn hand_over(
        memory: &GuestRam,
        stream: UnixStream,
        fail: impl Fn(io::Error) -> LazyRestoreError,
    ) -> Result<Self, LazyRestoreError> {
        let uffd = Uffd::new(features(memory))?;
        let mut mappings = Vec::new();
        let mut offset = 0;
        for region in memory.iter() {
            uffd.register(region, Mode::Missing)?;
            let base = region.as_ptr() as u64;
            let size = region.len();
            mappings.push(GuestRegionUffdMapping::new(base, size, offset, page_size(region)));
            offset += size;
        }
        handshake::send(&stream, &mappings, uffd.as_fd()).map_err(fail)?;
        Ok(Self { _uffd: uffd, stream })
    }
}

impl AsFd for LazyMemory {
    /// Hung up when the handler has closed its end. Firecracker's handlers may do so at once and go
    /// on serving: it's a reason for a warning, not for an end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Returns what this memory needs of the kernel. That pages are given back (by the balloon) must be
/// told, or the handler would fill them with what they were.
fn features(memory: &GuestRam) -> u64 {
    memory.iter().fold(feature::EVENT_REMOVE, |features, region| {
        let flags = region.flags();
        let huge = flags & libc::MAP_HUGETLB != 0;
        let shared = flags & libc::MAP_SHARED != 0;
        features
            | if huge { feature::MISSING_HUGETLBFS } else { 0 }
            | if shared && !huge { feature::MISSING_SHMEM } else { 0 }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use snapshot::lazy::PageServer;
    use snapshot::memory::{MemoryFile, MemoryWriter};
    use snapshot::{MemoryRegion, SnapshotId};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::{Backing, allocate, allocate_shared};

    #[test]
    fn memory_comes_from_the_handler_behind_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let [path, socket] = ["mem", "socket"].map(|name| directory.path().join(name));
        let region = |guest_address| MemoryRegion { guest_address, size_bytes: 8 << 12 };
        let regions = [region(0), region(1 << 32)];
        let id = SnapshotId::random().unwrap();
        let mut writer = MemoryWriter::create(&path, id, None, &regions).unwrap();
        writer.write(9 << 12, &[9; 4096]).unwrap();
        writer.finish().unwrap().file.publish().unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let ranges = [(GuestAddress(0), 8 << 12), (GuestAddress(1 << 32), 8 << 12)];
        let backing = Backing::default();
        for memory in [allocate(&ranges, &backing), allocate_shared(&ranges, &backing)] {
            let memory = memory.unwrap();
            let lazy = match LazyMemory::connect(&memory, &socket) {
                Err(LazyRestoreError::Uffd(UffdError::Forbidden(error))) => {
                    eprintln!("skipped: {error}");
                    return;
                }
                result => result.unwrap(),
            };
            let (stream, _) = listener.accept().unwrap();
            let mut server = PageServer::accept(&stream, MemoryFile::open(&path).unwrap()).unwrap();
            let handler = std::thread::spawn(move || server.run(&[stream.as_fd()]));
            let byte = |address| memory.read_obj::<u8>(GuestAddress(address)).unwrap();
            assert_eq!(byte(0), 0);
            assert_eq!(byte((1 << 32) + 0x1fff), 9);
            drop(lazy);
            handler.join().unwrap().unwrap();
        }
    }

    #[test]
    fn absent_handler_is_named() {
        let memory = allocate(&[(GuestAddress(0), 1 << 20)], &Backing::default()).unwrap();
        let error = LazyMemory::connect(&memory, Path::new("/nonexistent/socket")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
    }
}
