//! Taking ports of the host's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::NetworkError;
use crate::record::{Protocol, PublishedPort};

/// How often another free port is tried when one isn't free on every address.
const ATTEMPTS: u32 = 16;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket of the host's at a published port; non-blocking.
#[derive(Debug)]
pub(super) enum Listener {
    /// Waits for connections to the container's port.
    Tcp(TcpListener, u16),
    /// Gets datagrams for the container's port.
    Udp(UdpSocket, u16),
}

impl Listener {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket, port) => Self::Tcp(socket.try_clone()?, *port),
            Self::Udp(socket, port) => Self::Udp(socket.try_clone()?, *port),
        })
    }
}

/// Takes a port on every address that it's published at.
pub(super) fn take(wanted: PublishedPort) -> Result<(PublishedPort, Vec<Listener>), NetworkError> {
    let mut attempt = 1;
    loop {
        match bind_all(wanted) {
            Err(NetworkError::PortInUse { .. }) if wanted.host_port == 0 && attempt < ATTEMPTS => {
                attempt += 1;
            }
            other => return other,
        }
    }
}

fn bind_all(wanted: PublishedPort) -> Result<(PublishedPort, Vec<Listener>), NetworkError> {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let addresses = wanted.host_ip.map_or_else(|| any.to_vec(), |address| vec![address]);
    let (mut found, mut listeners) = (wanted, Vec::new());
    for address in addresses {
        let at = SocketAddr::new(address, found.host_port);
        let (listener, port) = match open(at, wanted) {
            // A host without IPv6.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
                if wanted.host_ip.is_none() && address.is_ipv6() =>
            {
                continue;
            }
            other => other.map_err(|errno| refusal(errno, at, wanted.protocol))?,
        };
        found.host_port = port;
        listeners.push(listener);
    }
    Ok((found, listeners))
}

fn refusal(errno: Errno, at: SocketAddr, protocol: Protocol) -> NetworkError {
    let (address, port) = (at.ip(), at.port());
    match errno {
        Errno::ADDRINUSE => NetworkError::PortInUse { address, port, protocol },
        _ => NetworkError::Port { address, port, protocol, source: errno.into() },
    }
}

fn open(at: SocketAddr, wanted: PublishedPort) -> Result<(Listener, u16), Errno> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = match wanted.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket: OwnedFd = socket_with(family, kind, flags, None)?;
    if at.is_ipv6() {
        // IPv4 has a socket of its own.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if wanted.protocol == Protocol::Tcp {
        // Connections of the last run may still be ending. (UDP sockets would share the port.)
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &at)?;
    let container_port = wanted.container_port;
    let (listener, bound) = match wanted.protocol {
        Protocol::Tcp => {
            listen(&socket, BACKLOG)?;
            let socket = TcpListener::from(socket);
            let bound = socket.local_addr();
            (Listener::Tcp(socket, container_port), bound)
        }
        Protocol::Udp => {
            let socket = UdpSocket::from(socket);
            let bound = socket.local_addr();
            (Listener::Udp(socket, container_port), bound)
        }
    };
    let bound = bound.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
    Ok((listener, bound.port()))
}
