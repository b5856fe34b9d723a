//! One HTTP connection, driven by a runtime of its own.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use tokio::runtime::Runtime;

use super::{ClientError, WireRequest};

/// The largest answer that is read, in bytes.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub(super) struct Connection {
    path: PathBuf,
    /// Runs on the caller's thread, inside its calls only.
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    /// The same socket as the runtime has.
    stream: UnixStream,
}

impl Connection {
    pub(super) fn open(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { path: path.to_owned(), source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let stream = connect(path, timeout)?;
        let sender = start(&runtime, path, &stream)?;
        Ok(Self { path: path.to_owned(), runtime, sender, stream })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sends a request and receives the answer's head. If the VMM has closed the connection since
    /// the last one, connects again.
    pub(super) fn begin(
        &mut self,
        request: &WireRequest,
        timeout: Duration,
    ) -> Result<(StatusCode, Incoming), ClientError> {
        let request = http_request(request)?;
        if !self.is_usable(timeout)? {
            self.reconnect(timeout)?;
        }
        let mut outcome = self.send(request.clone(), timeout)?;
        // hyper promises that a cancelled request was never sent.
        if outcome.as_ref().is_err_and(hyper::Error::is_canceled) {
            self.reconnect(timeout)?;
            outcome = self.send(request, timeout)?;
        }
        let answer = outcome.map_err(|error| self.failure(error))?;
        Ok((answer.status(), answer.into_body()))
    }

    /// Receives the rest of an answer.
    pub(super) fn finish(
        &self,
        mut body: Incoming,
        timeout: Duration,
    ) -> Result<Bytes, ClientError> {
        self.within(timeout, async {
            let mut bytes = Vec::new();
            if body.size_hint().lower() > MAX_ANSWER_BYTES as u64 {
                return Err(ClientError::TooLarge);
            }
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.failure(error))?;
                let chunk = frame.into_data().unwrap_or_default();
                if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                    return Err(ClientError::TooLarge);
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.into())
        })?
    }

    /// Receives the next part of an answer, however long it takes; none after the last.
    pub(super) fn next_chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
        match self.runtime.block_on(body.frame()) {
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            Some(Err(error)) => Err(self.failure(error)),
            None => Ok(None),
        }
    }

    fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> Result<hyper::Result<hyper::Response<Incoming>>, ClientError> {
        let answer = self.sender.send_request(request);
        within(&self.runtime, &self.path, timeout, answer)
    }

    /// Whether the connection takes another request.
    fn is_usable(&mut self, timeout: Duration) -> Result<bool, ClientError> {
        // Between calls nobody drives the connection, and so nobody has seen its end. Whatever
        // can be received before a request was sent is its end, or no answer to it.
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        if rustix::net::recv(&self.stream, &mut [0; 1], flags) != Err(Errno::AGAIN) {
            return Ok(false);
        }
        let ready = self.sender.ready();
        within(&self.runtime, &self.path, timeout, ready).map(|outcome| outcome.is_ok())
    }

    fn reconnect(&mut self, timeout: Duration) -> Result<(), ClientError> {
        self.stream = connect(&self.path, timeout)?;
        self.sender = start(&self.runtime, &self.path, &self.stream)?;
        Ok(())
    }

    fn within<F: Future>(&self, timeout: Duration, future: F) -> Result<F::Output, ClientError> {
        within(&self.runtime, &self.path, timeout, future)
    }

    fn failure(&self, error: hyper::Error) -> ClientError {
        let gone = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
        if gone || is_io(&error) {
            ClientError::HungUp { path: self.path.clone() }
        } else {
            ClientError::Protocol(error)
        }
    }
}

/// Whether the socket failed, not the one who speaks on it.
fn is_io(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<io::Error>())
}

fn within<F: Future>(
    runtime: &Runtime,
    path: &Path,
    timeout: Duration,
    future: F,
) -> Result<F::Output, ClientError> {
    let limited = async { tokio::time::timeout(timeout, future).await };
    runtime
        .block_on(limited)
        .map_err(|_| ClientError::TimedOut { path: path.to_owned(), seconds: timeout.as_secs() })
}

/// Connects, and waits if too many others do so at the same moment.
fn connect(path: &Path, timeout: Duration) -> Result<UnixStream, ClientError> {
    let path_of = || path.to_owned();
    let failed =
        |error: Errno| ClientError::Connect { path: path_of(), source: io::Error::from(error) };
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(failed)?;
    rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(timeout))
        .map_err(failed)?;
    rustix::net::connect(&socket, &address).map_err(|error| match error {
        Errno::NOENT => ClientError::NoSocket { path: path_of() },
        Errno::CONNREFUSED => ClientError::Refused { path: path_of() },
        Errno::AGAIN => ClientError::TimedOut { path: path_of(), seconds: timeout.as_secs() },
        error => failed(error),
    })?;
    Ok(socket.into())
}

/// Speaks HTTP on a connected socket.
fn start(
    runtime: &Runtime,
    path: &Path,
    stream: &UnixStream,
) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let failed = |source| ClientError::Connect { path: path.to_owned(), source };
    stream.set_nonblocking(true).map_err(failed)?;
    let stream = stream.try_clone().map_err(failed)?;
    let _entered = runtime.enter();
    let stream = TokioIo::new(tokio::net::UnixStream::from_std(stream).map_err(failed)?);
    let (sender, connection) =
        runtime.block_on(handshake(stream)).map_err(ClientError::Protocol)?;
    runtime.spawn(async {
        if let Err(error) = connection.await {
            log::debug!("the API connection ended: {error}");
        }
    });
    Ok(sender)
}

fn http_request(request: &WireRequest) -> Result<Request<Full<Bytes>>, ClientError> {
    let mut builder = Request::builder()
        .method(&request.method)
        .uri(&request.path)
        .header(HOST, "localhost")
        .header(ACCEPT, "*/*");
    if !request.body.is_empty() {
        builder = builder.header(CONTENT_TYPE, "application/json");
    }
    let body = Full::new(request.body.clone());
    builder.body(body).map_err(|_| ClientError::BadPath { path: request.path.clone() })
}
