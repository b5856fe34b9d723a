//! The first answer of a server that's coming up.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::check_path;
use super::load::is_closed;
use super::response::{Reader, Response, ResponseError};
use crate::ProbeError;
use crate::distribution::nanoseconds;
use crate::error::in_range;
use crate::results::ConnectResult;

/// The longest wait: an hour.
const MAX_TIMEOUT_MS: u64 = 3_600_000;

/// How long after a failed attempt the next one is made. Whether another machine has begun to
/// listen is no event that could be awaited.
const PAUSE: Duration = Duration::from_millis(1);

/// How long an attempt to connect may take unless said. A packet that is lost while an interface
/// comes up is sent again after a second only, long after the server is there.
const ATTEMPT: Duration = Duration::from_millis(250);

/// How long an answer may take: something in between may have taken the connection for a server
/// that isn't there yet, and never tell.
const ANSWERING: Duration = Duration::from_secs(10);

/// How long, and how often in a row, something may answer what isn't HTTP, or nothing, before it's
/// said that it doesn't speak it: a server that's coming up may do so for a moment.
const STRANGE: (Duration, u32) =
    (if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(10) }, 50);

/// What counts as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One in HTTP.
    Http,
    /// Anything: bytes of another protocol, or the end of a connection that was accepted.
    Any,
}

/// Asks a server for `path` until it answers, in HTTP, whatever the status.
///
/// # Errors
///
/// The time or the path makes no sense, nothing answers within that time, or what answers doesn't
/// speak HTTP.
pub fn connect(
    address: SocketAddr,
    path: &str,
    timeout_ms: u64,
) -> Result<ConnectResult, ProbeError> {
    in_range("--timeout-ms", timeout_ms, 1, MAX_TIMEOUT_MS)?;
    let clock = Instant::now();
    let timeout = Duration::from_millis(timeout_ms);
    let left = || timeout.checked_sub(clock.elapsed()).filter(|left| !left.is_zero());
    connect_while(address, path, Answer::Http, ATTEMPT, left)
}

/// The same for as long as `left` has something: that's how long an answer may take then. An attempt
/// to connect is given up after `limit`.
///
/// # Errors
///
/// The path makes no sense, nothing has answered when nothing is left, or what answers isn't what's
/// asked for and doesn't become it.
pub fn connect_while(
    address: SocketAddr,
    path: &str,
    wanted: Answer,
    limit: Duration,
    left: impl Fn() -> Option<Duration>,
) -> Result<ConnectResult, ProbeError> {
    check_path(path)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let clock = Instant::now();
    let mut attempts = 0;
    let mut strange: Option<(Instant, u32)> = None;
    loop {
        attempts += 1;
        let answered = |status| {
            let elapsed_ns = nanoseconds(clock.elapsed());
            Ok(ConnectResult { elapsed_ns, attempts, status })
        };
        let last = match attempt(address, &request, left().unwrap_or(PAUSE), limit) {
            Ok(response) => return answered(Some(response.status)),
            Err(error) if wanted == Answer::Any && is_strange(&error) => return answered(None),
            Err(error) => error,
        };
        strange = match (&last, strange) {
            (error, _) if !is_strange(error) => None,
            (_, None) => Some((Instant::now(), 1)),
            (_, Some((since, count))) => Some((since, count + 1)),
        };
        if strange.is_some_and(|(since, count)| since.elapsed() > STRANGE.0 && count > STRANGE.1) {
            return Err(ProbeError::Protocol { address, reason: last.to_string() });
        }
        if left().is_none() {
            let elapsed_ms = nanoseconds(clock.elapsed()) / 1_000_000;
            return Err(ProbeError::NoAnswer { address, elapsed_ms, last: last.to_string() });
        }
        // Where connecting may take long, everything does: asking more often would take the time of
        // who is to answer.
        thread::sleep(PAUSE.max(limit / 20));
    }
}

/// Whether somebody was there, who spoke something else or hung up.
fn is_strange(error: &ResponseError) -> bool {
    matches!(error, ResponseError::Invalid(_)) || is_closed(error)
}

fn attempt(
    address: SocketAddr,
    request: &str,
    left: Duration,
    limit: Duration,
) -> Result<Response, ResponseError> {
    let clock = Instant::now();
    let left = left.min(ANSWERING);
    let mut stream = TcpStream::connect_timeout(&address, limit.min(left))?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(left))?;
    stream.write_all(request.as_bytes())?;
    Reader::new(Deadline { stream, clock, left }).response()
}

/// A connection that must say all that it has to say by a certain time.
struct Deadline {
    stream: TcpStream,
    clock: Instant,
    left: Duration,
}

impl io::Read for Deadline {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.saturating_sub(self.clock.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}
