//! How a VM is asked to end, and made to.
//!
//! ```text
//!              request            request           request
//! Running ──────────> Asked ──────────────> Ending ──────────> Killed
//!    │                  │ guest's time and     │ grace            ^
//!    │ quit             │ grace are over       │ is over          │
//!    └──────────────────┼─────────> Ending     └──────────────────┤
//!                       └─────────────────────────────────────────┘
//! ```
//!
//! The VMM itself presses the power button at the first signal, ends at the second, and watches
//! the guest's time. What's here is for a VMM that doesn't answer any more.

use std::time::{Duration, Instant};

use rustix::process::Signal;

/// How long a VMM may take to end on its own after it should have: longer than it waits for a slow
/// reader of its console (5 s), so that it gets to say why it ended.
const GRACE: Duration = Duration::from_secs(10);

/// How far the end of a VM has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The power button was pressed.
    Asked,
    /// The VMM was told to end the VM at once.
    Ending,
    /// The VMM was killed.
    Killed,
}

/// Decides which signals a VMM gets, and when.
#[derive(Debug)]
pub(super) struct Shutdown {
    phase: Phase,
    /// When the VMM gets killed.
    deadline: Option<Instant>,
    /// How long the guest has once its power button was pressed.
    guest_time: Duration,
}

impl Shutdown {
    pub(super) fn new(guest_time: Duration) -> Self {
        Self { phase: Phase::Running, deadline: None, guest_time }
    }

    /// Whether the end was asked for from outside the guest.
    pub(super) fn was_requested(&self) -> bool {
        self.phase != Phase::Running
    }

    /// Takes the next step: power button, end at once, kill.
    pub(super) fn request(&mut self, now: Instant) -> &'static [Signal] {
        match self.phase {
            Phase::Running => self.press_power_button(now),
            Phase::Asked => self.end(now, &[Signal::INT]),
            Phase::Ending | Phase::Killed => self.kill(),
        }
    }

    /// Presses the power button; pressing it again does nothing.
    pub(super) fn press_power_button(&mut self, now: Instant) -> &'static [Signal] {
        if self.phase != Phase::Running {
            return &[];
        }
        self.phase = Phase::Asked;
        self.deadline = Some(now + self.guest_time + GRACE);
        &[Signal::TERM]
    }

    /// Ends the VM at once, whatever was asked for before.
    pub(super) fn quit(&mut self, now: Instant) -> &'static [Signal] {
        match self.phase {
            // Two different signals: two alike could arrive as one.
            Phase::Running => self.end(now, &[Signal::TERM, Signal::INT]),
            Phase::Asked => self.end(now, &[Signal::INT]),
            Phase::Ending | Phase::Killed => self.kill(),
        }
    }

    /// How long until [`expire`](Self::expire) has something to do.
    pub(super) fn time_left(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Kills a VMM whose deadline is over.
    pub(super) fn expire(&mut self, now: Instant) -> &'static [Signal] {
        match self.deadline {
            Some(deadline) if deadline <= now => self.kill(),
            _ => &[],
        }
    }

    fn end(&mut self, now: Instant, signals: &'static [Signal]) -> &'static [Signal] {
        self.phase = Phase::Ending;
        self.deadline = Some(now + GRACE);
        signals
    }

    fn kill(&mut self) -> &'static [Signal] {
        self.phase = Phase::Killed;
        self.deadline = None;
        &[Signal::KILL]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST_TIME: Duration = Duration::from_secs(30);

    #[test]
    fn each_request_goes_one_step_further() {
        let now = Instant::now();
        let mut shutdown = Shutdown::new(GUEST_TIME);
        assert!(!shutdown.was_requested());
        assert_eq!(shutdown.request(now), [Signal::TERM]);
        assert!(shutdown.was_requested());
        assert_eq!(shutdown.request(now), [Signal::INT]);
        assert_eq!(shutdown.request(now), [Signal::KILL]);
    }

    #[test]
    fn quit_is_two_signals_that_cannot_merge() {
        let mut shutdown = Shutdown::new(GUEST_TIME);
        assert_eq!(shutdown.quit(Instant::now()), [Signal::TERM, Signal::INT]);
        let mut shutdown = Shutdown::new(GUEST_TIME);
        shutdown.press_power_button(Instant::now());
        assert_eq!(shutdown.quit(Instant::now()), [Signal::INT]);
    }

    #[test]
    fn second_press_of_the_power_button_does_nothing() {
        let mut shutdown = Shutdown::new(GUEST_TIME);
        assert_eq!(shutdown.press_power_button(Instant::now()), [Signal::TERM]);
        assert!(shutdown.press_power_button(Instant::now()).is_empty());
    }

    #[test]
    fn vmm_that_does_not_answer_is_killed_once_the_guests_time_and_the_grace_are_over() {
        let now = Instant::now();
        let mut shutdown = Shutdown::new(GUEST_TIME);
        assert_eq!(shutdown.time_left(now), None);
        shutdown.request(now);
        assert_eq!(shutdown.time_left(now), Some(GUEST_TIME + GRACE));
        assert!(shutdown.expire(now + GUEST_TIME).is_empty());
        assert_eq!(shutdown.expire(now + GUEST_TIME + GRACE), [Signal::KILL]);
        assert_eq!(shutdown.time_left(now), None);
    }
}
