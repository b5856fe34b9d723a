//! The file system device (VIRTIO 1.3 §5.11): directories of the host's, as the guest's kernel sees
//! them by FUSE.
//!
//! One device carries several shares, as directories (or single files) in the one that it's mounted
//! by its tag:
//!
//! ```text
//! mount -t virtiofs shares /mnt     /mnt/0 ── a host's directory
//!                                   /mnt/1 ── another, read-only
//! ```
//!
//! ```text
//! Fs ── Desk ── QueueWorker: Handler ── FileServer ── the host's files
//!        └── the queues, from DRIVER_OK to reset
//! ```
//!
//! What the server does, and what a guest can reach by it, is told in [`server`]. There is no window
//! of shared memory (§5.11.4): the guest caches what it maps.

mod message;
mod protocol;
mod server;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use rustix::fs::{FileType, Mode, OFlags};
use sys::thread_start::Role;
use zerocopy::{Immutable, IntoBytes};

use self::server::{FileServer, Owners, Share};
use self::worker::{Desk, Handler};
use super::device::{
    ActivateError, Activation, DeviceType, Notifier, TransportInterrupt, VirtioDevice,
};
use super::serve::RING_FEATURES;
use super::worker::QueueWorker;
use crate::bytes;
use crate::state::SaveError;

/// The longest tag, in bytes (VIRTIO 1.3 §5.11.4).
pub const MAX_TAG_BYTES: usize = 36;

/// The longest name of a share, in bytes: what a directory's entry can be.
pub const MAX_NAME_BYTES: usize = 255;

/// The most shares of a device.
pub const MAX_SHARES: usize = 256;

/// The first queue is for what must not wait, the second for everything else.
const QUEUE_SIZES: [u16; 2] = [128, 512];

/// What to share, and as what.
#[derive(Clone, Debug)]
pub struct FsConfig {
    /// What the guest mounts it by: 1 to [`MAX_TAG_BYTES`] bytes without a NUL.
    pub tag: String,
    /// At most [`MAX_SHARES`], each of a name of its own.
    pub shares: Vec<ShareConfig>,
    /// How many files may be open on the host for the guest: what it knows of and what it has open.
    /// More that it knows of are opened again when they are used; what it opens beyond is refused.
    pub max_open_files: usize,
}

/// One share.
#[derive(Clone, Debug)]
pub struct ShareConfig {
    /// Its name in the mounted directory: 1 to [`MAX_NAME_BYTES`] bytes, no `/` and no dots alone.
    pub name: String,
    /// A directory, or a regular file. A link is followed, this once.
    pub path: PathBuf,
    /// Whether the guest may change nothing.
    pub read_only: bool,
}

/// Why a file system device can't be made.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The tag is empty, too long, or has a NUL.
    #[error("{0:?} can't be a file system's tag: 1 to {MAX_TAG_BYTES} bytes are possible")]
    Tag(String),
    /// There are too many shares.
    #[error("a file system can't have {0} shares: {MAX_SHARES} are possible")]
    Shares(usize),
    /// Another share has the name, or nothing in a directory can have it.
    #[error("{0:?} can't be a share's name here")]
    Name(String),
    /// There is nothing at its path.
    #[error("{} doesn't exist", .path.display())]
    NotFound {
        /// The share's path.
        path: PathBuf,
    },
    /// It's neither a directory nor a regular file.
    #[error("{} is neither a directory nor a regular file", .path.display())]
    Kind {
        /// The share's path.
        path: PathBuf,
    },
    /// The host refuses to open it.
    #[error("can't open {}", .path.display())]
    Open {
        /// The share's path.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// Files can't be reached by their descriptors: `/proc` isn't there.
    #[error("a file system can't be shared without /proc")]
    Proc(#[source] io::Error),
    /// The thread that serves it, or its eventfd, can't be made.
    #[error("can't start a file system's worker")]
    Worker(#[source] io::Error),
}

impl FsError {
    /// Returns the share's path that it is about.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::NotFound { path } | Self::Kind { path } | Self::Open { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// What the driver reads (VIRTIO 1.3 §5.11.4).
#[derive(Clone, Copy, Debug, Immutable, IntoBytes)]
#[repr(C)]
struct ConfigSpace {
    tag: [u8; MAX_TAG_BYTES],
    num_request_queues: zerocopy::little_endian::U32,
}

/// A file system device.
pub struct Fs {
    config: ConfigSpace,
    desk: Arc<Desk>,
    workers: Vec<QueueWorker>,
}

impl Fs {
    /// Opens the shares and starts the thread that serves them. It's a thread of the caller's, in
    /// what it may ask of the host's kernel: not to be called on a vCPU's.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn new(config: &FsConfig) -> Result<Self, FsError> {
        let FsConfig { tag, shares, max_open_files } = config;
        if tag.is_empty() || tag.len() > MAX_TAG_BYTES || tag.contains('\0') {
            return Err(FsError::Tag(tag.clone()));
        }
        if shares.len() > MAX_SHARES {
            return Err(FsError::Shares(shares.len()));
        }
        check_proc()?;
        let mut names = BTreeSet::new();
        let mut open = Vec::with_capacity(shares.len());
        for share in shares {
            if !is_name(&share.name) || !names.insert(&share.name) {
                return Err(FsError::Name(share.name.clone()));
            }
            open.push(open_share(share)?);
        }
        let server = FileServer::new(open, Owners::of_process(), *max_open_files)
            .map_err(|errno| FsError::Worker(errno.into()))?;
        Self::serving(tag, server)
    }

    fn serving(tag: &str, server: FileServer) -> Result<Self, FsError> {
        let desk = Arc::new(Desk::new(server).map_err(FsError::Worker)?);
        let handler = Box::new(Handler::new(Arc::clone(&desk)));
        let name = "virtio-fs".to_owned();
        let worker = QueueWorker::spawn_as(Role::Files, name, handler, &nobody());
        let mut config = ConfigSpace { tag: [0; MAX_TAG_BYTES], num_request_queues: 1.into() };
        bytes::write_at(&mut config.tag, 0, tag.as_bytes());
        Ok(Self { config, desk, workers: vec![worker.map_err(FsError::Worker)?] })
    }
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> DeviceType {
        DeviceType::Fs
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn offered_features(&self) -> u64 {
        RING_FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        bytes::read_at(self.config.as_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, notifier, .. } = activation;
        if !queues.iter().any(|queue| queue.index() == 1) {
            return Err(ActivateError::MissingQueue(1));
        }
        self.desk.give(queues, memory, notifier).map_err(ActivateError::Worker)
    }

    fn reset(&mut self) {
        self.desk.take_back();
    }

    fn workers(&self) -> &[QueueWorker] {
        &self.workers
    }

    /// What the guest knows of the host's files isn't written down.
    fn save(&self) -> Result<serde_json::Value, SaveError> {
        Err(SaveError::Unsupported {
            device: "a file system",
            reason: "the guest holds files of the host's: detach it first",
        })
    }
}

impl Drop for Fs {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Opens where a share starts, to refer to it.
fn open_share(share: &ShareConfig) -> Result<Share, FsError> {
    let path = || share.path.clone();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(&share.path, flags, Mode::empty()).map_err(|errno| match errno {
            rustix::io::Errno::NOENT => FsError::NotFound { path: path() },
            errno => FsError::Open { path: path(), source: errno.into() },
        })?;
    let metadata = rustix::fs::fstat(&root)
        .map_err(|errno| FsError::Open { path: path(), source: errno.into() })?;
    match FileType::from_raw_mode(metadata.st_mode) {
        FileType::Directory | FileType::RegularFile => {}
        _ => return Err(FsError::Kind { path: path() }),
    }
    Ok(Share { name: share.name.clone(), root, read_only: share.read_only })
}

/// Checks that files can be reached by their descriptors.
fn check_proc() -> Result<(), FsError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::open("/proc/self/fd", flags, Mode::empty());
    found.map(drop).map_err(|errno| FsError::Proc(errno.into()))
}

fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME_BYTES && !name.contains(['/', '\0'])
}

/// Stands for the driver, as long as there is none.
fn nobody() -> Notifier {
    struct Nobody;
    impl TransportInterrupt for Nobody {
        fn signal_queue(&self, _index: u16) {}
        fn signal_config(&self) {}
    }
    Notifier::new(Arc::new(Nobody), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)))
}
