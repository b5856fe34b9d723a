//! What goes wrong with containers, images, volumes and networks, and what can be done about it.

mod images;

use std::io;
use std::path::PathBuf;

use image::{BuildError, ImageError};
use network::NetworkError;
use runtime::{ErrorKind, Object, RuntimeError};
use thiserror::Error;

use crate::commands::container::values::env::FileError;
use crate::format::FormatError;
use crate::format::filters::FilterError;

/// Why a command about containers ended without success.
#[derive(Debug, Error)]
pub(crate) enum ContainerError {
    /// The runtime couldn't do it.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Something about images.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image can't be built.
    #[error(transparent)]
    Build(#[from] Box<BuildError>),
    /// Something about networks.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Nothing has the name.
    #[error("no such {what}: {reference}")]
    NoObject {
        /// What was looked for.
        what: &'static str,
        /// How it was named.
        reference: String,
    },
    /// `--format` is malformed, or asks for a field that isn't there.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A filter is malformed.
    #[error("--filter")]
    Filter(#[from] FilterError),
    /// A file of variables or labels can't be used.
    #[error(transparent)]
    Values(#[from] FileError),
    /// Flags contradict one another.
    #[error("{0}")]
    Options(String),
    /// What's to be mounted isn't on the host.
    #[error("bind source path does not exist: {}", path.display())]
    NoBindSource {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// `-t` without a terminal.
    #[error("the input device is not a TTY")]
    NoTerminal,
    /// An archive would be written to a terminal.
    #[error("cowardly refusing to save to a terminal")]
    TerminalOutput,
    /// A container's VM is gone, and its process with it.
    #[error("{reason}")]
    Lost {
        /// What is known of it.
        reason: String,
    },
    /// Credentials are to be asked for, and there's no terminal.
    #[error("cannot perform an interactive login without a terminal")]
    NoLogin,
    /// A copy can't go where it's to go.
    #[error("{0}")]
    Copy(String),
    /// A port isn't published.
    #[error("no public port '{port}' published for {name}")]
    NotPublished {
        /// The container's port.
        port: String,
        /// The container.
        name: String,
    },
    /// A file that the command line names can't be read or written.
    #[error("can't {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ContainerError {
    /// Says how flags contradict one another.
    pub(crate) fn options(problem: impl Into<String>) -> Self {
        Self::Options(problem.into())
    }

    /// The exit code of `run` for this.
    pub(super) fn run_code(&self) -> u8 {
        match self {
            Self::Runtime(error) => error.exit_code(),
            _ => ErrorKind::System.exit_code(),
        }
    }

    /// Whether the command line is wrong, rather than the host's state.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::Format(_) | Self::Filter(_) | Self::Options(_) | Self::Values(_))
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Runtime(error) => return runtime_hint(error),
            Self::Image(error) => return images::image_hint(error),
            Self::Build(error) => return images::build_hint(error),
            Self::Network(error) => return images::network_hint(error),
            Self::TerminalOutput => "use the -o flag, or redirect".to_owned(),
            Self::NoLogin => "give -u NAME and --password-stdin".to_owned(),
            Self::NoObject { what: "container", .. } => "vmctl ps -a lists containers".to_owned(),
            Self::NoObject { what: "image", .. } => "vmctl images lists images".to_owned(),
            Self::NoObject { what: "volume", .. } => "vmctl volume ls lists volumes".to_owned(),
            Self::NoObject { what: "network", .. } => "vmctl network ls lists networks".to_owned(),
            Self::NoObject { .. } => {
                "vmctl ps -a, images, volume ls and network ls list what there is".to_owned()
            }
            Self::NoBindSource { path } => {
                format!("mkdir -p {} makes it; a name without a slash is a volume", path.display())
            }
            Self::NoTerminal => {
                "leave out -t: input and output go through unchanged without it".to_owned()
            }
            Self::NotPublished { name, .. } => format!("vmctl port {name} lists those that are"),
            Self::Format(_) => "--format json shows the fields that there are".to_owned(),
            _ => return None,
        })
    }
}

/// What to do about a failure of the runtime, or of what it uses.
fn runtime_hint(error: &RuntimeError) -> Option<String> {
    let hint = match error {
        RuntimeError::Image(source) => source.downcast_ref().and_then(images::image_hint),
        RuntimeError::Network(source) => source.downcast_ref().and_then(images::network_hint),
        RuntimeError::NotFound { what: Object::Image, .. } => {
            Some("vmctl images lists images; vmctl pull fetches one".to_owned())
        }
        RuntimeError::NotFound { what: Object::Volume, .. } => {
            Some("vmctl volume ls lists volumes".to_owned())
        }
        RuntimeError::NotFound { what: Object::Network, .. } => {
            Some("vmctl network ls lists networks; vmctl network create makes one".to_owned())
        }
        _ => None,
    };
    hint.or_else(|| kind_hint(error.kind()).map(str::to_owned))
}

/// What to do about a sort of failure of the runtime.
fn kind_hint(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::NoContainer => "vmctl ps -a lists containers",
        ErrorKind::Ambiguous => "give more of the identifier, or the name: vmctl ps -a shows both",
        ErrorKind::NameInUse => {
            "choose another --name, or remove the container that has it: vmctl rm NAME"
        }
        ErrorKind::PortInUse => {
            "choose another port with -p HOST-PORT:PORT, or stop what listens there (ss -ltnp)"
        }
        ErrorKind::NoCommand => "give a command after the image's name, or --entrypoint",
        ErrorKind::CommandNotFound => {
            "the image has no such program on its PATH: vmctl run --entrypoint sh IMAGE -c 'ls /bin' \
             may show what it has"
        }
        ErrorKind::CommandNotExecutable => {
            "it needs the execute permission, and an interpreter that the image has"
        }
        ErrorKind::SourceMissing => "mkdir -p makes it; a name without a slash is a volume",
        ErrorKind::AssetMissing => {
            "the kernel and the agent are installed beside vmctl; --kernel, VMCTL_KERNEL, VMCTL_AGENT \
             and VMCTL_VMM name others"
        }
        ErrorKind::MemoryTooSmall => "give the container more with --memory",
        ErrorKind::Vm(kind) => return super::kind_hint(kind),
        ErrorKind::Guest => "vmctl logs shows what the container said; --no-template boots it anew",
        _ => return None,
    })
}
