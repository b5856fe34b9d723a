//! The main thread's loop: signals, the API's actions, deadlines, the console, the end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{
    EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use sys::signal::SignalFd;

use super::{Inbox, VmState, Vmm};
use crate::error::VmmError;
use crate::stop::StopReason;

/// The signals that ask for the end of the machine.
const STOP_SIGNALS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// How often metrics are written without being asked for.
const METRICS_PERIOD: Duration = Duration::from_secs(60);

/// What the loop waits for besides the console.
pub struct Wakes {
    signals: SignalFd,
    inbox: Arc<Inbox>,
    deadline: Timer,
    metrics: Timer,
}

/// A timer whose descriptor is readable once it has run out.
struct Timer(OwnedFd);

impl Wakes {
    /// Takes over the signals that stop a machine, for this thread and all that it starts from now
    /// on.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let signals = SignalFd::new(&STOP_SIGNALS)?;
        let inbox = Arc::new(Inbox::new()?);
        let deadline = Timer::new()?;
        let metrics = Timer::new()?;
        metrics.set(METRICS_PERIOD, METRICS_PERIOD)?;
        Ok(Self { signals, inbox, deadline, metrics })
    }

    /// Returns where the API's thread leaves its actions.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    fn fds(&self) -> [RawFd; 4] {
        [
            self.signals.as_raw_fd(),
            self.inbox.as_raw_fd(),
            self.deadline.0.as_raw_fd(),
            self.metrics.0.as_raw_fd(),
        ]
    }
}

/// Ends the loop's wait. The loop itself then looks at what there is.
struct Waker(Vec<RawFd>);

impl MutEventSubscriber for Waker {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {}

    fn init(&mut self, ops: &mut EventOps) {
        for &fd in &self.0 {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("the main thread can't wait for one of its descriptors: {error}");
            }
        }
    }
}

type Loop = EventManager<Box<dyn MutEventSubscriber>>;

impl Vmm {
    /// Serves until the machine ends, takes it down, and returns why.
    ///
    /// # Errors
    /// When a vCPU can't go on, or the event loop can't be made or fails.
    pub fn serve(mut self, wakes: Wakes) -> Result<StopReason, VmmError> {
        let failed = |error: event_manager::Error| {
            VmmError::os("run the event loop", io::Error::other(error))
        };
        let mut events = Loop::new_with_capacity(16).map_err(failed)?;
        let mut fds = wakes.fds().to_vec();
        fds.push(self.stop.as_raw_fd());
        events.add_subscriber(Box::new(Waker(fds)));
        loop {
            self.connect_machine(&mut events);
            let capture = self.watch_capture(&mut events);
            if let Some(reason) = self.stop.reason().cloned() {
                return self.end(reason);
            }
            events.run().map_err(failed)?;
            if let Some(watcher) = capture {
                events.remove_subscriber(watcher).map_err(failed)?;
            }
            self.serve_signals(&wakes);
            self.serve_timers(&wakes);
            for (action, reply) in wakes.inbox.take() {
                self.carry_out(action, reply);
            }
            self.finish_capture();
            self.remove_ejected();
            self.arm_deadline(&wakes);
        }
    }

    /// Has the loop serve what a new machine waits for: its console's input, and devices that its
    /// guest gives up.
    fn connect_machine(&mut self, events: &mut Loop) {
        let Some(machine) = self.machine.as_mut().filter(|_| !self.connected) else { return };
        self.connected = true;
        if let Some(input) = machine.take_console_input() {
            events.add_subscriber(input);
        }
        if let Some(ejections) = machine.ejections() {
            events.add_subscriber(Box::new(Waker(vec![ejections])));
        }
    }

    /// Has the loop wake when the memory of a fork is complete.
    fn watch_capture(&self, events: &mut Loop) -> Option<SubscriberId> {
        let done = self.capture.as_ref()?.done()?;
        Some(events.add_subscriber(Box::new(Waker(vec![done]))))
    }

    fn serve_signals(&mut self, wakes: &Wakes) {
        loop {
            match wakes.signals.next() {
                Ok(Some(signal)) => {
                    log::info!("signal {signal}");
                    self.shut_down(self.settings.shutdown_timeout);
                }
                Ok(None) => return,
                Err(error) => {
                    self.stop.request(StopReason::Fault(error.to_string()));
                    return;
                }
            }
        }
    }

    fn serve_timers(&mut self, wakes: &Wakes) {
        if wakes.deadline.expired() && self.deadline.is_some_and(|at| at <= now()) {
            self.stop.request(StopReason::Deadline);
        }
        if wakes.metrics.expired() {
            self.flush_metrics();
        }
    }

    /// Presses the guest's power button and gives it `timeout`. Asked a second time, or where
    /// nothing runs, the machine ends at once.
    pub(super) fn shut_down(&mut self, timeout: Duration) {
        let running = self.state == VmState::Running;
        let machine = self.machine.as_ref().filter(|_| running && !timeout.is_zero());
        let (Some(machine), None) = (machine, self.deadline) else {
            log::info!("stopping at once");
            return self.kill();
        };
        log::info!("pressing the power button; the guest has {timeout:?} to power off");
        machine.press_power_button();
        self.deadline = Some(now().saturating_add(timeout));
    }

    fn arm_deadline(&self, wakes: &Wakes) {
        let Some(deadline) = self.deadline else { return };
        // A time of zero would disarm the timer.
        let left = deadline.saturating_sub(now()).max(Duration::from_nanos(1));
        if let Err(error) = wakes.deadline.set(left, Duration::ZERO) {
            log::error!("can't set the shutdown deadline: {error}");
            self.kill();
        }
    }

    /// Takes the machine down, writes the last metrics, and says why it ended.
    fn end(mut self, reason: StopReason) -> Result<StopReason, VmmError> {
        self.capture = None;
        self.finish_recording();
        if let Some(machine) = &mut self.machine {
            machine.take_down();
        }
        self.flush_metrics();
        match reason {
            StopReason::Fault(reason) => Err(VmmError::VcpuFailed { reason }),
            reason => Ok(reason),
        }
    }
}

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Has it run out after `first`, which isn't zero, and then each `period` unless that is zero.
    fn set(&self, first: Duration, period: Duration) -> io::Result<()> {
        let invalid = |_| io::ErrorKind::InvalidInput;
        let value = Itimerspec {
            it_value: Timespec::try_from(first).map_err(invalid)?,
            it_interval: Timespec::try_from(period).map_err(invalid)?,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &value)?;
        Ok(())
    }

    /// Tells whether it has run out since the last look.
    fn expired(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

/// Returns `CLOCK_MONOTONIC`.
fn now() -> Duration {
    Duration::from_nanos(crate::status::monotonic_ns())
}
