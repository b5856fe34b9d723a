//! The disk in a block device, and how it's exchanged for another while the device works.
//!
//! ```text
//!  change_disk ── an engine per queue ──▶ Slot ──▶ the queue's worker: drains, exchanges engines
//!                                                       │ the last of them
//!                        configuration, its interrupt ◀─┴─ Announcement
//! ```
//!
//! A worker looks for a new disk before it does anything else: nothing goes to the old one once
//! the new one has been delivered to a paused device.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Whether there is a next one: asked before every event is served.
    is_waiting: AtomicBool,
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
        self.prepare_change(disk)?.commit();
        Ok(())
    }

    /// Does all of [`change_disk`](Self::change_disk) that can fail. Until the change is committed or
    /// dropped, nobody else can change the disk, and a driver that starts or resets the device waits.
    ///
    /// # Errors
    /// [`DiskChangeError`].
    pub fn prepare_change(
        self: &Arc<Self>,
        disk: impl DiskBackend + 'static,
    ) -> Result<DiskChange<'_>, DiskChangeError> {
        let disk: Arc<dyn DiskBackend> = Arc::new(disk);
        let media = self.media();
        let (old, new) = (media.disk.block_size(), disk.block_size());
        if disk.read_only() != media.disk.read_only() {
            return Err(DiskChangeError::Access { read_only: disk.read_only() });
        }
        if old != new {
            return Err(DiskChangeError::BlockSize { old, new });
        }
        let engines = match &media.session {
            Some(session) => session.start_engines(&*disk).map_err(DiskChangeError::Start)?,
            None => Vec::new(),
        };
        Ok(DiskChange { control: self, media, disk, engines })
    }

    /// Returns the disk that is to be used from now on.
    pub fn disk(&self) -> Arc<dyn DiskBackend> {
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

impl Session {
    /// Starts an engine on `disk` for each queue.
    fn start_engines(&self, disk: &dyn DiskBackend) -> io::Result<Vec<Box<dyn IoEngine>>> {
        let start =
            |slot: &Arc<Slot>| disk.start(self.memory.clone(), slot.depth, self.write_through);
        self.slots.iter().map(start).collect()
    }
}

/// An exchange of a device's disk, of which nothing can fail any more. Dropped, it's given up.
pub struct DiskChange<'a> {
    control: &'a Arc<BlockControl>,
    media: MutexGuard<'a, Media>,
    disk: Arc<dyn DiskBackend>,
    engines: Vec<Box<dyn IoEngine>>,
}

impl DiskChange<'_> {
    /// Exchanges the disk and tells the driver.
    pub fn commit(self) {
        let BlockControl { num_queues, queue_size, .. } = **self.control;
        let config = ConfigSpace::new(&*self.disk, num_queues, queue_size);
        let is_active = self.media.session.is_some();
        if !is_active {
            *self.control.config() = config;
            return self.deliver(None);
        }
        self.deliver(Some(config));
    }

    /// Exchanges the disk for one of the same length and content, which is no news to the driver.
    pub fn commit_unannounced(self) {
        self.deliver(None);
    }

    /// Gives every worker its engine. The driver is told of `config` once all have taken it.
    fn deliver(self, config: Option<ConfigSpace>) {
        let Self { control, mut media, disk, engines } = self;
        if let Some(session) = &media.session {
            let notifier = session.notifier.clone();
            let announcement =
                Arc::new(Announcement { control: Arc::clone(control), notifier, config });
            for (slot, engine) in session.slots.iter().zip(engines) {
                slot.put(Medium {
                    engine,
                    disk: Arc::clone(&disk),
                    announcement: Some(Arc::clone(&announcement)),
                });
            }
        }
        media.disk = disk;
    }
}

impl Slot {
    fn new(depth: u16) -> io::Result<Self> {
        let changed = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let is_waiting = AtomicBool::new(false);
        Ok(Self { depth, next: Mutex::new(None), is_waiting, changed })
    }

    fn put(&self, medium: Medium) {
        let unused = self.lock().replace(medium);
        drop(unused);
        self.is_waiting.store(true, Ordering::Release);
        // It fails only when it is full, and then it is readable already.
        let _ = self.changed.write(1);
    }

    /// Returns the eventfd that becomes readable when there is a new disk.
    pub(super) fn changed(&self) -> &EventFd {
        &self.changed
    }

    /// Tells whether there is a new disk.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Acquire)
    }

    /// Takes the new disk, if there is one.
    pub(super) fn take(&self) -> Option<Medium> {
        let _ = self.changed.read();
        self.is_waiting.store(false, Ordering::Release);
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Medium>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
