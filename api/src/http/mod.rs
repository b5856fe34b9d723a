//! The API over HTTP/1.1 on a Unix socket: [`Server`] in the VMM, [`Client`] for everybody else.
//!
//! The server has one thread, "api", with an async runtime of its own. It parses requests, hands
//! them to a [`VmmService`] and waits for their [`Reply`], for all clients at once: a client that
//! stalls, in the middle of a request or of its answer, holds up nobody and is cut off in time.
//!
//! ```text
//!             api thread                             the VMM's main thread
//!  client ──▶ GuardedStream ─ hyper ─ routes ──submit(action, reply)──▶ VmmService
//!  client ◀── AnswerBody ◀─────────────────────────reply.send(outcome)──┘
//!  client ◀── /ext/v1/events ◀── Subscription ◀── EventHub::publish ◀── any thread
//! ```

mod body;
mod client;
mod connection;
mod events;
mod server;
mod service;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use client::{Client, ClientError, Events, Response};
pub use events::{DEFAULT_HISTORY, EventHub, StreamItem};
pub use server::{Server, ServerHandle};
pub use service::{Reply, VmmService};

/// What clients may cost the VMM, and how long they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections there may be at once; more wait to be accepted.
    pub max_connections: usize,
    /// How many of them may listen to events.
    pub max_event_streams: usize,
    /// The largest body of a request, in bytes (`--http-api-max-payload-size`).
    pub max_body_bytes: usize,
    /// The largest body of a request to `/mmds`, in bytes (`--mmds-size-limit`).
    pub max_mmds_body_bytes: usize,
    /// How long a request's header may take from its first byte.
    pub header_timeout: Duration,
    /// How long a request's body may take from the header's end.
    pub body_timeout: Duration,
    /// How long a client may take nothing of an answer that is there.
    pub write_timeout: Duration,
    /// How long a connection may be open between requests.
    pub idle_timeout: Duration,
    /// How long a client that was refused may go on sending before its connection is closed.
    pub linger_timeout: Duration,
    /// How long answers may take to be sent when the server shuts down.
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 256,
            max_event_streams: 64,
            max_body_bytes: 51_200,
            max_mmds_body_bytes: 51_200,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            linger_timeout: Duration::from_secs(1),
            shutdown_timeout: Duration::from_secs(1),
        }
    }
}

/// Why the API's socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Someone listens on the socket already.
    #[error("another process listens on the API socket {}", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// A file that is no socket is in its place.
    #[error("{} is in the API socket's place, and is no socket", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// Unix sockets can't have paths this long.
    #[error("the API socket's path is longer than {longest} bytes: {}", path.display())]
    PathTooLong {
        /// The socket's path.
        path: PathBuf,
        /// The most bytes that it may have.
        longest: usize,
    },
    /// The socket can't be made.
    #[error("can't listen on the API socket {}", path.display())]
    Bind {
        /// The socket's path.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// An inherited descriptor is no Unix socket that listens.
    #[error("the inherited descriptor is no listening Unix socket")]
    NotListening,
    /// An inherited socket can't be used.
    #[error("can't use the inherited API socket")]
    Inherit(#[source] io::Error),
}
