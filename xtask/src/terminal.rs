//! The user's terminal: its size, and raw mode with a guard that ends it.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use rustix::termios::{self, OptionalActions, Termios};

/// Puts the terminal on standard input into raw mode until dropped.
pub(crate) struct RawMode {
    saved: Termios,
}

impl RawMode {
    /// Enters raw mode: every key is read as it is typed, none means anything to this process.
    ///
    /// # Errors
    ///
    /// Fails when standard input isn't a terminal.
    pub(crate) fn enter() -> Result<Self> {
        let saved = termios::tcgetattr(io::stdin()).context("cannot read the terminal's mode")?;
        let mut raw = saved.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Drain, &raw)
            .context("cannot set the terminal's mode")?;
        Ok(Self { saved })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has gone away needs no restoring.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.saved);
    }
}

/// Tells whether a person can type to us and see what we write.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Returns the terminal's rows and columns.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
