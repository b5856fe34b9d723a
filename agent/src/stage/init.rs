//! The small init: the container's first process, when it's asked for.
//!
//! It has its child's user and rights. It starts the child in a process group of its own, passes
//! signals on to it, reaps what the child's children leave behind, and ends as the child does.

use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::fault::{AgentError, Result};
use crate::sys;

/// Starts `command` and stays its parent until its end. Returns the exit code for both.
pub(super) fn run(
    mut command: Command,
    socket: &UnixStream,
    describe: impl Fn(&io::Error) -> AgentError,
) -> Result<i32> {
    sys::block_signals();
    command.process_group(0);
    let child = sys::spawn_unblocked(&mut command).spawn().map_err(|error| describe(&error))?;
    let Some(child) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        return Ok(125);
    };
    if rustix::termios::isatty(rustix::stdio::stdin()) {
        // The child is in the background until it has the terminal. Without one it needs none.
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), child);
    }
    // The agent's sign that the child is there.
    let _ = socket.shutdown(std::net::Shutdown::Both);
    loop {
        match sys::wait_signal() {
            Ok(libc::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    return Ok(code);
                }
            }
            // These are about this process's terminal, not the child's.
            Ok(libc::SIGTTIN | libc::SIGTTOU) | Err(_) => {}
            // It may have ended just now.
            Ok(signal) => {
                let _ = sys::kill(child.as_raw_pid(), signal);
            }
        }
    }
}

/// Reaps all that has ended. Returns the child's exit code if it's among them.
fn reap(child: Pid) -> Option<i32> {
    let mut code = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == child {
            code = Some(exit_code(status));
        }
    }
    code
}

/// Returns the exit code of a status: 128 and the number after a signal.
pub(crate) fn exit_code(status: WaitStatus) -> i32 {
    let signalled = || status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or_else(signalled).unwrap_or(125)
}
