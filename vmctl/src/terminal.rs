//! The terminal's raw mode, and its restoration on every way out.
//!
//! Dropping [`RawMode`] restores; so does a panic, whose hook runs before a process that's built to
//! abort does. Signals that would end the process are handled by its event loop, which ends by
//! dropping. Against SIGKILL there's no remedy.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, Once, PoisonError};

use rustix::stdio::stdin;
use rustix::termios::{LocalModes, OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};

/// The modes to go back to, while standard input is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input is a terminal in raw mode for as long as this lives.
#[derive(Debug)]
pub(crate) struct RawMode {
    /// Output isn't processed either.
    whole: bool,
}

impl RawMode {
    /// Makes standard input raw: each key as it's typed, no echo, no signals from keys. Output
    /// processing stays, so that `\n` still starts a line on this process's own messages.
    ///
    /// None if standard input is no terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        Self::enter_as(false)
    }

    /// Makes standard input raw, output processing included: what's written is for a terminal whose
    /// modes are those of another one, in a guest.
    pub(crate) fn enter_whole() -> io::Result<Option<Self>> {
        Self::enter_as(true)
    }

    fn enter_as(whole: bool) -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        restore_on_panic();
        let modes = tcgetattr(stdin())?;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(modes);
        // From here on dropping restores, whatever happens.
        let guard = Self { whole };
        guard.apply()?;
        Ok(Some(guard))
    }

    /// Makes it raw again: after a stop and a continuation, a shell has set modes of its own.
    pub(crate) fn apply(&self) -> io::Result<()> {
        let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut modes) = saved.clone() else { return Ok(()) };
        modes.make_raw();
        if !self.whole {
            modes.output_modes |= OutputModes::OPOST;
        }
        // The VMM writes from a process group of its own.
        modes.local_modes -= LocalModes::TOSTOP;
        tcsetattr(stdin(), OptionalActions::Now, &modes)?;
        Ok(())
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal's modes, if it's raw: for those who end the process at once.
pub(crate) fn restore() {
    // Never waits: a panic may have come while the lock was held.
    let Ok(mut saved) = SAVED.try_lock() else { return };
    if let Some(modes) = saved.take() {
        // The terminal may be gone; there's nobody to tell then.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &modes);
    }
}

fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            report(panic);
        }));
    });
}
