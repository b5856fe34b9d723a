//! A client's connection, which is cut off when the client stalls.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep};

use super::Limits;

/// How much is read and thrown away from a client whose request was refused unread.
const LINGER_BYTES: usize = 1 << 20;

/// Where a connection is, as far as its stream and its requests' handler need to tell each other.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    phase: Phase,
    /// A request was refused before all of it was read.
    refused: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Between requests.
    Idle { since: Instant },
    /// The first bytes of a request are there, but not its whole header.
    Header { since: Instant },
    /// A request is being read, carried out or answered.
    Busy,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        let phase = Phase::Idle { since: Instant::now() };
        Arc::new(Self(Mutex::new(State { phase, refused: false })))
    }

    /// A request's header is complete.
    pub(super) fn begin(&self) {
        self.lock().phase = Phase::Busy;
    }

    /// The answer is complete.
    pub(super) fn end(&self) {
        self.lock().phase = Phase::Idle { since: Instant::now() };
    }

    /// The answer won't wait for the rest of the request.
    pub(super) fn refuse(&self) {
        self.lock().refused = true;
    }

    /// For how long there has been no request.
    pub(super) fn idle(&self) -> Duration {
        match self.lock().phase {
            Phase::Idle { since } => since.elapsed(),
            Phase::Header { .. } | Phase::Busy => Duration::ZERO,
        }
    }

    fn received(&self) {
        let mut state = self.lock();
        if let Phase::Idle { .. } = state.phase {
            state.phase = Phase::Header { since: Instant::now() };
        }
    }

    fn header_since(&self) -> Option<Instant> {
        match self.lock().phase {
            Phase::Header { since } => Some(since),
            Phase::Idle { .. } | Phase::Busy => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that fails with `TimedOut` when a request's header doesn't arrive or an answer isn't
/// taken in time. (hyper's own timeout for headers also ends connections that are merely idle.)
pub(super) struct GuardedStream {
    stream: UnixStream,
    progress: Arc<Progress>,
    limits: Limits,
    /// When the header that is being read must be complete.
    header_deadline: Option<Pin<Box<Sleep>>>,
    /// When the client must have taken something of the answer.
    write_deadline: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
}

struct Linger {
    deadline: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl GuardedStream {
    pub(super) fn new(stream: UnixStream, progress: Arc<Progress>, limits: Limits) -> Self {
        Self { stream, progress, limits, header_deadline: None, write_deadline: None, linger: None }
    }

    /// Passes on the outcome of a write, unless it has been pending for too long.
    fn guard_write(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if outcome.is_ready() {
            self.write_deadline = None;
            return outcome;
        }
        let timeout = self.limits.write_timeout;
        let deadline =
            self.write_deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads what a refused client still sends: closing a socket with unread data resets it, and
    /// the client might not see why.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timeout = self.limits.linger_timeout;
        let linger = self.linger.get_or_insert_with(|| Linger {
            deadline: Box::pin(tokio::time::sleep(timeout)),
            bytes_left: LINGER_BYTES,
        });
        let mut scratch = [0; 4096];
        while linger.bytes_left > 0 && linger.deadline.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            let length = buffer.filled().len();
            if outcome.is_err() || length == 0 {
                break;
            }
            linger.bytes_left = linger.bytes_left.saturating_sub(length);
        }
        Poll::Ready(())
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.progress.received();
        }
        // A client that sends a byte now and then must not keep the deadline from being seen.
        let Some(since) = self.progress.header_since() else {
            self.header_deadline = None;
            return outcome;
        };
        let at = since + self.limits.header_timeout;
        let deadline =
            self.header_deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if deadline.deadline() != at {
            deadline.as_mut().reset(at);
        }
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        outcome
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.guard_write(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.guard_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.progress.lock().refused {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
