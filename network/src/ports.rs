//! Published ports on the host's side.
//!
//! The kernel's rules translate what comes from elsewhere. Connections from the host's own loopback
//! addresses go through a small relay here instead. The other way, `route_localnet`, lets
//! neighbours on the wire reach what listens at 127.0.0.1, doesn't exist for IPv6, and doesn't
//! reserve the port: with a socket bound to it, no other program can take it meanwhile, and the
//! kernel tells at once if one has it. The sockets end with the process, whatever ends it.

mod bind;
mod relay;
mod tcp;
mod udp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;

use self::bind::Listener;
use self::relay::Relay;
use crate::NetworkError;
use crate::record::PublishedPort;

/// The host's sockets of a container's published ports, held as long as this lives.
#[derive(Debug)]
pub struct HostPorts {
    listeners: Vec<Listener>,
    published: Vec<PublishedPort>,
    relay: Option<(JoinHandle<()>, OwnedFd)>,
}

/// Where a container is reached.
#[derive(Clone, Copy, Debug)]
struct Target {
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
}

impl Target {
    /// Its addresses for a client, that of the client's family first.
    fn addresses(self, client: SocketAddr, port: u16) -> [SocketAddr; 2] {
        let (v4, v6) = (IpAddr::from(self.ipv4), IpAddr::from(self.ipv6));
        let order = if client.is_ipv4() { [v4, v6] } else { [v6, v4] };
        order.map(|address| SocketAddr::new(address, port))
    }
}

impl HostPorts {
    /// Takes the ports, and free ones where the host's port is 0. All or none: nothing else has
    /// been done yet when this fails.
    ///
    /// # Errors
    /// [`NetworkError::PortInUse`], [`NetworkError::Port`].
    pub fn bind(wanted: &[PublishedPort]) -> Result<Self, NetworkError> {
        let mut ports = Self { listeners: Vec::new(), published: Vec::new(), relay: None };
        for port in wanted {
            let (port, listeners) = bind::take(*port)?;
            ports.published.push(port);
            ports.listeners.extend(listeners);
        }
        Ok(ports)
    }

    /// The ports, all numbers known.
    #[must_use]
    pub fn published(&self) -> &[PublishedPort] {
        &self.published
    }

    /// Begins to pass connections on to the container's addresses, on a thread of its own.
    ///
    /// # Errors
    /// [`NetworkError::Host`] when the thread can't be started.
    pub fn serve(&mut self, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Result<(), NetworkError> {
        let failed = |error| NetworkError::host("pass published ports on", error);
        self.stop();
        if self.listeners.is_empty() {
            return Ok(());
        }
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed(errno.into()))?;
        let theirs = stop.try_clone().map_err(failed)?;
        let listeners = self.listeners.iter().map(Listener::try_clone);
        let listeners = listeners.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let relay = Relay::new(listeners, Target { ipv4, ipv6 }, theirs);
        let thread = std::thread::Builder::new().name("ports".to_owned());
        let thread = thread.spawn(move || relay.run()).map_err(failed)?;
        self.relay = Some((thread, stop));
        Ok(())
    }

    fn stop(&mut self) {
        let Some((thread, stop)) = self.relay.take() else { return };
        // It fails only when it's readable already.
        let _ = rustix::io::write(&stop, &1u64.to_ne_bytes());
        if thread.join().is_err() {
            log::error!("the thread of published ports panicked");
        }
    }
}

impl Drop for HostPorts {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
