//! Why a client has no answer, or one that it didn't want.

use std::io;
use std::path::PathBuf;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There's no socket at the path: no VMM serves it, or not yet.
    #[error("there is no API socket {}", path.display())]
    NoSocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// There's a socket, and nobody listens on it: its VMM is gone.
    #[error("nobody listens on the API socket {}", path.display())]
    Refused {
        /// The socket's path.
        path: PathBuf,
    },
    /// The socket can't be connected to for another reason.
    #[error("can't connect to the API socket {}", path.display())]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// The VMM refuses the request, or failed to carry it out.
    #[error("{message}")]
    Fault {
        /// The HTTP status: 4xx where the request is at fault.
        status: u16,
        /// What the VMM says about it.
        message: String,
    },
    /// There was no answer in time. The VMM may carry out the request all the same.
    #[error("no answer within {seconds} seconds on the API socket {}", path.display())]
    TimedOut {
        /// The socket's path.
        path: PathBuf,
        /// How long the client waited.
        seconds: u64,
    },
    /// The VMM closed the connection before it answered: it has ended or crashed.
    #[error("the VMM hung up before it answered on the API socket {}", path.display())]
    HungUp {
        /// The socket's path.
        path: PathBuf,
    },
    /// What listens there doesn't speak HTTP as expected.
    #[error("the answer is not the HTTP that was expected")]
    Protocol(#[source] hyper::Error),
    /// The path or the ID in it can't be part of a request.
    #[error("{path:?} can't be requested")]
    BadPath {
        /// The request's path.
        path: String,
    },
    /// An answer, or a request, isn't JSON of the expected form.
    #[error("the JSON is not of the expected form")]
    Unexpected(#[source] serde_json::Error),
    /// The answer is larger than any that a VMM gives.
    #[error("the answer is too large")]
    TooLarge,
}
