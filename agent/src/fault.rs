//! Failures, as they're answered to the host.

use std::fmt::Display;

pub(crate) use agent_proto::{AgentError, ErrorKind};

/// What the agent's work ends with.
pub(crate) type Result<T> = std::result::Result<T, AgentError>;

/// Makes an error.
pub(crate) fn fault<T>(kind: ErrorKind, message: impl Into<String>) -> Result<T> {
    Err(AgentError::new(kind, message))
}

/// Says what was tried when it fails.
pub(crate) trait Context<T> {
    /// Adds the kind and what was tried to an error.
    fn context(self, kind: ErrorKind, what: impl FnOnce() -> String) -> Result<T>;

    /// As `context`, for what only fails when the guest itself is broken.
    fn internal(self, what: &str) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: ErrorKind, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| AgentError::new(kind, format!("{}: {error}", what())))
    }

    fn internal(self, what: &str) -> Result<T> {
        self.context(ErrorKind::Internal, || what.to_owned())
    }
}
