//! The host's resolvers.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PORT: u16 = 53;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long a server has to answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How often all servers are asked.
const ATTEMPTS: usize = 2;
/// The most servers that are asked, as the C library has it.
const MAX_SERVERS: usize = 3;
const MAX_MESSAGE: usize = 65535;

/// Resolvers that queries are passed on to.
#[derive(Debug)]
pub struct Upstream {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    /// Which one is asked first: the next one, once it didn't answer.
    first: AtomicUsize,
}

impl Upstream {
    /// Asks these, in this order.
    #[must_use]
    pub fn new(servers: &[IpAddr]) -> Self {
        Self::at(servers.iter().map(|server| SocketAddr::new(*server, PORT)).collect(), TIMEOUT)
    }

    /// Asks those that the host asks itself.
    #[must_use]
    pub fn of_host() -> Self {
        let text = fs::read_to_string(RESOLV_CONF).unwrap_or_else(|error| {
            log::warn!("{RESOLV_CONF}: {error}");
            String::new()
        });
        let servers = servers(&text);
        // As the C library: without any, one on this host.
        if servers.is_empty() {
            Self::new(&[Ipv4Addr::LOCALHOST.into()])
        } else {
            Self::new(&servers)
        }
    }

    pub(super) fn at(mut servers: Vec<SocketAddr>, timeout: Duration) -> Self {
        servers.truncate(MAX_SERVERS);
        Self { servers, timeout, first: AtomicUsize::new(0) }
    }

    /// Asks one server after the other; none when nobody answers.
    pub(super) fn ask(&self, query: &[u8]) -> Option<Vec<u8>> {
        let count = self.servers.len();
        let first = self.first.load(Ordering::Relaxed);
        for turn in first..first.saturating_add(count.saturating_mul(ATTEMPTS)) {
            let server = *self.servers.get(turn.checked_rem(count)?)?;
            match ask(server, query, self.timeout) {
                Ok(answer) => {
                    self.first.store(turn.checked_rem(count)?, Ordering::Relaxed);
                    return Some(answer);
                }
                Err(error) => log::debug!("resolver {server} doesn't answer: {error}"),
            }
        }
        None
    }
}

/// Asks by UDP, then by TCP if the answer is too long for that.
fn ask(server: SocketAddr, query: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let answer = ask_udp(server, query, timeout)?;
    let is_truncated = answer.get(2).is_some_and(|flags| flags & 0x02 != 0);
    if !is_truncated {
        return Ok(answer);
    }
    // Better a part of the answer than none.
    Ok(ask_tcp(server, query, timeout).unwrap_or(answer))
}

fn ask_udp(server: SocketAddr, query: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of the kernel's random choice for each query: answers are hard to forge.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(query)?;
    let deadline = Instant::now() + timeout;
    let mut answer = vec![0; MAX_MESSAGE];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let len = socket.recv(&mut answer)?;
        if is_answer(answer.get(..len).unwrap_or_default(), query) {
            answer.truncate(len);
            return Ok(answer);
        }
    }
}

fn ask_tcp(server: SocketAddr, query: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), query].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut answer)?;
    if is_answer(&answer, query) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether a message answers the query: its number, and that it's an answer.
fn is_answer(answer: &[u8], query: &[u8]) -> bool {
    answer.len() >= 12
        && answer.get(..2) == query.get(..2)
        && answer.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

/// The servers of a `resolv.conf`. Scoped addresses (`fe80::1%eth0`) are left out.
pub(crate) fn servers(resolv_conf: &str) -> Vec<IpAddr> {
    let lines = resolv_conf.lines().map(str::split_ascii_whitespace);
    lines
        .filter_map(|mut words| match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => address.parse().ok(),
            _ => None,
        })
        .collect()
}
