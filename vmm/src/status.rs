//! Tells whoever is interested how the machine fares: the process that started this one, a file
//! that outlives it, and the API's clients.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use api::event::Event;
use api::ext::Timeline;
use api::http::EventHub;
use rustix::process::Signal;
use sys::forbidden_call::{self, Destination};

/// How many events a timeline has at most.
const TIMELINE_EVENTS: usize = 64;

/// Where events go. Clones share the destinations.
#[derive(Clone, Default)]
pub struct Status(Arc<Destinations>);

#[derive(Default)]
struct Destinations {
    /// The descriptor that the parent handed down.
    parent: Mutex<Option<File>>,
    /// The file for whoever looks later.
    log: Mutex<Option<File>>,
    /// The API's clients.
    hub: Arc<EventHub>,
    /// The first events, as long as there is room.
    first: Mutex<Vec<Event>>,
}

/// What becomes of this process when the one that started it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// It's killed.
    Binds,
    /// It goes on, in a session of its own: no terminal ends it.
    MayLeave,
}

impl Status {
    /// Takes over descriptor `number` and, if the parent binds this process, has it end when its
    /// parent does.
    ///
    /// Must come before anything opens a file.
    ///
    /// # Errors
    /// When there is no such descriptor.
    pub fn inherit(number: RawFd, parent: Parent) -> io::Result<Self> {
        let file = File::from(sys::inherited::take(number)?);
        if parent == Parent::Binds {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        } else if let Err(error) = rustix::process::setsid() {
            // It leads a process group: whoever started it made that choice.
            log::debug!("no session of its own: {error}");
        }
        forbidden_call::tell(Destination::Parent, Some(file.as_fd()));
        let status = Self::default();
        *lock(&status.0.parent) = Some(file);
        Ok(status)
    }

    /// Also appends events to the file at `path`.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn log_to(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        forbidden_call::tell(Destination::EventLog, Some(file.as_fd()));
        *lock(&self.0.log) = Some(file);
        Ok(())
    }

    /// Sends the first event, that the process started at `monotonic_ns`.
    ///
    /// # Errors
    /// When the parent doesn't read any more: it had gone before it could bind this process.
    pub fn started(&self, monotonic_ns: u64) -> io::Result<()> {
        let event = Event::ProcessStarted { monotonic_ns };
        for destination in [&self.0.parent, &self.0.log] {
            if let Some(file) = &mut *lock(destination) {
                event.write_line(file)?;
            }
        }
        self.keep(&event);
        self.0.hub.publish(&event);
        Ok(())
    }

    /// Returns what the API's clients read.
    pub fn hub(&self) -> &Arc<EventHub> {
        &self.0.hub
    }

    /// Sends an event. A reader that went away is no reason to stop the machine.
    pub fn send(&self, event: &Event) {
        let files = [(&self.0.parent, Destination::Parent), (&self.0.log, Destination::EventLog)];
        for (destination, name) in files {
            let mut destination = lock(destination);
            if let Some(file) = &mut *destination
                && let Err(error) = event.write_line(file)
            {
                log::warn!("this VM's events can't be written any more: {error}");
                forbidden_call::tell(name, None);
                *destination = None;
            }
        }
        self.keep(event);
        self.0.hub.publish(event);
    }

    /// Returns the first events: how the VM came up.
    pub fn timeline(&self) -> Timeline {
        let first = self.0.first.lock().unwrap_or_else(PoisonError::into_inner);
        Timeline { events: first.clone() }
    }

    fn keep(&self, event: &Event) {
        let mut first = self.0.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() < TIMELINE_EVENTS {
            first.push(event.clone());
        }
    }
}

fn lock(file: &Mutex<Option<File>>) -> std::sync::MutexGuard<'_, Option<File>> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
