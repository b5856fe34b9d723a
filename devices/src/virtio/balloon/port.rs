//! What a balloon and whoever inflates it share.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::super::device::Notifier;
use super::stats::BalloonStats;

/// The host's side of a balloon, in place whether the device is active or not.
pub struct BalloonPort {
    state: Mutex<State>,
    /// New statistics are wanted: for the device's worker.
    stats_wanted: EventFd,
}

#[derive(Default)]
struct State {
    target_pages: u32,
    actual_pages: u32,
    stats: Option<BalloonStats>,
    refused_entries: u64,
    notifier: Option<Notifier>,
}

impl BalloonPort {
    /// Creates a port that asks for no pages.
    ///
    /// # Errors
    /// When there is no eventfd.
    pub fn new() -> io::Result<Self> {
        let stats_wanted = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(Self { state: Mutex::default(), stats_wanted })
    }

    /// Asks the driver to hand over `pages` pages of 4 KiB in all. It gets as near as it can, in its
    /// own time, and takes pages back when it would run out of memory.
    pub fn set_target_pages(&self, pages: u32) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.target_pages, pages) == pages {
            return;
        }
        let notifier = state.notifier.clone();
        drop(state);
        if let Some(notifier) = notifier {
            notifier.config_changed();
        }
    }

    /// Returns how many pages the driver is asked for.
    pub fn target_pages(&self) -> u32 {
        self.lock().target_pages
    }

    /// Returns how many pages the driver says that it has handed over.
    pub fn actual_pages(&self) -> u32 {
        self.lock().actual_pages
    }

    /// Returns the driver's latest statistics, if there have been any.
    pub fn stats(&self) -> Option<BalloonStats> {
        self.lock().stats
    }

    /// Asks the driver for new statistics, which come in its own time.
    pub fn request_stats(&self) {
        // It fails only when it is full, and then it is readable already.
        let _ = self.stats_wanted.write(1);
    }

    /// Counts entries in lists of pages that were none: outside memory, or too many.
    pub fn refused_entries(&self) -> u64 {
        self.lock().refused_entries
    }

    pub(super) fn set_actual_pages(&self, pages: u32) {
        self.lock().actual_pages = pages;
    }

    pub(super) fn set_stats(&self, stats: BalloonStats) {
        self.lock().stats = Some(stats);
    }

    pub(super) fn count_refused(&self, entries: u64) {
        if entries != 0 {
            let mut state = self.lock();
            state.refused_entries = state.refused_entries.saturating_add(entries);
        }
    }

    pub(super) fn stats_wanted(&self) -> &EventFd {
        &self.stats_wanted
    }

    /// Says whom to notify from now on.
    pub(super) fn attach(&self, notifier: Notifier) {
        self.lock().notifier = Some(notifier);
    }

    /// Forgets a driver: the next one starts with all of its memory.
    pub(super) fn detach(&self) {
        let mut state = self.lock();
        state.notifier = None;
        state.actual_pages = 0;
        state.stats = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
