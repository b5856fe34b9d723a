//! Tells whoever started this process how the machine fares.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};

use api::event::Event;
use rustix::process::Signal;

/// Where events go: the descriptor that the parent handed down, or nowhere.
#[derive(Debug, Default)]
pub struct Status(Option<Mutex<File>>);

impl Status {
    /// Takes over descriptor `number`, has this process end when its parent does, and sends the
    /// first event.
    ///
    /// Must come before anything opens a file.
    ///
    /// # Errors
    /// When there is no such descriptor, or nobody reads it any more: the parent is gone already.
    pub fn inherit(number: RawFd) -> io::Result<Self> {
        let mut file = File::from(sys::inherited::take(number)?);
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that ended before the line above would go unnoticed, but for this.
        Event::ProcessStarted { monotonic_ns: monotonic_ns() }.write_line(&mut file)?;
        Ok(Self(Some(Mutex::new(file))))
    }

    /// Sends an event. A reader that went away is no reason to stop the machine.
    pub fn send(&self, event: &Event) {
        let Some(file) = &self.0 else { return };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = event.write_line(&mut *file) {
            log::warn!("nobody reads this VM's events: {error}");
        }
    }
}

/// Returns `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
