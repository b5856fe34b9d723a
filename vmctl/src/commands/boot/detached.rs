//! A VM that's left to itself once it runs.

use std::io;
use std::path::Path;

use api::config::{ConsoleOutput, VmConfig};
use api::event::{Event, Failure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::status::StatusLines;
use super::supervise::Signals;
use crate::errors::CliError;
use crate::vmm_process::VmmProcess;

/// Connects a console that would be this terminal's to a socket: the one of a VM without a
/// terminal.
pub(super) fn connect_console(config: &mut VmConfig, dir: &Path, detached: bool) {
    if detached && config.console.output == ConsoleOutput::Stdio {
        config.console.output = ConsoleOutput::Socket(dir.join("console.sock"));
    }
}

/// How a start came out.
#[derive(Debug)]
pub(crate) enum Started {
    /// What was waited for has come.
    Yes,
    /// The VMM couldn't do it.
    Failed(Failure),
}

/// Waits until the VMM has said what satisfies `is_up`, or that it can't.
///
/// # Errors
/// The VMM ended without a word, or a signal asked this process to end; the VMM is to be dropped
/// then.
pub(crate) fn wait_until_up(
    vmm: &mut VmmProcess,
    signals: &mut Signals,
    mut is_up: impl FnMut(&Event) -> bool,
) -> Result<Started, CliError> {
    let failed = |source| CliError::System { what: "the VM can't be waited for", source };
    let mut lines = StatusLines::default();
    loop {
        let ended = wait(vmm, signals, &lines).map_err(failed)?;
        if signals.pending().any(|signal| signal != signal_hook::consts::SIGCONT) {
            return Err(CliError::Interrupted);
        }
        for event in lines.read(&mut vmm.status).map_err(failed)? {
            match event {
                Event::Failed { error } => return Ok(Started::Failed(error)),
                Event::Stopped { reason, .. } => return Err(CliError::Stopped(reason)),
                event if is_up(&event) => return Ok(Started::Yes),
                _ => {}
            }
        }
        if ended {
            return Err(CliError::VmmDied(vmm.wait().map_err(failed)?));
        }
    }
}

/// Waits for anything to look at; returns whether the VMM has ended.
fn wait(vmm: &VmmProcess, signals: &Signals, lines: &StatusLines) -> io::Result<bool> {
    let mut sources = vec![
        PollFd::from_borrowed_fd(vmm.ended(), PollFlags::IN),
        PollFd::new(signals.get_read(), PollFlags::IN),
    ];
    if !lines.ended() {
        sources.push(PollFd::new(&vmm.status, PollFlags::IN));
    }
    match poll(&mut sources, None) {
        Ok(_) | Err(Errno::INTR) => Ok(!sources[0].revents().is_empty()),
        Err(errno) => Err(errno.into()),
    }
}
