//! This process's terminal, signals and standard streams, while they're a container's.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use runtime::{RuntimeError, Session, SessionControl, SessionEnd, SessionIo};
use rustix::termios::tcgetwinsize;
use signal_hook::consts::{
    FORBIDDEN, SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGURG, SIGWINCH,
};
use signal_hook::iterator::Signals;

use crate::errors::containers::ContainerError;
use crate::errors::{self, CliError, notice};
use crate::terminal::{self, RawMode};

/// The exit code of a process that a signal has ended is the signal's number and this.
const SIGNALLED: i32 = 128;

/// How this process is connected to a container's.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// The container's process has a terminal.
    pub(super) tty: bool,
    /// Standard input goes to it.
    pub(super) stdin: bool,
    /// Its output comes here.
    pub(super) stdout: bool,
    /// Its errors come here.
    pub(super) stderr: bool,
    /// Signals to this process go to it.
    pub(super) sig_proxy: bool,
    /// The keys that leave it to itself.
    pub(super) detach_keys: Vec<u8>,
}

impl Connection {
    /// Checks that a terminal that the process is to have is there.
    ///
    /// # Errors
    /// It isn't.
    pub(super) fn check(&self) -> Result<(), ContainerError> {
        if self.tty && self.stdin && !io::stdin().is_terminal() {
            return Err(ContainerError::NoTerminal);
        }
        Ok(())
    }

    /// The terminal's size, in rows and columns, if the process has one.
    pub(super) fn size(&self) -> Option<(u16, u16)> {
        self.tty.then(terminal_size).flatten()
    }

    /// Relays until the process has ended or the client has left; returns the exit code.
    ///
    /// # Errors
    /// The session broke off, or an output can't be written.
    pub(super) fn relay(self, session: Session) -> Result<u8, CliError> {
        let failed = |source| CliError::System { what: "signals can't be handled", source };
        let raw = if self.tty && self.stdin { RawMode::enter_whole() } else { Ok(None) }.map_err(
            |source| CliError::System { what: "the terminal can't be made raw", source },
        )?;
        if raw.is_some() {
            leave_terminal_in_order(session.control()).map_err(failed)?;
        } else if self.sig_proxy && !self.tty {
            pass_signals_on(session.control()).map_err(failed)?;
        }
        let end = session.relay(self.streams()?);
        drop(raw);
        match end {
            Ok(SessionEnd::Exited(code)) => Ok(to_exit_code(code)),
            Ok(SessionEnd::Lost { code, reason }) => {
                errors::report(&ContainerError::Lost { reason }.into());
                Ok(to_exit_code(code))
            }
            Ok(SessionEnd::Detached) => {
                notice("read escape sequence");
                Ok(api::exit::STOPPED)
            }
            Err(error) if is_broken_pipe(&error) => Ok(to_exit_code(SIGNALLED + SIGPIPE)),
            Err(error) => Err(ContainerError::from(error).into()),
        }
    }

    fn streams(&self) -> Result<SessionIo, CliError> {
        let stdin = self
            .stdin
            .then(own_stdin)
            .transpose()
            .map_err(|source| CliError::System { what: "standard input can't be used", source })?;
        Ok(SessionIo {
            stdin,
            stdout: if self.stdout { Box::new(io::stdout()) } else { Box::new(io::sink()) },
            stderr: if self.stderr { Box::new(io::stderr()) } else { Box::new(io::sink()) },
            detach_keys: if self.tty { self.detach_keys.clone() } else { Vec::new() },
        })
    }
}

/// A descriptor of this process's standard input that can be closed by itself.
fn own_stdin() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}

/// An exit code as a process can have it.
pub(super) fn to_exit_code(code: i32) -> u8 {
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}

fn is_broken_pipe(error: &RuntimeError) -> bool {
    let source = std::error::Error::source(error).and_then(|it| it.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Rows and columns of the terminal that's standard input or output.
pub(super) fn terminal_size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(rustix::stdio::stdin())
        .or_else(|_| tcgetwinsize(rustix::stdio::stdout()))
        .ok()?;
    Some((size.ws_row, size.ws_col)).filter(|(rows, columns)| *rows > 0 && *columns > 0)
}

/// Follows the terminal's size, and restores its modes before a signal ends this process. The
/// container's process runs on then, as it does when its client is gone.
fn leave_terminal_in_order(control: SessionControl) -> io::Result<()> {
    let mut signals = Signals::new([SIGWINCH, SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;
    thread::spawn(move || {
        for signal in &mut signals {
            if signal == SIGWINCH {
                if let Some((rows, columns)) = terminal_size()
                    && let Err(error) = control.resize(rows, columns)
                {
                    log::debug!("the container's terminal can't be resized: {error}");
                }
                continue;
            }
            terminal::restore();
            std::process::exit(SIGNALLED + signal);
        }
    });
    Ok(())
}

/// Sends each signal that this process gets, and that a program can handle, to the container's.
fn pass_signals_on(control: SessionControl) -> io::Result<()> {
    let own = [SIGCHLD, SIGWINCH, SIGPIPE, SIGURG];
    let proxied = (1..32).filter(|signal| !own.contains(signal) && !FORBIDDEN.contains(signal));
    let mut signals = Signals::new(proxied)?;
    thread::spawn(move || {
        for signal in &mut signals {
            if let Err(error) = control.signal(signal) {
                log::debug!("signal {signal} can't be passed on: {error}");
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_have_a_byte() {
        for (code, byte) in [(0, 0), (7, 7), (137, 137), (255, 255), (256, 0), (-1, 255)] {
            assert_eq!(to_exit_code(code), byte);
        }
    }
}
