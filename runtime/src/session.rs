//! A client's session with a process: its output, its input, the size of its terminal, its end.

use std::io::Write;
use std::os::fd::OwnedFd;

use crate::RuntimeError;
use crate::options::SessionEnd;

/// A session with a container's process, or with one that `exec` started. Dropping it leaves the
/// process alone.
#[derive(Debug)]
pub struct Session {
    control: SessionControl,
}

/// Changes a session from another thread, while [`Session::relay`] has it.
#[derive(Clone, Debug)]
pub struct SessionControl {}

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
    /// Relays until the process has ended and all its output is written, or the client leaves.
    ///
    /// An output that nobody reads any more (`EPIPE`) ends the session as an error; a client that
    /// stops reading for a while holds up the process, without memory growing.
    ///
    /// # Errors
    /// An output can't be written, or the container's supervisor or agent has gone away.
    pub fn relay(self, io: SessionIo) -> Result<SessionEnd, RuntimeError> {
        drop(io);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// What changes the session while it's relayed.
    #[must_use]
    pub fn control(&self) -> SessionControl {
        self.control.clone()
    }
}

impl SessionControl {
    /// Tells the process's terminal its size.
    ///
    /// # Errors
    /// The supervisor or the agent can't be reached.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), RuntimeError> {
        let _ = (rows, cols);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Sends the process a signal by its number (`--sig-proxy`).
    ///
    /// # Errors
    /// The supervisor or the agent can't be reached.
    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        let _ = signal;
        Err(RuntimeError::invalid("not built yet"))
    }
}

impl std::fmt::Debug for SessionIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionIo").field("stdin", &self.stdin).finish_non_exhaustive()
    }
}
