//! A process that lasts: it may be the first one of its namespace, for which the kernel's defaults
//! for signals don't hold, and which must wait for children that others have left.

use std::fs;
use std::io::{self, Write};
use std::thread;

use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::ProbeError;

/// Says `ready` and waits until it's asked to end.
///
/// # Errors
///
/// Signals can't be waited for, or nobody listens.
pub fn idle(mut output: impl Write) -> Result<(), ProbeError> {
    let signals = signals()?;
    output
        .write_all(b"ready\n")
        .and_then(|()| output.flush())
        .map_err(ProbeError::system("say that it's ready"))?;
    wait_for_end(signals);
    Ok(())
}

/// Ends the process when it's asked to, from a thread of its own.
///
/// # Errors
///
/// Signals can't be waited for.
pub fn exit_on_signals() -> Result<(), ProbeError> {
    let signals = signals()?;
    thread::Builder::new()
        .spawn(move || {
            wait_for_end(signals);
            std::process::exit(0);
        })
        .map_err(ProbeError::system("start a thread"))?;
    Ok(())
}

/// What each child of `try fork` does: nothing until its parent closes the pipe, or is gone.
///
/// It offers itself to be killed where memory is short, in its parent's place, which has a result
/// to tell.
///
/// # Errors
///
/// The standard input can't be read.
pub fn sleep_until_end_of_input() -> Result<(), ProbeError> {
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    io::copy(&mut io::stdin(), &mut io::sink())
        .map_err(ProbeError::system("wait for the end of the input"))?;
    Ok(())
}

fn signals() -> Result<Signals, ProbeError> {
    Signals::new([SIGTERM, SIGINT, SIGHUP, SIGCHLD]).map_err(ProbeError::system("await signals"))
}

fn wait_for_end(mut signals: Signals) {
    for signal in signals.forever() {
        if signal != SIGCHLD {
            return;
        }
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
    }
}
