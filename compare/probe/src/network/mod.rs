//! Bytes over TCP: a server for an instance, and its client for the host.

mod client;
mod limit;
mod server;

pub use client::{receive, round_trips, send};
pub use server::net_server;
pub(crate) use server::serve;

pub(crate) use limit::Limit;

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use crate::ProbeError;

/// The most connections that a server serves at a time; more are closed at once.
pub const MAX_CONNECTIONS: usize = 64;

/// How long either side waits for the other one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The first byte of a connection: what it's for.
const ECHO: u8 = b'e';
/// The server counts what it gets, and says how much that was.
const SINK: u8 = b'k';
/// The server sends as much as the next 8 bytes say.
const SOURCE: u8 = b's';

/// Listens on all IPv4 addresses: an instance may be without IPv6. Port 0 is any that's free.
///
/// # Errors
///
/// The port is taken.
pub fn listen(port: u16) -> Result<(TcpListener, u16), ProbeError> {
    let address = (Ipv4Addr::UNSPECIFIED, port).into();
    let listener = TcpListener::bind(address).map_err(ProbeError::network("listen on", address))?;
    let bound = listener.local_addr().map_err(ProbeError::network("listen on", address))?;
    Ok((listener, bound.port()))
}

#[cfg(test)]
mod tests;
