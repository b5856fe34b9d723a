//! Harmless things that an instance might not be let do, tried.

mod fork;
mod kernel;
mod memory;
mod panic;
mod storage;
mod sysctl;

use std::io;

use rustix::io::Errno;

pub use fork::{MAX_CHILDREN, fork};
pub use kernel::{clock, dmesg, hostname, module};
pub use memory::memory;
pub use panic::panic;
pub use storage::{mount, raw_disk};
pub use sysctl::proc_sys;

use crate::results::{AttemptResult, Text};

/// Something was done.
fn done(what: &str, detail: impl Into<Text>) -> AttemptResult {
    AttemptResult {
        what: what.into(),
        done: true,
        detail: detail.into(),
        ..AttemptResult::default()
    }
}

/// Something wasn't done; whether it was forbidden, the error tells.
fn not_done(what: &str, error: &io::Error, detail: impl Into<Text>) -> AttemptResult {
    AttemptResult {
        what: what.into(),
        refused: forbids(error),
        error: Some(Text::from(error.to_string())),
        detail: detail.into(),
        ..AttemptResult::default()
    }
}

/// Whether an error means that something was forbidden, rather than that it can't be.
fn forbids(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::PERM | Errno::ACCESS | Errno::ROFS))
}

#[cfg(test)]
mod tests;
