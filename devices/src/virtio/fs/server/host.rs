//! What is asked of the host's file system. No path of the guest's reaches it: a single name at
//! most, looked up in a directory that is open, and never followed if it's a link.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, makedev, openat,
    openat2, statx,
};
use rustix::io::Errno;

/// How often a look-up is tried again that a renaming elsewhere has disturbed.
const ATTEMPTS: u32 = 64;

/// How a name is resolved: one step down, whatever others do to the tree meanwhile.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A path that leads to what `fd` refers to, whatever its names are now.
///
/// The kernel follows it by the descriptor and not by any name (proc(5)).
pub(super) struct ByFd {
    path: String,
    /// Keeps the path from leading elsewhere.
    _fd: Arc<OwnedFd>,
}

impl ByFd {
    pub(super) fn new(fd: &Arc<OwnedFd>) -> Self {
        Self { path: path_of(&**fd), _fd: Arc::clone(fd) }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// Returns the path by which a descriptor is found, as long as it's open.
pub(super) fn path_of(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens `name`, whatever it is, to refer to it only: not to read, write or wake it.
pub(super) fn refer(directory: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    create(directory, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens `name` with `flags`.
pub(super) fn create(
    directory: impl AsFd,
    name: &CStr,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let mut found = Err(Errno::AGAIN);
    for _ in 0..ATTEMPTS {
        found = openat2(&directory, name, flags, mode, BENEATH);
        if !matches!(found, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    found
}

/// Opens what `fd` refers to once more. The caller knows that it's no FIFO and no device.
pub(super) fn reopen(fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, path_of(fd), flags | OFlags::CLOEXEC, Mode::empty())
}

/// What is known of a file.
pub(super) type Metadata = Statx;

/// Asks what `fd` refers to.
pub(super) fn metadata(fd: impl AsFd) -> Result<Metadata, Errno> {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// Tells what sort of file it is.
pub(super) fn kind(metadata: &Metadata) -> FileType {
    FileType::from_raw_mode(metadata.stx_mode.into())
}

/// Returns the file system that a file is on.
pub(super) fn device(metadata: &Metadata) -> u64 {
    makedev(metadata.stx_dev_major, metadata.stx_dev_minor)
}
