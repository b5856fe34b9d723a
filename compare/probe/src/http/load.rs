//! GETs, as fast as a server answers them.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::check_path;
use super::response::{Reader, Response, ResponseError};
use crate::ProbeError;
use crate::distribution::{latency, nanoseconds, per_second};
use crate::error::in_range;
use crate::network::PATIENCE;
use crate::results::WebResult;

/// The most requests.
const MAX_REQUESTS: u64 = 1 << 24;

/// The most connections.
const MAX_CONNECTIONS: u64 = 1024;

/// What one connection has seen.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    statuses: BTreeMap<u16, u64>,
    body_bytes: u64,
    reconnections: u64,
}

/// Asks a server for the same thing many times, over connections that are kept.
///
/// # Errors
///
/// A number or the path makes no sense, the server is away, or answers something that isn't HTTP.
pub fn web_client(
    address: SocketAddr,
    path: &str,
    requests: u64,
    connections: u64,
) -> Result<WebResult, ProbeError> {
    web_client_while(address, path, requests, connections, &|| true)
}

/// The same for as long as it's to go on, which is asked before each request.
///
/// # Errors
///
/// As [`web_client`]'s.
pub fn web_client_while(
    address: SocketAddr,
    path: &str,
    requests: u64,
    connections: u64,
    goes_on: &(dyn Fn() -> bool + Sync),
) -> Result<WebResult, ProbeError> {
    in_range("--requests", requests, 1, MAX_REQUESTS)?;
    in_range("--connections", connections, 1, MAX_CONNECTIONS.min(requests))?;
    check_path(path)?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: vmctl-compare\r\n\r\n");
    // Made before the clock runs: it's answers that are measured.
    let mut clients =
        (0..connections).map(|_| Connection::open(address)).collect::<Result<Vec<_>, _>>()?;
    let left = AtomicU64::new(requests);
    let clock = Instant::now();
    let all = thread::scope(|scope| {
        let started: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let (left, request) = (&left, request.as_bytes());
                thread::Builder::new()
                    .spawn_scoped(scope, move || client.run(request, left, goes_on))
            })
            .collect();
        started
            .into_iter()
            .map(|thread| match thread.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(seen)) => seen,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(source) => Err(ProbeError::System { what: "start a thread", source }),
            })
            .collect::<Result<Vec<Seen>, _>>()
    })?;
    Ok(sum_up(all, connections, clock.elapsed()))
}

fn sum_up(all: Vec<Seen>, connections: u64, elapsed: Duration) -> WebResult {
    let mut total = Seen::default();
    for seen in all {
        total.times.extend(seen.times);
        total.body_bytes += seen.body_bytes;
        total.reconnections += seen.reconnections;
        for (status, count) in seen.statuses {
            *total.statuses.entry(status).or_default() += count;
        }
    }
    let requests = total.times.len() as u64;
    WebResult {
        requests,
        connections,
        elapsed_ns: nanoseconds(elapsed),
        requests_per_second: per_second(requests, elapsed),
        latency: latency(total.times),
        statuses: total.statuses,
        body_bytes: total.body_bytes,
        reconnections: total.reconnections,
    }
}

/// A connection that is made anew when the server closes it.
struct Connection {
    address: SocketAddr,
    reader: Reader<TcpStream>,
    writer: TcpStream,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self, ProbeError> {
        let open = || {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok((stream.try_clone()?, stream))
        };
        let (reader, writer) = open().map_err(ProbeError::network("connect to", address))?;
        Ok(Self { address, reader: Reader::new(reader), writer })
    }

    /// Takes requests until none are left. If one fails, the others stop, too.
    fn run(
        &mut self,
        request: &[u8],
        left: &AtomicU64,
        goes_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Seen, ProbeError> {
        let mut seen = Seen::default();
        let one_less = |left: u64| left.checked_sub(1);
        let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        while goes_on() && take() {
            if let Err(error) = self.request(request, &mut seen) {
                left.store(0, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(seen)
    }

    fn request(&mut self, request: &[u8], seen: &mut Seen) -> Result<(), ProbeError> {
        let clock = Instant::now();
        let response = match self.exchange(request) {
            // A server may close a connection that it has kept, at any time; not a fresh one.
            Err(error) if is_closed(&error) && !seen.times.is_empty() => {
                self.reopen(seen)?;
                self.exchange(request)
            }
            answered => answered,
        };
        let response = response.map_err(|error| self.error(error))?;
        seen.times.push(clock.elapsed());
        *seen.statuses.entry(response.status).or_default() += 1;
        seen.body_bytes += response.body_bytes;
        if response.closes {
            self.reopen(seen)?;
        }
        Ok(())
    }

    fn reopen(&mut self, seen: &mut Seen) -> Result<(), ProbeError> {
        *self = Self::open(self.address)?;
        seen.reconnections += 1;
        Ok(())
    }

    fn exchange(&mut self, request: &[u8]) -> Result<Response, ResponseError> {
        self.writer.write_all(request)?;
        self.reader.response()
    }

    fn error(&self, error: ResponseError) -> ProbeError {
        let address = self.address;
        match error {
            ResponseError::Io(source) => {
                ProbeError::Network { what: "get an answer from", address, source }
            }
            other => ProbeError::Protocol { address, reason: other.to_string() },
        }
    }
}

/// Whether a connection was closed before there was an answer.
pub(super) fn is_closed(error: &ResponseError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error {
        ResponseError::Closed => true,
        ResponseError::Io(error) => matches!(error.kind(), BrokenPipe | ConnectionReset),
        ResponseError::Invalid(_) => false,
    }
}
