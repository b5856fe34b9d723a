//! Runs of free page hinting (VIRTIO 1.3 §5.5.6.5): what the host commands and the driver answers.

use serde::{Deserialize, Serialize};

/// `VIRTIO_BALLOON_CMD_ID_STOP`: as the host's, no run is wanted; as the driver's, all is named.
const STOP: u32 = 0;
/// `VIRTIO_BALLOON_CMD_ID_DONE`: the host is done with the pages, and the driver may use them.
const DONE: u32 = 1;
/// Commands from here on are numbers of runs.
const FIRST_RUN: u32 = 2;

/// How far hinting is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintingStatus {
    /// The host's latest command: 0 to stop, 1 when it is done, or the number of a run.
    pub host_command: u32,
    /// The driver's latest answer, in the same numbers.
    pub guest_command: Option<u32>,
}

/// What host and driver have said to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Hinting {
    host: u32,
    guest: Option<u32>,
    /// The number of the latest run.
    last_run: u32,
    /// The driver may use its pages as soon as it has named all of them.
    acknowledge: bool,
}

impl Hinting {
    /// Begins a run under a number that the one before doesn't have.
    pub(super) fn start(&mut self, acknowledge: bool) {
        self.last_run = self.last_run.wrapping_add(1).max(FIRST_RUN);
        self.host = self.last_run;
        self.acknowledge = acknowledge;
    }

    /// Ends a run, if there is one.
    pub(super) fn stop(&mut self) {
        self.host = DONE;
    }

    /// Takes the driver's command. Returns whether the host's has changed by it.
    pub(super) fn answer(&mut self, command: u32) -> bool {
        let was_running = self.is_running();
        self.guest = Some(command);
        let ends = was_running && matches!(command, STOP | DONE) && self.acknowledge;
        if ends {
            self.stop();
        }
        ends
    }

    /// Tells whether the driver names pages for the run that the host wants. Of an older run or one
    /// that's over, they may be in use again.
    pub(super) fn is_running(&self) -> bool {
        self.host >= FIRST_RUN && self.guest == Some(self.host)
    }

    pub(super) fn status(&self) -> HintingStatus {
        HintingStatus { host_command: self.host, guest_command: self.guest }
    }

    /// Forgets a driver. Its successor doesn't take an old run's number for a new one.
    pub(super) fn forget(&mut self) {
        *self = Self { last_run: self.last_run, ..Self::default() };
    }
}
