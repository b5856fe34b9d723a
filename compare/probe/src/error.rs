//! Why nothing could be found out.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A number is out of its range.
    #[error("{name} is {value}: it must be from {least} to {most}")]
    Range {
        /// What the number is.
        name: &'static str,
        /// The number.
        value: u64,
        /// The least that's possible.
        least: u64,
        /// The most.
        most: u64,
    },
    /// An argument makes no sense.
    #[error("{0}")]
    Argument(String),
    /// The system refused.
    #[error("cannot {what}")]
    System {
        /// What couldn't be done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file can't be used.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What couldn't be done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The other side can't be reached or went away.
    #[error("cannot {what} {address}")]
    Network {
        /// What couldn't be done.
        what: &'static str,
        /// The other side.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The other side doesn't speak as it should.
    #[error("{address} answers what it should not: {reason}")]
    Protocol {
        /// The other side.
        address: SocketAddr,
        /// What's wrong.
        reason: String,
    },
    /// Nothing answered in time.
    #[error("{address} doesn't answer within {elapsed_ms} ms; at last: {last}")]
    NoAnswer {
        /// The other side.
        address: SocketAddr,
        /// How long it was tried.
        elapsed_ms: u64,
        /// What happened to the last attempt.
        last: String,
    },
    /// There's less memory than is needed.
    #[error("{needed} bytes of memory are needed, {available} are available")]
    Memory {
        /// What's needed.
        needed: u64,
        /// What's there.
        available: u64,
    },
    /// The image's `fio` failed.
    #[error("the image's fio failed: {0}")]
    Fio(String),
}

impl ProbeError {
    /// Makes the error of a system call, for `map_err`.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }

    /// Makes the error of a connection, for `map_err`.
    pub(crate) fn network(what: &'static str, address: SocketAddr) -> impl Fn(io::Error) -> Self {
        move |source| Self::Network { what, address, source }
    }
}

/// Checks that a number is in its range.
pub(crate) fn in_range(
    name: &'static str,
    value: u64,
    least: u64,
    most: u64,
) -> Result<u64, ProbeError> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(ProbeError::Range { name, value, least, most })
    }
}
