//! The disk in a block device, and how it's exchanged for another while the device works.
//!
//! ```text
//!  change_disk ── an engine per queue ──▶ Slot ──▶ the queue's worker: drains, exchanges engines
//!                                                       │ the last of them
//!                        configuration, its interrupt ◀─┴─ Announcement
//! ```

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sys::memory::GuestRam;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::config::ConfigSpace;
use crate::disk::{DiskBackend, IoEngine};
use crate::rate_limiter::{RateLimitControl, RateLimiterConfig};
use crate::virtio::Notifier;

/// Why a block device can't have another disk. It keeps the one that it has.
#[derive(Debug, thiserror::Error)]
pub enum DiskChangeError {
    /// The driver was told that the disk can be written to, or that it can't.
    #[error("the new disk is {}, the old one isn't", if *read_only { "read-only" } else { "writable" })]
    Access {
        /// Whether the new one is read-only.
        read_only: bool,
    },
    /// The driver was told another block size.
    #[error("the new disk has blocks of {new} bytes, the old one of {old}")]
    BlockSize {
        /// Bytes.
        old: u32,
        /// Bytes.
        new: u32,
    },
    /// The host refused what the disk needs.
    #[error("can't start I/O on the new disk")]
    Start(#[source] io::Error),
}

/// Changes a block device while it works: shared by the device, its workers, and whoever manages it.
pub struct BlockControl {
    num_queues: u16,
    queue_size: u16,
    limiter: RateLimitControl,
    media: Mutex<Media>,
    /// What the driver reads. Never locked together with `media` by anybody who waits.
    config: Mutex<ConfigSpace>,
}

struct Media {
    disk: Arc<dyn DiskBackend>,
    session: Option<Session>,
}

/// What new engines need while the device is active.
struct Session {
    memory: GuestRam,
    write_through: bool,
    notifier: Notifier,
    slots: Vec<Arc<Slot>>,
}

/// Where a queue's worker finds a new disk.
pub(super) struct Slot {
    depth: u16,
    next: Mutex<Option<Medium>>,
    changed: EventFd,
}

/// A disk as one queue uses it. The engine goes before the disk that it works on.
pub(super) struct Medium {
    pub(super) engine: Box<dyn IoEngine>,
    pub(super) disk: Arc<dyn DiskBackend>,
    /// Set for a disk that came while the device was active: dropped when it's in use.
    pub(super) announcement: Option<Arc<Announcement>>,
}

/// Tells the driver of a new disk, when the last worker that uses it drops this.
pub(super) struct Announcement {
    control: Arc<BlockControl>,
    notifier: Notifier,
    config: Option<ConfigSpace>,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if let Some(config) = self.config.take() {
            *self.control.config() = config;
            self.notifier.config_changed();
        }
    }
}

impl BlockControl {
    pub(super) fn new(
        disk: Arc<dyn DiskBackend>,
        num_queues: u16,
        queue_size: u16,
        limiter: RateLimitControl,
    ) -> Self {
        let config = ConfigSpace::new(&*disk, num_queues, queue_size);
        let media = Mutex::new(Media { disk, session: None });
        Self { num_queues, queue_size, limiter, media, config: Mutex::new(config) }
    }

    /// Replaces those limits that `config` mentions, for requests from now on.
    pub fn update_rate_limit(&self, config: &RateLimiterConfig) {
        self.limiter.update(config);
    }

    /// Exchanges the disk for `disk`, of whatever size, and tells the driver. Requests that are in
    /// flight complete on the old one, which is closed when the last worker has let go of it; of a
    /// paused device, that is once it's resumed.
    ///
    /// # Errors
    /// [`DiskChangeError`]; then nothing has changed.
    pub fn change_disk(
        self: &Arc<Self>,
        disk: impl DiskBackend + 'static,
    ) -> Result<(), DiskChangeError> {
        let disk: Arc<dyn DiskBackend> = Arc::new(disk);
        let mut media = self.media();
        let (old, new) = (media.disk.block_size(), disk.block_size());
        if disk.read_only() != media.disk.read_only() {
            return Err(DiskChangeError::Access { read_only: disk.read_only() });
        }
        if old != new {
            return Err(DiskChangeError::BlockSize { old, new });
        }
        let config = ConfigSpace::new(&*disk, self.num_queues, self.queue_size);
        match &media.session {
            Some(session) => self.deliver(session, &disk, config)?,
            None => *self.config() = config,
        }
        media.disk = disk;
        Ok(())
    }

    /// Gives every worker an engine on `disk`.
    fn deliver(
        self: &Arc<Self>,
        session: &Session,
        disk: &Arc<dyn DiskBackend>,
        config: ConfigSpace,
    ) -> Result<(), DiskChangeError> {
        let engines = session
            .slots
            .iter()
            .map(|slot| disk.start(session.memory.clone(), slot.depth, session.write_through))
            .collect::<io::Result<Vec<_>>>()
            .map_err(DiskChangeError::Start)?;
        let notifier = session.notifier.clone();
        let announcement =
            Arc::new(Announcement { control: Arc::clone(self), notifier, config: Some(config) });
        for (slot, engine) in session.slots.iter().zip(engines) {
            slot.put(Medium {
                engine,
                disk: Arc::clone(disk),
                announcement: Some(Arc::clone(&announcement)),
            });
        }
        Ok(())
    }

    /// Returns the disk that is to be used from now on.
    pub(super) fn disk(&self) -> Arc<dyn DiskBackend> {
        Arc::clone(&self.media().disk)
    }

    /// Locks what the driver reads.
    pub(super) fn config(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what limits requests.
    pub(super) fn limiter(&self) -> &RateLimitControl {
        &self.limiter
    }

    /// Starts engines for queues of the given sizes; they are exchanged through the slots until
    /// [`end_session`](Self::end_session).
    pub(super) fn start_session(
        &self,
        memory: &GuestRam,
        write_through: bool,
        notifier: Notifier,
        depths: &[u16],
    ) -> io::Result<Vec<(Medium, Arc<Slot>)>> {
        let mut media = self.media();
        let disk = &media.disk;
        let started = depths
            .iter()
            .map(|&depth| {
                let engine = disk.start(memory.clone(), depth, write_through)?;
                let medium = Medium { engine, disk: Arc::clone(disk), announcement: None };
                Ok((medium, Arc::new(Slot::new(depth)?)))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let slots = started.iter().map(|(_, slot)| Arc::clone(slot)).collect();
        media.session = Some(Session { memory: memory.clone(), write_through, notifier, slots });
        Ok(started)
    }

    /// Forgets the queues, and what their workers haven't taken.
    pub(super) fn end_session(&self) {
        let session = self.media().session.take();
        drop(session);
    }

    fn media(&self) -> MutexGuard<'_, Media> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn new(depth: u16) -> io::Result<Self> {
        let changed = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(Self { depth, next: Mutex::new(None), changed })
    }

    fn put(&self, medium: Medium) {
        let unused = self.lock().replace(medium);
        drop(unused);
        // It fails only when it is full, and then it is readable already.
        let _ = self.changed.write(1);
    }

    /// Returns the eventfd that becomes readable when there is a new disk.
    pub(super) fn changed(&self) -> &EventFd {
        &self.changed
    }

    /// Takes the new disk, if there is one.
    pub(super) fn take(&self) -> Option<Medium> {
        let _ = self.changed.read();
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Medium>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
