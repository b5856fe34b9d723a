//! A blocking client of the API.

mod connection;
mod error;
mod methods;
mod wire;

use std::path::Path;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StreamItem;
use connection::Connection;
pub use error::ClientError;
use wire::WireRequest;

/// How long an answer may take unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to one VMM, made anew when the VMM has closed it.
///
/// Every call blocks until the answer is there or [`Client::set_timeout`]'s time is over, and
/// mustn't be made from inside an async runtime.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    timeout: Duration,
}

/// What a VMM answered to a request that it carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The answer's body; nothing with status 204.
    pub body: Bytes,
}

impl Response {
    /// Reads the body's JSON.
    ///
    /// # Errors
    /// [`ClientError::Unexpected`] when it's of another form.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(ClientError::Unexpected)
    }
}

impl Client {
    /// Connects to the VMM that serves `path`.
    ///
    /// # Errors
    /// [`ClientError::NoSocket`], [`ClientError::Refused`] or [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connection = Connection::open(path, DEFAULT_TIMEOUT)?;
        Ok(Self { connection, timeout: DEFAULT_TIMEOUT })
    }

    /// Sets how long each later answer may take.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError::Fault`] when the VMM refuses it, others when there's no answer.
    pub fn request<T: Serialize + ?Sized>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&T>,
    ) -> Result<Response, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(ClientError::Unexpected)?.into(),
            None => Bytes::new(),
        };
        self.send(&WireRequest { method, path: path.to_owned(), body }, self.timeout)
    }

    /// Reads what is at `path`.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, None::<&()>)?.json()
    }

    /// Sets what is at `path`, or does what it stands for.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn put<T: Serialize + ?Sized>(&mut self, path: &str, body: &T) -> Result<(), ClientError> {
        self.request(Method::PUT, path, Some(body)).map(drop)
    }

    /// Changes what is at `path`.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn patch<T: Serialize + ?Sized>(
        &mut self,
        path: &str,
        body: &T,
    ) -> Result<(), ClientError> {
        self.request(Method::PATCH, path, Some(body)).map(drop)
    }

    /// Does what `path` stands for; the answer may have a body.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn post<T: Serialize + ?Sized>(
        &mut self,
        path: &str,
        body: &T,
    ) -> Result<Response, ClientError> {
        self.request(Method::POST, path, Some(body))
    }

    /// Removes what is at `path`.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn delete(&mut self, path: &str) -> Result<(), ClientError> {
        self.request(Method::DELETE, path, None::<&()>).map(drop)
    }

    /// Reads the VMM's events, from the oldest that it keeps: until the VMM ends if it is to
    /// `follow`, else until the latest. On a connection of its own.
    ///
    /// # Errors
    /// As [`Client::connect`] and [`Client::request`].
    pub fn events(&self, follow: bool) -> Result<Events, ClientError> {
        let mut connection = Connection::open(self.connection.path(), self.timeout)?;
        let path = format!("/ext/v1/events?follow={follow}");
        let request = WireRequest { method: Method::GET, path, body: Bytes::new() };
        let (status, body) = connection.begin(&request, self.timeout)?;
        if !status.is_success() {
            let body = connection.finish(body, self.timeout)?;
            return Err(fault(status, &body));
        }
        Ok(Events { connection, body: Some(body), pending: Vec::new() })
    }

    /// Returns the socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.connection.path()
    }

    fn send(&mut self, request: &WireRequest, timeout: Duration) -> Result<Response, ClientError> {
        let (status, body) = self.connection.begin(request, timeout)?;
        let body = self.connection.finish(body, timeout)?;
        if status.is_success() {
            Ok(Response { status: status.as_u16(), body })
        } else {
            Err(fault(status, &body))
        }
    }
}

/// The events of a VMM; reading one blocks until it happens.
#[derive(Debug)]
pub struct Events {
    connection: Connection,
    /// None after the end.
    body: Option<hyper::body::Incoming>,
    /// What was received after the last newline.
    pending: Vec<u8>,
}

impl Iterator for Events {
    type Item = Result<StreamItem, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(Ok(StreamItem::parse(&line[..end])));
            }
            match self.connection.next_chunk(self.body.as_mut()?) {
                Ok(Some(_)) if self.pending.len() > connection::MAX_ANSWER_BYTES => {
                    self.body = None;
                    return Some(Err(ClientError::TooLarge));
                }
                Ok(Some(chunk)) => self.pending.extend_from_slice(&chunk),
                Ok(None) => self.body = None,
                Err(error) => {
                    self.body = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Reads the answer to a refused request.
fn fault(status: StatusCode, body: &[u8]) -> ClientError {
    #[derive(serde::Deserialize)]
    struct Fault {
        fault_message: String,
    }
    let message = match serde_json::from_slice(body) {
        Ok(Fault { fault_message }) => fault_message,
        Err(_) if body.is_empty() => status.canonical_reason().unwrap_or_default().to_owned(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    ClientError::Fault { status: status.as_u16(), message }
}
