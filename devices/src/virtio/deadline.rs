//! One timer for all moments that a worker waits for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer that expires at the earliest of all moments that it was told.
#[derive(Debug)]
pub(super) struct Deadlines {
    timer: OwnedFd,
    armed: Option<Instant>,
}

impl Deadlines {
    /// Creates a timer that doesn't run.
    ///
    /// # Errors
    /// When the host has no timers left.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { timer: timerfd_create(TimerfdClockId::Monotonic, flags)?, armed: None })
    }

    /// Returns the file descriptor that becomes readable when a moment has come.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Makes sure that the timer expires at `deadline` or before.
    pub(super) fn include(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        let wait = deadline.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        match timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once) {
            Ok(_) => self.armed = Some(deadline),
            Err(error) => log::error!("a device's timer can't be set: {error}"),
        }
    }

    /// Takes note that the timer was readable: it has to be told all moments again.
    pub(super) fn acknowledge(&mut self) {
        // It fails only when the timer was set anew meanwhile.
        let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
        self.armed = None;
    }
}
