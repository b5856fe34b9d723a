//! A client's session with a process: its output, its input, the size of its terminal, its end.

mod container;
mod exec;
mod input;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use agent_proto::{Client, ProcessId, TerminalSize};

pub(crate) use self::exec::ExecLink;
use crate::RuntimeError;
use crate::agent::agent_error;
use crate::error::system;
use crate::options::SessionEnd;
use crate::wire::{self, AskError, Request};

/// A session with a container's process, or with one that `exec` started. Dropping it leaves the
/// process alone.
#[derive(Debug)]
pub struct Session {
    link: Link,
}

/// What a session goes through.
#[derive(Debug)]
enum Link {
    /// The container's supervisor, which has answered.
    Container { stream: UnixStream, socket: PathBuf },
    /// The agent.
    Exec(ExecLink),
}

/// Changes a session from another thread, while [`Session::relay`] has it.
#[derive(Clone, Debug)]
pub struct SessionControl {
    target: Target,
}

#[derive(Clone, Debug)]
enum Target {
    /// The supervisor's socket.
    Container(PathBuf),
    Exec(Client, ProcessId),
}

/// What a session is relayed to.
pub struct SessionIo {
    /// What's read for the process's standard input, until its end; nothing for no input. It's
    /// polled, so a terminal, a pipe, a file and a socket all do.
    pub stdin: Option<OwnedFd>,
    /// Gets the standard output, and all that a terminal shows. Flushed after each piece.
    pub stdout: Box<dyn Write + Send>,
    /// Gets the standard error.
    pub stderr: Box<dyn Write + Send>,
    /// The keys that leave the session without ending the process, as bytes on `stdin`; none for
    /// no such keys. Docker's are Ctrl-P Ctrl-Q (`[0x10, 0x11]`), for terminals.
    pub detach_keys: Vec<u8>,
}

impl Session {
    /// A session through a supervisor that has answered on `stream`, and listens on `socket`.
    pub(crate) const fn with_supervisor(stream: UnixStream, socket: PathBuf) -> Self {
        Self { link: Link::Container { stream, socket } }
    }

    /// A session with a process that `exec` started.
    pub(crate) const fn with_exec(link: ExecLink) -> Self {
        Self { link: Link::Exec(link) }
    }

    /// Relays until the process has ended and all its output is written, or the client leaves.
    ///
    /// An output that nobody reads any more (`EPIPE`) ends the session as an error; a client that
    /// stops reading for a while holds up the process, without memory growing.
    ///
    /// # Errors
    /// An output can't be written, or the container's supervisor or agent has gone away.
    pub fn relay(self, io: SessionIo) -> Result<SessionEnd, RuntimeError> {
        match self.link {
            Link::Container { stream, .. } => container::relay(&stream, io),
            Link::Exec(link) => exec::relay(link, io),
        }
    }

    /// What changes the session while it's relayed.
    #[must_use]
    pub fn control(&self) -> SessionControl {
        let target = match &self.link {
            Link::Container { socket, .. } => Target::Container(socket.clone()),
            Link::Exec(link) => Target::Exec(link.client.clone(), link.process),
        };
        SessionControl { target }
    }
}

impl SessionControl {
    /// Tells the process's terminal its size.
    ///
    /// # Errors
    /// The supervisor or the agent can't be reached.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), RuntimeError> {
        match &self.target {
            Target::Container(socket) => ask(wire::ask(socket, &Request::Resize { rows, cols })),
            Target::Exec(client, process) => {
                let size = TerminalSize { rows, columns: cols };
                client.resize(*process, size).map_err(agent_error)
            }
        }
    }

    /// Sends the process a signal by its number (`--sig-proxy`).
    ///
    /// # Errors
    /// The supervisor or the agent can't be reached.
    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        match &self.target {
            Target::Container(socket) => ask(wire::ask(socket, &Request::Signal(signal))),
            Target::Exec(client, process) => {
                client.signal(*process, signal, false).map_err(agent_error)
            }
        }
    }
}

fn ask(answer: Result<i32, AskError>) -> Result<(), RuntimeError> {
    match answer {
        Ok(_) => Ok(()),
        Err(AskError::Gone(error)) => Err(supervisor_gone(error)),
        Err(AskError::Refused(error)) => Err(error),
    }
}

/// Says that a supervisor can't be talked to.
pub(crate) fn supervisor_gone(source: std::io::Error) -> RuntimeError {
    RuntimeError::Protocol { who: "the container's supervisor", source }
}

/// Writes a piece of output.
fn write_output(out: &mut dyn Write, bytes: &[u8]) -> Result<(), RuntimeError> {
    out.write_all(bytes).and_then(|()| out.flush()).map_err(system("write the output"))
}

impl std::fmt::Debug for SessionIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionIo").field("stdin", &self.stdin).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
