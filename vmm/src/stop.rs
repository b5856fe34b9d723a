//! Why a machine ends, and how whoever finds out tells the process.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Why a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked and said so through pvpanic.
    GuestPanic,
    /// The guest's processor shut down after a triple fault.
    TripleFault,
    /// Told to stop at once.
    Killed,
    /// Told to stop, and the guest didn't power itself off in time.
    Deadline,
    /// The machine can't go on, because of this.
    Fault(String),
}

impl StopReason {
    /// Returns how the parent process is told; `None` for a fault, which is a failure.
    pub fn to_event(&self) -> Option<api::event::StopReason> {
        use api::event::StopReason as Event;
        Some(match self {
            Self::PowerOff => Event::PowerOff,
            Self::Reset => Event::Reset,
            Self::GuestPanic => Event::GuestPanic,
            Self::TripleFault => Event::TripleFault,
            Self::Killed => Event::Killed,
            Self::Deadline => Event::Deadline,
            Self::Fault(_) => return None,
        })
    }
}

/// Carries the first [`StopReason`] from any thread to the one that waits for it.
#[derive(Debug)]
pub struct StopSignal {
    reason: OnceLock<StopReason>,
    eventfd: EventFd,
}

impl StopSignal {
    /// Creates a signal that isn't raised.
    ///
    /// # Errors
    /// When there is no eventfd.
    pub fn new() -> io::Result<Self> {
        let eventfd = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(Self { reason: OnceLock::new(), eventfd })
    }

    /// Asks for the end of the machine. The first reason stays.
    pub fn request(&self, reason: StopReason) {
        // A later reason is a consequence of the first one.
        let _ = self.reason.set(reason);
        // An eventfd's write fails only when it is full: it is readable then.
        let _ = self.eventfd.write(1);
    }

    /// Returns the first reason, once there is one.
    pub fn reason(&self) -> Option<&StopReason> {
        self.reason.get()
    }
}

/// Readable from the first request on, for good.
impl AsRawFd for StopSignal {
    fn as_raw_fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_reason_stays() {
        let signal = StopSignal::new().unwrap();
        assert_eq!(signal.reason(), None);
        signal.request(StopReason::GuestPanic);
        signal.request(StopReason::Reset);
        assert_eq!(signal.reason(), Some(&StopReason::GuestPanic));
    }
}
