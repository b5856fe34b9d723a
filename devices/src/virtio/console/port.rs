//! What a virtio console, its input and whoever resizes it share.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::super::device::Notifier;
use crate::console::{ConsoleOutput, InputTarget};
use crate::state::RestoreError;

/// How much input waits for the driver to provide buffers.
const INPUT_CAPACITY: usize = 4096;

/// The host's side of a virtio console, in place whether the device is active or not.
pub struct ConsolePort {
    state: Mutex<State>,
    output: Arc<ConsoleOutput>,
    /// Input has come in: for the device's worker.
    arrived: EventFd,
    /// Input is wanted: for whoever offers it.
    room: EventFd,
}

#[derive(Default)]
struct State {
    input: VecDeque<u8>,
    input_waits: bool,
    columns: u16,
    rows: u16,
    notifier: Option<Notifier>,
}

/// What a console device saves.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ConsoleState {
    /// Typed, but not yet taken by the driver.
    input: Vec<u8>,
    columns: u16,
    rows: u16,
}

impl ConsolePort {
    /// Creates a port that writes to `output`, of unknown size (0 by 0).
    ///
    /// # Errors
    /// When there are no eventfds.
    pub fn new(output: Arc<ConsoleOutput>) -> io::Result<Self> {
        Ok(Self {
            state: Mutex::default(),
            output,
            arrived: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            room: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        })
    }

    /// Tells the driver how many character cells the host's terminal has.
    pub fn resize(&self, columns: u16, rows: u16) {
        let mut state = self.lock();
        if (state.columns, state.rows) == (columns, rows) {
            return;
        }
        (state.columns, state.rows) = (columns, rows);
        let notifier = state.notifier.clone();
        drop(state);
        if let Some(notifier) = notifier {
            notifier.config_changed();
        }
    }

    pub(super) fn save(&self) -> ConsoleState {
        let State { input, input_waits: _, columns, rows, notifier: _ } = &*self.lock();
        let input = input.iter().copied().collect();
        ConsoleState { input, columns: *columns, rows: *rows }
    }

    /// Takes over a saved state: its input comes before what is typed from now on. The size is the
    /// saved one only as long as nobody knows a newer.
    ///
    /// # Errors
    /// [`RestoreError`] for more input than a port keeps.
    pub(super) fn restore(&self, saved: &ConsoleState) -> Result<(), RestoreError> {
        if saved.input.len() > INPUT_CAPACITY {
            return Err(RestoreError::invalid("amount of console input", saved.input.len()));
        }
        let mut state = self.lock();
        let newer = std::mem::replace(&mut state.input, saved.input.iter().copied().collect());
        state.input.extend(newer);
        if (state.columns, state.rows) == (0, 0) {
            (state.columns, state.rows) = (saved.columns, saved.rows);
        }
        if !state.input.is_empty() {
            // It fails only when it is full, and then it is readable already.
            let _ = self.arrived.write(1);
        }
        Ok(())
    }

    pub(super) fn size(&self) -> (u16, u16) {
        let state = self.lock();
        (state.columns, state.rows)
    }

    /// Says whom to notify from now on.
    pub(super) fn attach(&self, notifier: Option<Notifier>) {
        self.lock().notifier = notifier;
    }

    pub(super) fn output(&self) -> &ConsoleOutput {
        &self.output
    }

    pub(super) fn arrived(&self) -> &EventFd {
        &self.arrived
    }

    pub(super) fn has_input(&self) -> bool {
        !self.lock().input.is_empty()
    }

    /// Lets `take` remove input, and has more of it offered when there is room again.
    pub(super) fn take_input<R>(&self, take: impl FnOnce(&mut VecDeque<u8>) -> R) -> R {
        let mut state = self.lock();
        let taken = take(&mut state.input);
        if state.input_waits && state.input.len() < INPUT_CAPACITY {
            state.input_waits = false;
            let _ = self.room.write(1);
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputTarget for ConsolePort {
    fn offer(&self, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        let room = INPUT_CAPACITY.saturating_sub(state.input.len());
        let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        state.input_waits = !later.is_empty();
        if !now.is_empty() {
            state.input.extend(now);
            let _ = self.arrived.write(1);
        }
        now.len()
    }

    fn room(&self) -> &EventFd {
        &self.room
    }
}
