//! What goes wrong: on the connection, and in the guest.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::VersionRange;
use crate::limits;

/// What went wrong between host and agent.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Reading or writing failed.
    #[error("the connection to the agent failed")]
    Io(#[source] io::Error),
    /// The other side closed the connection.
    #[error("the agent's connection is closed")]
    Closed,
    /// No answer came in time.
    #[error("the agent didn't answer in time")]
    TimedOut,
    /// A frame says that it's empty.
    #[error("an empty frame")]
    Empty,
    /// A message is longer than a frame may be.
    #[error("a frame of {bytes} bytes, of at most {}", crate::frame::MAX_FRAME_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The connection ended within a frame.
    #[error("the connection ended within a frame")]
    Truncated,
    /// A frame isn't what was expected.
    #[error("a frame isn't the expected JSON")]
    Json(#[source] serde_json::Error),
    /// The two sides have no version in common.
    #[error("no common version of the protocol: {ours} here, {theirs} there")]
    Version {
        /// What this side speaks.
        ours: VersionRange,
        /// What the other side speaks.
        theirs: VersionRange,
    },
    /// The other side broke the protocol.
    #[error("the agent broke the protocol: {0}")]
    Violation(String),
    /// The agent answered with an error.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

impl ProtocolError {
    /// Returns the kind of the agent's error, if that's what it is.
    #[must_use]
    pub fn agent_kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Agent(error) => Some(error.kind),
            _ => None,
        }
    }

    /// Makes an error of a failed read or write, and a time-out of a socket's.
    #[must_use]
    pub fn of_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// An error that the agent answers with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentError {
    /// What kind of thing went wrong.
    pub kind: ErrorKind,
    /// What exactly, for people. On the host it's free of control characters.
    pub message: String,
}

impl AgentError {
    /// Makes an error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn clean(mut self) -> Self {
        self.message = limits::clean(&self.message, limits::MAX_MESSAGE_BYTES);
        self
    }
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AgentError {}

/// Kinds of errors in the guest, from which the host chooses exit codes and hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ErrorKind {
    /// The command isn't in the root file system (exit code 127).
    NotFound,
    /// The command can't be executed: a directory, no execute permission, a wrong format (126).
    NotExecutable,
    /// The user or the group isn't in the image.
    NoSuchUser,
    /// There's no such process, or it has ended.
    NoSuchProcess,
    /// A path for a copy doesn't exist.
    NoSuchPath,
    /// A file system couldn't be mounted.
    Mount,
    /// A network interface couldn't be configured.
    Network,
    /// It's not the time for that: not configured yet, started already, too many at once.
    Busy,
    /// The request makes no sense.
    Invalid,
    /// The agent doesn't know the request.
    Unsupported,
    /// Anything else.
    Internal,
}

const KINDS: [(ErrorKind, &str); 11] = [
    (ErrorKind::NotFound, "not_found"),
    (ErrorKind::NotExecutable, "not_executable"),
    (ErrorKind::NoSuchUser, "no_such_user"),
    (ErrorKind::NoSuchProcess, "no_such_process"),
    (ErrorKind::NoSuchPath, "no_such_path"),
    (ErrorKind::Mount, "mount"),
    (ErrorKind::Network, "network"),
    (ErrorKind::Busy, "busy"),
    (ErrorKind::Invalid, "invalid"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::Internal, "internal"),
];

impl From<String> for ErrorKind {
    /// A kind of a later agent's that isn't known here is [`ErrorKind::Internal`].
    fn from(name: String) -> Self {
        KINDS.iter().find(|(_, known)| *known == name).map_or(Self::Internal, |(kind, _)| *kind)
    }
}

impl From<ErrorKind> for String {
    fn from(kind: ErrorKind) -> Self {
        let name =
            KINDS.iter().find(|(known, _)| *known == kind).map_or("internal", |(_, name)| name);
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_and_an_unknown_one_is_internal() {
        for (kind, name) in KINDS {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<ErrorKind>(&format!("\"{name}\"")).unwrap(), kind);
        }
        assert_eq!(serde_json::from_str::<ErrorKind>("\"later\"").unwrap(), ErrorKind::Internal);
    }
}
