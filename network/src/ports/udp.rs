//! UDP clients whose datagrams are passed on.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How long a client may be silent, as the kernel's own translation has it.
const IDLE: Duration = Duration::from_secs(120);
/// The most clients of one port; datagrams of further ones are lost.
const MAX_SESSIONS: usize = 1024;
/// The largest datagram.
const MAX_DATAGRAM: usize = 65535;
/// How many datagrams are moved before others have their turn.
const BUDGET: u32 = 64;

/// The clients of one port, each with a socket of its own towards the container.
#[derive(Default)]
pub(super) struct Sessions {
    clients: HashMap<SocketAddr, Session>,
    buffer: Vec<u8>,
}

struct Session {
    socket: UdpSocket,
    used: Instant,
}

impl Sessions {
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.clients.values().map(|session| &session.socket)
    }

    /// Passes on what clients sent to `socket`.
    pub(super) fn serve_clients(
        &mut self,
        socket: &UdpSocket,
        target: impl Fn(SocketAddr) -> SocketAddr,
    ) {
        self.buffer.resize(MAX_DATAGRAM, 0);
        for _ in 0..BUDGET {
            let (len, client) = match socket.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(_) => return,
            };
            if let Err(error) = self.pass_on(client, target(client), len) {
                log::debug!("a datagram to a published port is lost: {error}");
            }
        }
    }

    fn pass_on(&mut self, client: SocketAddr, target: SocketAddr, len: usize) -> io::Result<()> {
        if !self.clients.contains_key(&client) {
            if self.clients.len() >= MAX_SESSIONS {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            let session = Session { socket: open(target)?, used: Instant::now() };
            self.clients.insert(client, session);
        }
        let Some(session) = self.clients.get_mut(&client) else { return Ok(()) };
        session.used = Instant::now();
        session.socket.send(self.buffer.get(..len).unwrap_or_default()).map(drop)
    }

    /// Passes back what the container answered.
    pub(super) fn serve_answers(&mut self, socket: &UdpSocket) {
        self.buffer.resize(MAX_DATAGRAM, 0);
        for (client, session) in &mut self.clients {
            for _ in 0..BUDGET {
                // An error is the container's refusal, which the next datagram may not meet.
                let Ok(len) = session.socket.recv(&mut self.buffer) else { break };
                session.used = Instant::now();
                let answer = self.buffer.get(..len).unwrap_or_default();
                if let Err(error) = socket.send_to(answer, client) {
                    log::debug!("an answer from a published port is lost: {error}");
                }
            }
        }
    }

    /// Forgets clients that have been silent for long.
    pub(super) fn drop_idle(&mut self) {
        self.clients.retain(|_, session| session.used.elapsed() < IDLE);
    }
}

fn open(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = if target.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(target)?;
    Ok(socket)
}
