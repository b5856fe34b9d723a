//! Carries actions from the API's thread to the main one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

use api::ApiError;
use api::action::VmmAction;
use api::http::{Reply, VmmService};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How many actions may wait. A client has one request under way at a time, so that only more
/// clients than this see a refusal.
const MAX_WAITING: usize = 256;

/// Actions in the order in which they came, and a descriptor that is readable while there are any.
pub struct Inbox {
    waiting: Mutex<VecDeque<(VmmAction, Reply)>>,
    eventfd: EventFd,
}

impl Inbox {
    /// Creates an empty one.
    ///
    /// # Errors
    /// When there is no eventfd.
    pub fn new() -> io::Result<Self> {
        let eventfd = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(Self { waiting: Mutex::default(), eventfd })
    }

    /// Takes all actions that are there.
    pub(super) fn take(&self) -> VecDeque<(VmmAction, Reply)> {
        // Fails when nothing has come. Before the queue is looked at: what comes later wakes again.
        let _ = self.eventfd.read();
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl VmmService for Inbox {
    fn submit(&self, action: VmmAction, reply: Reply) {
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= MAX_WAITING {
                drop(waiting);
                return reply.send(Err(ApiError::unavailable(
                    "too many requests wait for this VM: try again when some are answered",
                )));
            }
            waiting.push_back((action, reply));
        }
        // An eventfd's write fails only when it is full: it is readable then.
        let _ = self.eventfd.write(1);
    }
}

impl AsRawFd for Inbox {
    fn as_raw_fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }
}
