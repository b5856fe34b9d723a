//! What a request that can't be answered gets: a status, and words that say what to do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::ConfigError;

/// The status of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// 400: the request is malformed, or the VM's state or configuration doesn't allow it.
    BadRequest,
    /// 404: there's no such path; only below `/ext/`.
    NotFound,
    /// 405: the path knows other methods only; only below `/ext/`.
    MethodNotAllowed,
    /// 408: the request didn't arrive in time.
    RequestTimeout,
    /// 413: the body, or the metadata store with it, is over its limit.
    PayloadTooLarge,
    /// 431: the request's head is over its limit.
    HeadTooLarge,
    /// 500: the VMM is at fault.
    Internal,
    /// 503: the VMM is ending, or too many requests wait.
    Unavailable,
}

impl Status {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::PayloadTooLarge => 413,
            Self::HeadTooLarge => 431,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

/// A request that can't be answered, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The status to answer with.
    pub status: Status,
    /// What's wrong and what to do about it.
    pub message: String,
}

impl ApiError {
    /// Makes an error of any status.
    #[must_use]
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The request is malformed, or doesn't fit the VM's state or configuration: 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Status::BadRequest, message)
    }

    /// The metadata store would grow over its limit: 413.
    #[must_use]
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(Status::PayloadTooLarge, message)
    }

    /// The VMM is at fault: 500.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Status::Internal, message)
    }

    /// The VMM is ending or overloaded: 503.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Status::Unavailable, message)
    }

    /// An error with the messages of its causes, as a 400.
    #[must_use]
    pub fn from_chain(error: &(dyn std::error::Error + 'static)) -> Self {
        let chain = std::iter::successors(Some(error), |error| error.source());
        let messages: Vec<String> = chain.map(ToString::to_string).collect();
        Self::bad_request(messages.join(": "))
    }

    /// The answer's body.
    #[must_use]
    pub fn body(&self) -> Fault {
        Fault { fault_message: self.message.clone() }
    }
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        Self::from_chain(&error)
    }
}

/// The body of every answer that isn't a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// What's wrong and what to do about it.
    pub fault_message: String,
}
