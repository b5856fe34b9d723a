//! Who started a supervisor, and waits for what becomes of the container.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use crate::error::Failure;
use crate::wire::{self, Attach, Request};

/// How long the starter may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);

/// The starter's connection.
#[derive(Debug)]
pub(super) struct Starter {
    stream: Option<UnixStream>,
    /// What of the process's streams it wants.
    pub(super) attach: Option<Attach>,
}

impl Starter {
    /// Takes the connection, which is this process's standard input. Without one (a person called
    /// the command) nobody is told.
    pub(super) fn take() -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        if !matches!(socket_type(stdin), Ok(SocketType::STREAM)) {
            return Ok(Self { stream: None, attach: None });
        }
        let mut stream = UnixStream::from(stdin.try_clone_to_owned()?);
        // Nobody else is to have it: its end tells the starter of this process's.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?.as_fd())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = wire::receive_request(&mut stream)?;
        stream.set_read_timeout(None)?;
        let Request::Start(attach) = request else {
            return Err(io::Error::other(format!("an unexpected request: {request:?}")));
        };
        Ok(Self { stream: Some(stream), attach })
    }

    /// Says that the container runs. Returns the connection of a starter that's attached.
    pub(super) fn started(self) -> Option<(UnixStream, Attach)> {
        let attach = self.attach;
        Some((self.answer(&Ok(0))?, attach?))
    }

    /// Says why it doesn't.
    pub(super) fn failed(self, failure: Failure) {
        drop(self.answer(&Err(failure)));
    }

    fn answer(self, answer: &wire::Answer) -> Option<UnixStream> {
        let mut stream = self.stream?;
        match wire::send_answer(&mut stream, answer) {
            Ok(()) => Some(stream),
            Err(error) => {
                log::debug!("who started this is gone: {error}");
                None
            }
        }
    }
}
