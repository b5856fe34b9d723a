//! What the host's kernel is told: bridges, TAP interfaces, their addresses, and rules.
//!
//! Every function makes a state rather than a change: doing it again does nothing.

pub(crate) mod rules;
mod sysctl;

use std::fs;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, RouteMessageBuilder};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use tokio::runtime::{Builder, Runtime};

use crate::NetworkError;
use crate::record::Network;
use crate::subnet::mac_of;

type Result<T> = std::result::Result<T, NetworkError>;

const ETHERNET_MTU: u16 = 1500;
/// What IPv6 needs (RFC 8200 §5).
const LEAST_MTU: u16 = 1280;

/// The kernel's interfaces, of the network namespace that this thread is in.
///
/// `rtnetlink` is asynchronous; a runtime on the calling thread waits for each answer.
pub(crate) struct Host {
    runtime: Runtime,
    handle: Handle,
}

impl Host {
    pub(crate) fn new() -> Result<Self> {
        let failed = |error| NetworkError::host("open a netlink socket", error);
        let runtime = Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let handle = {
            let _entered = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    fn run<T>(
        &self,
        action: &str,
        request: impl Future<Output = std::result::Result<T, rtnetlink::Error>>,
    ) -> Result<T> {
        self.runtime.block_on(request).map_err(|error| NetworkError::host(action, into_io(error)))
    }

    /// Makes a network's bridge what the record says.
    pub(crate) fn ensure_bridge(&self, network: &Network) -> Result<()> {
        let name = &network.bridge;
        if index(name)?.is_none() {
            // Else it would take its ports' addresses in turn, and neighbours lose it each time.
            let mac = mac_of(network.gateway4).to_vec();
            let message = LinkBridge::new(name).address(mac).build();
            let request = self.handle.link().add(message).execute();
            self.run(&format!("create bridge {name}"), request)?;
        }
        let index = existing(name)?;
        sysctl::prepare_bridge(name)?;
        let addresses = [
            (IpAddr::V4(network.gateway4), network.subnet4.prefix_len()),
            (IpAddr::V6(network.gateway6), network.subnet6.prefix_len()),
        ];
        for (address, prefix) in addresses {
            let request = self.handle.address().add(index, address, prefix).replace().execute();
            match self.run(&format!("give bridge {name} the address {address}"), request) {
                // A host without IPv6 is no host without networks.
                Err(error) if address.is_ipv6() => log::warn!("{error}: no IPv6 on {name}"),
                other => other?,
            }
        }
        let up = LinkUnspec::new_with_index(index).mtu(network.mtu.into()).up().build();
        self.run(&format!("set up bridge {name}"), self.handle.link().set(up).execute())?;
        if network.internal { Ok(()) } else { sysctl::forward() }
    }

    /// Makes a TAP interface that doesn't belong to this process.
    pub(crate) fn add_tap(&self, name: &str) -> Result<()> {
        sys::tap::create_persistent(name).map_err(|error| {
            NetworkError::host(format!("create TAP {name}"), io::Error::other(error))
        })
    }

    /// Puts a TAP interface on a network's bridge.
    pub(crate) fn join_bridge(&self, tap: &str, network: &Network) -> Result<()> {
        let bridge = existing(&network.bridge)?;
        sysctl::prepare_port(tap)?;
        let message = LinkUnspec::new_with_index(existing(tap)?)
            .mtu(network.mtu.into())
            .controller(bridge)
            .up()
            .build();
        let request = self.handle.link().set(message).execute();
        self.run(&format!("put {tap} on bridge {}", network.bridge), request)
    }

    /// Removes an interface, if it's there.
    pub(crate) fn remove_link(&self, name: &str) -> Result<()> {
        let Some(index) = index(name)? else { return Ok(()) };
        let removed = self.run(&format!("remove {name}"), self.handle.link().del(index).execute());
        // Somebody else may have been faster.
        if self::index(name)?.is_none() { Ok(()) } else { removed }
    }

    /// The subnets that the host has routes to, but for those of the interface `except`.
    pub(crate) fn routes(&self, except: &str) -> Result<Vec<IpNet>> {
        let except = index(except)?;
        let mut all = self.dump(RouteMessageBuilder::<Ipv4Addr>::new().build())?;
        all.extend(self.dump(RouteMessageBuilder::<Ipv6Addr>::new().build())?);
        let is_other = |route: &&RouteMessage| {
            !route.attributes.iter().any(
                |attribute| matches!(attribute, RouteAttribute::Oif(index) if Some(*index) == except),
            )
        };
        Ok(all.iter().filter(is_other).filter_map(destination).collect())
    }

    fn dump(&self, message: RouteMessage) -> Result<Vec<RouteMessage>> {
        self.run("list routes", self.handle.route().get(message).execute().try_collect())
    }

    /// The largest packet that goes out by the default route.
    pub(crate) fn uplink_mtu(&self) -> u16 {
        let read = || {
            let routes = fs::read_to_string("/proc/thread-self/net/route").ok()?;
            let mut fields = routes.lines().skip(1).map(str::split_ascii_whitespace);
            let interface = fields.find_map(|mut line| {
                let (name, destination) = (line.next()?, line.next()?);
                (destination == "00000000").then_some(name)
            })?;
            fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?.trim().parse().ok()
        };
        read().unwrap_or(ETHERNET_MTU).clamp(LEAST_MTU, ETHERNET_MTU)
    }
}

/// Where a route leads, unless it's the default one.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    let net = IpNet::new(address, route.header.destination_prefix_length).ok()?;
    (net.prefix_len() > 0).then_some(net)
}

/// An interface's number, if it's there.
fn index(name: &str) -> Result<Option<u32>> {
    let found = socket(AddressFamily::UNIX, SocketType::DGRAM, None)
        .and_then(|socket| netdevice::name_to_index(socket, name));
    match found {
        Ok(index) => Ok(Some(index)),
        Err(rustix::io::Errno::NODEV) => Ok(None),
        Err(errno) => Err(NetworkError::host(format!("find interface {name}"), errno)),
    }
}

fn existing(name: &str) -> Result<u32> {
    index(name)?.ok_or_else(|| {
        NetworkError::host(
            format!("find interface {name}"),
            io::Error::from(io::ErrorKind::NotFound),
        )
    })
}

fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
