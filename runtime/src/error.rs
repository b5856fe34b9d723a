//! What can go wrong with containers.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Why something couldn't be done with a container, a volume or a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Nothing has the name or identifier.
    #[error("no such {what}: {reference}")]
    NotFound {
        /// What was looked for.
        what: Object,
        /// How it was named.
        reference: String,
    },

    /// Several containers' identifiers begin so.
    #[error("{reference} is the beginning of several containers' identifiers")]
    Ambiguous {
        /// The beginning.
        reference: String,
    },

    /// It's there already, is in use, or is in a state that doesn't allow it.
    #[error("{message}")]
    Conflict {
        /// What's in the way.
        message: String,
    },

    /// What was asked for makes no sense.
    #[error("{message}")]
    Invalid {
        /// What of it.
        message: String,
    },

    /// Neither the image nor the caller says what to run.
    #[error("no command specified")]
    NoCommand,

    /// A file that every container needs isn't there: the kernel, the agent, the VMM.
    #[error("{what} was not found: {looked}")]
    AssetMissing {
        /// Which.
        what: &'static str,
        /// Where it was looked for.
        looked: String,
    },

    /// A container's supervisor couldn't start it, or the agent refused a request.
    #[error("{}", .0.message)]
    Failed(Failure),

    /// The agent, the VMM or the supervisor said something that makes no sense, or nothing at all.
    #[error("{who} can't be talked to")]
    Protocol {
        /// Who.
        who: &'static str,
        /// What was wrong.
        #[source]
        source: io::Error,
    },

    /// The image can't be had or used.
    #[error("the image can't be used")]
    Image(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// A network can't be had or used.
    #[error("the network can't be used")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// A file can't be read, written or made.
    #[error("can't {what} {}", path.display())]
    File {
        /// What was tried: a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// Something that doesn't fail on a healthy host.
    #[error("can't {what}")]
    System {
        /// What was tried: a verb and its object.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What a reference can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A container.
    Container,
    /// A volume.
    Volume,
    /// A network.
    Network,
    /// An image.
    Image,
    /// A process that `exec` started.
    Exec,
    /// A path in a container.
    Path,
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Image => "image",
            Self::Exec => "exec instance",
            Self::Path => "file or directory",
        })
    }
}

/// A failure that came from another process: a supervisor's or an agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The sort of failure.
    pub kind: ErrorKind,
    /// The message, causes included.
    pub message: String,
}

/// The sort of a failure, for hints and exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// There's no such container.
    NoContainer,
    /// There's no such volume, network, file or exec instance.
    NoObject,
    /// An identifier's beginning fits several.
    Ambiguous,
    /// A name that's taken.
    NameInUse,
    /// Something is in a state that doesn't allow it, or in use.
    Conflict,
    /// A port that's taken on the host.
    PortInUse,
    /// A malformed or impossible request.
    Invalid,
    /// No command.
    NoCommand,
    /// The command isn't in the image.
    CommandNotFound,
    /// The command can't be executed.
    CommandNotExecutable,
    /// The directory of a bind isn't there.
    SourceMissing,
    /// A kernel, agent or VMM isn't there.
    AssetMissing,
    /// The VM has too little memory for the kernel, the agent or the limit.
    MemoryTooSmall,
    /// The VMM couldn't start or run the VM; the sort that it gave.
    Vm(api::event::ErrorKind),
    /// The guest didn't come up or went away.
    Guest,
    /// The agent or the supervisor broke its protocol.
    Protocol,
    /// The image can't be used.
    Image,
    /// The network can't be used.
    Network,
    /// The host's file system.
    File,
    /// Anything else of the host's.
    #[serde(other)]
    System,
}

impl ErrorKind {
    /// The exit code of `run` and `exec` for their own failures, as Docker has them.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::CommandNotFound => 127,
            Self::CommandNotExecutable => 126,
            _ => 125,
        }
    }
}

impl RuntimeError {
    /// Says that what was asked for makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }

    /// Says what's in the way.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict { message: message.into() }
    }

    pub(crate) fn failed(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::Failed(Failure { kind, message: message.into() })
    }

    /// The sort of failure, for hints.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { what: Object::Container, .. } => ErrorKind::NoContainer,
            Self::NotFound { .. } => ErrorKind::NoObject,
            Self::Ambiguous { .. } => ErrorKind::Ambiguous,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::NoCommand => ErrorKind::NoCommand,
            Self::AssetMissing { .. } => ErrorKind::AssetMissing,
            Self::Failed(failure) => failure.kind,
            Self::Protocol { .. } => ErrorKind::Protocol,
            Self::Image(_) => ErrorKind::Image,
            Self::Network(_) => ErrorKind::Network,
            Self::File { .. } => ErrorKind::File,
            Self::System { .. } => ErrorKind::System,
        }
    }

    /// The exit code of `run` and `exec` for this: 127 when the command isn't there, 126 when it
    /// can't be executed, else 125.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.kind().exit_code()
    }

    /// The error as another process is told of it: its message and its causes in one line.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let mut message = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Failure { kind: self.kind(), message }
    }
}

/// Says what couldn't be done with a file.
pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::File { what, path, source }
}

/// Says what the system didn't let be done.
pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::System { what, source }
}
