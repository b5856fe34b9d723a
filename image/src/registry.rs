//! What's spoken with registries: OCI distribution-spec 1.1, and Docker's token authentication.
//!
//! All calls wait for what they do. What a registry says is hostile: documents are bounded, digests
//! are computed, silence ends in an error.

pub(crate) mod challenge;
pub(crate) mod credentials;
mod endpoint;
mod problem;
mod session;

pub(crate) use endpoint::Endpoint;
pub(crate) use problem::{Failure, Problem};
pub(crate) use session::{Method, Payload, Session, error, with_query};

use std::time::Duration;

/// How long registries are waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// For a connection.
    pub(crate) connect: Duration,
    /// For the next bytes.
    pub(crate) read: Duration,
    /// For a whole document.
    pub(crate) document: Duration,
    /// Before the first retry; twice that before the next one.
    pub(crate) backoff: Duration,
    /// How often something is tried without getting any further.
    pub(crate) attempts: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            read: Duration::from_secs(30),
            document: Duration::from_secs(60),
            backoff: Duration::from_secs(1),
            attempts: 4,
        }
    }
}

impl Timing {
    /// How long to wait before a retry, the first being 1.
    pub(crate) fn pause(&self, retry: u32) -> Duration {
        self.backoff * (1 << retry.saturating_sub(1).min(5))
    }
}
