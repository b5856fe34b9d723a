//! The main thread's event loop: signals, the shutdown deadline, the machine's end.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use devices::InterruptLine;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use sys::signal::SignalFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::stop::{StopReason, StopSignal};

/// The signals that ask for the end of the machine.
const STOP_SIGNALS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Blocks the signals that [`Control`] handles, for this thread and all that it starts from now on.
///
/// # Errors
/// When no descriptor for them can be made.
pub fn block_stop_signals() -> io::Result<SignalFd> {
    SignalFd::new(&STOP_SIGNALS)
}

/// Turns the first stop signal into the guest's power button, and the second, or a deadline after
/// the first, into the machine's end.
pub struct Control {
    signals: SignalFd,
    stop: Arc<StopSignal>,
    power_button: Box<dyn InterruptLine>,
    deadline: TimerFd,
    shutdown_timeout: Duration,
    pressed: bool,
}

impl Control {
    /// Serves `signals`; a guest gets `shutdown_timeout` to power itself off. A timeout of zero
    /// ends the machine at the first signal.
    ///
    /// # Errors
    /// When there is no timer.
    pub fn new(
        signals: SignalFd,
        stop: Arc<StopSignal>,
        power_button: Box<dyn InterruptLine>,
        shutdown_timeout: Duration,
    ) -> io::Result<Self> {
        let deadline = TimerFd::new().map_err(io::Error::from)?;
        Ok(Self { signals, stop, power_button, deadline, shutdown_timeout, pressed: false })
    }

    fn stop_signal(&mut self, signal: libc::c_int) {
        if self.pressed || self.shutdown_timeout.is_zero() {
            log::info!("stopping at once (signal {signal})");
            self.stop.request(StopReason::Killed);
            return;
        }
        log::info!(
            "pressing the power button (signal {signal}); the guest has {:?} to power off",
            self.shutdown_timeout
        );
        self.pressed = true;
        self.power_button.trigger();
        if let Err(error) = self.deadline.reset(self.shutdown_timeout, None) {
            log::error!("can't set the shutdown deadline: {error}");
            self.stop.request(StopReason::Killed);
        }
    }
}

impl MutEventSubscriber for Control {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        // The stop signal's own descriptor only has to end the wait: the loop looks at the reason.
        if events.fd() == self.signals.as_raw_fd() {
            match self.signals.next() {
                Ok(Some(signal)) => self.stop_signal(signal),
                Ok(None) => {}
                Err(error) => self.stop.request(StopReason::Fault(error.to_string())),
            }
        } else if events.fd() == self.deadline.as_raw_fd() {
            self.stop.request(StopReason::Deadline);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let watched = [self.signals.as_raw_fd(), self.stop.as_raw_fd(), self.deadline.as_raw_fd()];
        for fd in watched {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                self.stop.request(StopReason::Fault(error.to_string()));
            }
        }
    }
}
