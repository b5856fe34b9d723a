//! What a balloon and whoever inflates it share.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::super::device::Notifier;
use super::hinting::{Hinting, HintingStatus};
use super::stats::BalloonStats;

/// The host's side of a balloon, in place whether the device is active or not.
pub struct BalloonPort {
    state: Mutex<State>,
    /// New statistics are wanted: for the device's worker.
    stats_wanted: EventFd,
    /// The same, at every interval.
    stats_timer: OwnedFd,
}

#[derive(Default)]
struct State {
    target_pages: u32,
    actual_pages: u32,
    stats: Option<BalloonStats>,
    refused_entries: u64,
    /// The statistics buffer that the driver waits for: returning it asks for new ones (§5.5.6.3).
    held_stats: Option<u16>,
    hinting: Hinting,
    driver: Option<Driver>,
}

/// A driver that is there.
struct Driver {
    notifier: Notifier,
    /// Whether it can be asked which pages it has free.
    hints: bool,
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
    #[serde(default)]
    hinting: Hinting,
}

impl BalloonState {
    /// Returns the chain that the device keeps.
    pub(super) fn held_stats(&self) -> Option<u16> {
        self.held_stats
    }
}

impl BalloonPort {
    /// Creates a port that asks for no pages, and for statistics only when told to.
    ///
    /// # Errors
    /// When there is no eventfd or timer.
    pub fn new() -> io::Result<Self> {
        let stats_wanted = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let stats_timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { state: Mutex::default(), stats_wanted, stats_timer })
    }

    /// Asks the driver for new statistics every `interval` from now on, or, if that's zero, no more.
    ///
    /// # Errors
    /// When the timer can't be set: the interval is longer than the host's clock can tell.
    pub fn set_stats_interval(&self, interval: Duration) -> io::Result<()> {
        let interval = Timespec {
            tv_sec: i64::try_from(interval.as_secs()).map_err(io::Error::other)?,
            tv_nsec: interval.subsec_nanos().into(),
        };
        let timer = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&self.stats_timer, TimerfdTimerFlags::empty(), &timer)?;
        Ok(())
    }

    /// Asks the driver to hand over `pages` pages of 4 KiB in all. It gets as near as it can, in its
    /// own time, and takes pages back when it would run out of memory.
    pub fn set_target_pages(&self, pages: u32) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.target_pages, pages) == pages {
            return;
        }
        Self::tell(state);
    }

    /// Tells the driver, if there is one, that the configuration has changed.
    fn tell(state: MutexGuard<'_, State>) {
        let notifier = state.driver.as_ref().map(|driver| driver.notifier.clone());
        drop(state);
        if let Some(notifier) = notifier {
            notifier.config_changed();
        }
    }

    /// Has the driver hand over the pages that it has free, for the host to take their memory. With
    /// `acknowledge`, it may use them again once it has named all; otherwise only after
    /// [`stop_hinting`](Self::stop_hinting). A run that isn't over is replaced.
    ///
    /// Returns whether there is a driver that can.
    pub fn start_hinting(&self, acknowledge: bool) -> bool {
        self.command_hinting(|hinting| hinting.start(acknowledge))
    }

    /// Lets the driver use again whatever it has named. Returns whether there is a driver that can
    /// name pages.
    pub fn stop_hinting(&self) -> bool {
        self.command_hinting(Hinting::stop)
    }

    fn command_hinting(&self, command: impl FnOnce(&mut Hinting)) -> bool {
        let mut state = self.lock();
        let hints = state.driver.as_ref().is_some_and(|driver| driver.hints);
        if hints {
            command(&mut state.hinting);
            Self::tell(state);
        }
        hints
    }

    /// Returns how far the latest run is.
    pub fn hinting_status(&self) -> HintingStatus {
        self.lock().hinting.status()
    }

    /// Takes note of a driver's command, after which the device may have one in turn.
    pub(super) fn guest_hinting_command(&self, command: u32) {
        let mut state = self.lock();
        if state.hinting.answer(command) {
            Self::tell(state);
        }
    }

    /// Discards a page that the driver has named, unless the run is over: then it may be in use. A
    /// run doesn't end meanwhile.
    pub(super) fn discard_hinted(&self, discard: impl FnOnce()) {
        let state = self.lock();
        if state.hinting.is_running() {
            discard();
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
            hinting,
            driver: _,
        } = &*self.lock();
        BalloonState {
            target_pages: *target_pages,
            actual_pages: *actual_pages,
            stats: *stats,
            held_stats: *held_stats,
            hinting: *hinting,
        }
    }

    /// Takes over a saved state, whose chain's head is one that a queue can have.
    pub(super) fn restore(&self, saved: &BalloonState) {
        let mut state = self.lock();
        state.target_pages = saved.target_pages;
        state.actual_pages = saved.actual_pages;
        state.stats = saved.stats;
        state.held_stats = saved.held_stats;
        state.hinting = saved.hinting;
    }

    pub(super) fn stats_wanted(&self) -> &EventFd {
        &self.stats_wanted
    }

    /// Returns what is readable when an interval is over.
    pub(super) fn stats_timer(&self) -> RawFd {
        self.stats_timer.as_raw_fd()
    }

    /// Takes note that an interval was seen to be over.
    pub(super) fn acknowledge_timer(&self) {
        // It fails only when the timer was set anew meanwhile.
        let _ = rustix::io::read(&self.stats_timer, &mut [0u8; 8]);
    }

    /// Says whom to notify from now on, and whether it can name its free pages.
    pub(super) fn attach(&self, notifier: Notifier, hints: bool) {
        self.lock().driver = Some(Driver { notifier, hints });
    }

    /// Forgets a driver: the next one starts with all of its memory.
    pub(super) fn detach(&self) {
        let mut state = self.lock();
        state.driver = None;
        state.hinting.forget();
        state.actual_pages = 0;
        state.stats = None;
        state.held_stats = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
