//! What every instance is to the host: a command in a cgroup of its own, with an output.

use std::io::PipeReader;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::meter::Metered;
use super::process::{self, code, kill_group};
use super::{Usage, WayError};
use crate::interrupt::Interrupt;

/// A command that runs an instance; killed when it's dropped.
pub(super) struct Spawned {
    pub(super) started: Instant,
    pub(super) child: Child,
    pub(super) metered: Metered,
    output: Option<PipeReader>,
    interrupt: Interrupt,
    patience: Duration,
}

impl Spawned {
    /// Starts the command. `started` is when the work for it began, `patience` how long it may take to
    /// end.
    pub(super) fn start(
        command: Command,
        metered: Metered,
        started: Instant,
        interrupt: &Interrupt,
        patience: Duration,
    ) -> Result<Self, WayError> {
        let (child, output) = process::start(metered.enter(command))?;
        let (output, interrupt) = (Some(output), interrupt.clone());
        Ok(Self { started, child, metered, output, interrupt, patience })
    }

    pub(super) fn output(&mut self) -> Option<PipeReader> {
        self.output.take()
    }

    pub(super) fn usage(&self) -> Result<Usage, WayError> {
        self.metered.usage()
    }

    pub(super) fn try_wait(&mut self) -> Result<Option<i32>, WayError> {
        process::try_wait(&mut self.child)
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end, or for Ctrl-C.
    pub(super) fn wait(&mut self) -> Result<i32, WayError> {
        let deadline = Instant::now() + self.patience;
        process::wait(&mut self.child, deadline, Some(&self.interrupt))
            .map(code)
            .map_err(|stopped| stopped.into_way_error("the instance's end", self.patience))
    }

    /// Waits for the end after it was asked for: whether it has come in time.
    pub(super) fn ends_within(&mut self, limit: Duration) -> bool {
        process::wait(&mut self.child, Instant::now() + limit, None).is_ok()
    }

    /// Waits until nothing of it is left.
    pub(super) fn wait_gone(&mut self) -> Result<(), WayError> {
        process::wait(&mut self.child, Instant::now() + self.patience, None)
            .map_err(|stopped| stopped.into_way_error("the instance's end", self.patience))?;
        self.metered.wait_until_empty(self.patience)
    }

    /// Ends it at once, if it runs.
    pub(super) fn kill(&mut self) {
        if self.is_running() {
            kill_group(&self.child);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The methods of [`super::Instance`] that are the same for all that has a field `spawned`.
macro_rules! spawned_methods {
    () => {
        fn started(&self) -> std::time::Instant {
            self.spawned.started
        }

        fn output(&mut self) -> Option<std::io::PipeReader> {
            self.spawned.output()
        }

        fn usage(&self) -> Result<$crate::ways::Usage, $crate::ways::WayError> {
            self.spawned.usage()
        }

        fn cpu_us(&self) -> Option<u64> {
            self.spawned.metered.cpu_us()
        }

        fn processes(&self) -> Vec<u32> {
            self.spawned.metered.processes()
        }

        fn try_wait(&mut self) -> Result<Option<i32>, $crate::ways::WayError> {
            self.spawned.try_wait()
        }

        fn wait(&mut self) -> Result<i32, $crate::ways::WayError> {
            self.spawned.wait()
        }
    };
}

pub(super) use spawned_methods;
