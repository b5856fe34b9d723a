//! What can go wrong with a network.

use std::io;
use std::path::PathBuf;

use crate::record::Protocol;

/// Why a network, an address or a port can't be had.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There's no network of this name or identifier.
    #[error("network {0} not found")]
    Absent(String),
    /// There's one of this name already.
    #[error("network with name {0} already exists")]
    Exists(String),
    /// It can't be removed: containers are on it, or it's the default one.
    #[error("network {network} can't be removed: {reason}")]
    InUse {
        /// The network's name.
        network: String,
        /// What stands against it.
        reason: String,
    },
    /// A name, address or identifier that can't be one.
    #[error("{0}")]
    Invalid(String),
    /// All addresses of a network, or all subnets, are taken; or the one that's asked for is.
    #[error("{0}")]
    NoAddress(String),
    /// Another program or container has the port.
    #[error("port {port}/{protocol} of {address} is already in use")]
    PortInUse {
        /// The host's address.
        address: std::net::IpAddr,
        /// The host's port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
    /// The port can't be listened at, for another reason than its being in use.
    #[error("can't listen at port {port}/{protocol} of {address}")]
    Port {
        /// The host's address.
        address: std::net::IpAddr,
        /// The host's port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host's program isn't installed; [`package`](Self::MissingProgram::package) has it.
    #[error("{program} isn't installed")]
    MissingProgram {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// The process may not do this; bridges need root (CAP_NET_ADMIN).
    #[error("{0} needs root (CAP_NET_ADMIN)")]
    NotPermitted(&'static str),
    /// A file of ours can't be read or written, or holds something else.
    #[error("{}: can't be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read`, `written`, …
        action: &'static str,
        /// What's wrong.
        source: io::Error,
    },
    /// The host's kernel or a program of its refused.
    #[error("can't {action}")]
    Host {
        /// What was to be done.
        action: String,
        /// Why not.
        source: io::Error,
    },
}

impl NetworkError {
    pub(crate) fn file(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        Self::File { path: path.into(), action, source }
    }

    pub(crate) fn host(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Host { action: action.into(), source: source.into() }
    }
}
