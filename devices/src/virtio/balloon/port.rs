//! What a balloon and whoever inflates it share.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
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
    /// The statistics buffer that the driver waits for: returning it asks for new ones (§5.5.6.3).
    held_stats: Option<u16>,
    notifier: Option<Notifier>,
}

/// What a balloon device saves.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct BalloonState {
    target_pages: u32,
    actual_pages: u32,
    #[serde(default)]
    stats: Option<BalloonStats>,
    /// The first descriptor of the chain that the device keeps in the statistics queue.
    #[serde(default)]
    held_stats: Option<u16>,
}

impl BalloonState {
    /// Returns the chain that the device keeps.
    pub(super) fn held_stats(&self) -> Option<u16> {
        self.held_stats
    }
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

    /// Keeps the chain that has the statistics; returns the one that was kept before.
    pub(super) fn hold_stats(&self, head: u16) -> Option<u16> {
        self.lock().held_stats.replace(head)
    }

    /// Gives the kept chain up.
    pub(super) fn take_held_stats(&self) -> Option<u16> {
        self.lock().held_stats.take()
    }

    pub(super) fn save(&self) -> BalloonState {
        let State {
            target_pages,
            actual_pages,
            stats,
            refused_entries: _,
            held_stats,
            notifier: _,
        } = &*self.lock();
        BalloonState {
            target_pages: *target_pages,
            actual_pages: *actual_pages,
            stats: *stats,
            held_stats: *held_stats,
        }
    }

    /// Takes over a saved state, whose chain's head is one that a queue can have.
    pub(super) fn restore(&self, saved: &BalloonState) {
        let mut state = self.lock();
        state.target_pages = saved.target_pages;
        state.actual_pages = saved.actual_pages;
        state.stats = saved.stats;
        state.held_stats = saved.held_stats;
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
        state.held_stats = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
