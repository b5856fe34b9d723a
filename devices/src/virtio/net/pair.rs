//! What the control queue and the worker of a queue pair share.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::backend::FrameBackend;

/// The host's side of one queue pair, and whether the driver wants frames on it.
pub(super) struct Pair {
    backend: Box<dyn FrameBackend>,
    /// Held by the worker while it delivers frames: whoever takes the pair out of use knows that
    /// none is delivered any more once it has the lock.
    enabled: Mutex<bool>,
    changed: EventFd,
}

impl Pair {
    /// Wraps `backend`; the pair is not in use yet.
    ///
    /// # Errors
    /// When the eventfd can't be made.
    pub(super) fn new(backend: Box<dyn FrameBackend>) -> io::Result<Arc<Self>> {
        let changed = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(Arc::new(Self { backend, enabled: Mutex::new(false), changed }))
    }

    /// Returns the host's side.
    pub(super) fn backend(&self) -> &dyn FrameBackend {
        &*self.backend
    }

    /// Returns the eventfd that becomes readable when the pair is put in or out of use.
    pub(super) fn changed(&self) -> &EventFd {
        &self.changed
    }

    /// Locks the pair's use while frames are delivered.
    pub(super) fn lock_enabled(&self) -> MutexGuard<'_, bool> {
        self.enabled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the pair in or out of use; of a card with several pairs, also on the host's side
    /// (`multi_queue`). Once this returns, no frame comes to a pair that is out of use.
    ///
    /// # Errors
    /// When the host refuses; then the pair is out of use.
    pub(super) fn set_enabled(&self, enabled: bool, multi_queue: bool) -> io::Result<()> {
        let mut current = self.lock_enabled();
        let result = if multi_queue { self.backend.set_enabled(enabled) } else { Ok(()) };
        *current = enabled && result.is_ok();
        // It fails only when it is readable already.
        let _ = self.changed.write(1);
        result
    }
}
