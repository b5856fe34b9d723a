//! A container's place on its networks, as long as it runs.

use std::fs::{self, OpenOptions};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;

use agent_proto::{Cidr, Interface, Route};
use api::config::NetSpec;
use network::{
    Attachment, HostPorts, Mode, NetworkError, Networks, Passt, PasstSocket, UserEndpoint,
};

use crate::config::{NetworkAttachment, Protocol};
use crate::error::file;
use crate::paths::ContainerPaths;
use crate::record::{ContainerRecord, Endpoint, PublishedPort};
use crate::{Engine, ErrorKind, RuntimeError, check, resolve};

/// How a name of a container is long enough to be told by others.
const SHORT_ID: usize = crate::paths::SHORT_ID;

/// The socket through which `passt` is the guest's network.
const PASST_SOCKET: &str = "passt.sock";

/// A container's place on its networks; dropping it gives everything back.
#[derive(Debug)]
pub(super) enum Place {
    /// No network.
    None,
    /// Bridges of the host's.
    Bridges {
        networks: Networks,
        container: String,
        endpoints: Vec<network::Endpoint>,
        ports: HostPorts,
    },
    /// A process of the user's.
    User {
        endpoint: UserEndpoint,
        socket: PasstSocket,
        /// Held until `passt` takes them.
        held: Option<HostPorts>,
        published: Vec<network::PublishedPort>,
        passt: Option<Passt>,
    },
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Bridges { networks, container, .. } = self
            && let Err(error) = networks.detach(container)
        {
            log::warn!("{container} can't be taken off its networks: {error}");
        }
    }
}

impl Place {
    /// Takes ports and addresses, and makes the host's side.
    pub(super) fn take(
        engine: &Engine,
        record: &ContainerRecord,
        paths: &ContainerPaths,
    ) -> Result<Self, RuntimeError> {
        let asked = resolve::networks(&record.config);
        if asked.is_empty() {
            return Ok(Self::None);
        }
        let ports = HostPorts::bind(&wanted_ports(record)?).map_err(error)?;
        match Mode::of_this_process() {
            Mode::Bridge => Self::on_bridges(engine, record, &asked, ports),
            Mode::User => Self::of_user(&asked, ports, paths),
        }
    }

    fn on_bridges(
        engine: &Engine,
        record: &ContainerRecord,
        asked: &[NetworkAttachment],
        mut ports: HostPorts,
    ) -> Result<Self, RuntimeError> {
        let networks = engine.networks()?;
        let mut published = ports.published().to_vec();
        let mut endpoints = Vec::new();
        for network in asked {
            // Ports are published once, on the first network.
            let attachment = attachment(record, network, std::mem::take(&mut published))?;
            match networks.attach(&attachment) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(problem) => {
                    if let Err(error) = networks.detach(&record.id) {
                        log::warn!("{} can't be taken off its networks: {error}", record.id);
                    }
                    return Err(error(problem));
                }
            }
        }
        let served = match endpoints.first() {
            Some(first) => ports.serve(first.ipv4, first.ipv6).map_err(error),
            None => Ok(()),
        };
        let container = record.id.clone();
        let place = Self::Bridges { networks, container, endpoints, ports };
        served.map(|()| place)
    }

    fn of_user(
        asked: &[NetworkAttachment],
        ports: HostPorts,
        paths: &ContainerPaths,
    ) -> Result<Self, RuntimeError> {
        if let Some(other) = asked.iter().find(|it| it.network != crate::DEFAULT_NETWORK) {
            return Err(RuntimeError::invalid(format!(
                "network {} can't be used without root: only {} and none",
                other.network,
                crate::DEFAULT_NETWORK
            )));
        }
        let socket = PasstSocket::bind(&paths.run.join(PASST_SOCKET)).map_err(error)?;
        let published = ports.published().to_vec();
        let endpoint = UserEndpoint::of_host();
        Ok(Self::User { endpoint, socket, held: Some(ports), published, passt: None })
    }

    /// Does what can be done only once the VM's devices are there.
    pub(super) fn vm_created(&mut self, paths: &ContainerPaths) -> Result<(), RuntimeError> {
        let Self::User { endpoint, socket, held, published, passt } = self else { return Ok(()) };
        let log = paths.data.join("passt.log");
        let log_file = OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
        let log_file = log_file.map_err(file("open", &log))?;
        *held = None;
        *passt = Some(socket.start(endpoint, published, log_file).map_err(error)?);
        Ok(())
    }

    /// The VM's network interfaces.
    pub(super) fn nets(&self, paths: &ContainerPaths) -> Vec<NetSpec> {
        match self {
            Self::None => Vec::new(),
            Self::Bridges { endpoints, .. } => {
                let net = |(index, endpoint): (usize, &network::Endpoint)| NetSpec {
                    iface_id: format!("eth{index}"),
                    host_dev_name: endpoint.tap.clone(),
                    guest_mac: Some(endpoint.mac_text()),
                    mtu: Some(endpoint.mtu),
                    ..NetSpec::default()
                };
                endpoints.iter().enumerate().map(net).collect()
            }
            Self::User { endpoint, .. } => vec![NetSpec {
                iface_id: "eth0".to_owned(),
                socket: Some(paths.run.join(PASST_SOCKET)),
                guest_mac: Some(network::mac_text(endpoint.mac)),
                mtu: Some(endpoint.mtu),
                ..NetSpec::default()
            }],
        }
    }

    /// What the guest sets up.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        match self {
            Self::None => Vec::new(),
            Self::Bridges { endpoints, .. } => {
                let interface = |(index, endpoint): (usize, &network::Endpoint)| {
                    // The first network is the way to everywhere else.
                    let gateways = if index == 0 { endpoint.gateways.as_slice() } else { &[] };
                    Interface {
                        mac: endpoint.mac_text(),
                        name: format!("eth{index}"),
                        addresses: cidrs(&endpoint.addresses()),
                        routes: gateways.iter().filter_map(default_route).collect(),
                        mtu: Some(endpoint.mtu.into()),
                    }
                };
                endpoints.iter().enumerate().map(interface).collect()
            }
            Self::User { endpoint, .. } => {
                let mut addresses = vec![(endpoint.ipv4.into(), endpoint.prefix4)];
                let mut gateways: Vec<IpAddr> = vec![endpoint.gateway4.into()];
                if let Some(ipv6) = endpoint.ipv6 {
                    addresses.push((ipv6.into(), endpoint.prefix6));
                    gateways.push(endpoint.gateway6.into());
                }
                vec![Interface {
                    mac: network::mac_text(endpoint.mac),
                    name: "eth0".to_owned(),
                    addresses: cidrs(&addresses),
                    routes: gateways.iter().filter_map(default_route).collect(),
                    mtu: Some(endpoint.mtu.into()),
                }]
            }
        }
    }

    /// The container's places, for its state.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        match self {
            Self::None => Vec::new(),
            Self::Bridges { endpoints, .. } => endpoints
                .iter()
                .map(|endpoint| Endpoint {
                    network: endpoint.network.clone(),
                    network_id: endpoint.network_id.clone(),
                    mac: endpoint.mac_text(),
                    addresses: endpoint.addresses().to_vec(),
                    gateways: endpoint.host_addresses.clone(),
                    aliases: endpoint.names.clone(),
                })
                .collect(),
            Self::User { endpoint, .. } => {
                let ipv6 = endpoint.ipv6.map(|ipv6| (ipv6.into(), endpoint.prefix6));
                let ipv4 = (endpoint.ipv4.into(), endpoint.prefix4);
                vec![Endpoint {
                    network: crate::DEFAULT_NETWORK.to_owned(),
                    network_id: String::new(),
                    mac: network::mac_text(endpoint.mac),
                    addresses: std::iter::once(ipv4).chain(ipv6).collect(),
                    gateways: vec![endpoint.gateway4.into()],
                    aliases: Vec::new(),
                }]
            }
        }
    }

    /// The published ports, the host's numbers known.
    pub(super) fn published(&self) -> Vec<PublishedPort> {
        let ports = match self {
            Self::None => return Vec::new(),
            Self::Bridges { ports, .. } => ports.published(),
            Self::User { published, .. } => published,
        };
        let any = || IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED);
        ports
            .iter()
            .map(|port| PublishedPort {
                container_port: port.container_port,
                protocol: match port.protocol {
                    network::Protocol::Tcp => Protocol::Tcp,
                    network::Protocol::Udp => Protocol::Udp,
                },
                host: Some((port.host_ip.unwrap_or_else(any), port.host_port)),
            })
            .collect()
    }

    /// The host's address as the guest sees it.
    pub(super) fn host_address(&self) -> Option<IpAddr> {
        match self {
            Self::None => None,
            Self::Bridges { endpoints, .. } => {
                endpoints.first().and_then(|it| it.host_addresses.first().copied())
            }
            Self::User { .. } => outbound_address(),
        }
    }
}

/// The address from which this host reaches others: connecting a datagram socket sends nothing.
fn outbound_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_unspecified())
}

/// The published ports, and with `-P` those that are exposed and not published yet.
fn wanted_ports(record: &ContainerRecord) -> Result<Vec<network::PublishedPort>, RuntimeError> {
    let port = |host_ip, host_port, container_port, protocol| network::PublishedPort {
        host_ip,
        host_port,
        container_port,
        protocol: match protocol {
            Protocol::Tcp => network::Protocol::Tcp,
            Protocol::Udp => network::Protocol::Udp,
        },
    };
    let mut ports: Vec<_> = record
        .config
        .ports
        .iter()
        .map(|it| port(it.host_ip, it.host_port.unwrap_or(0), it.container_port, it.protocol))
        .collect();
    if record.config.publish_all {
        for text in &record.resolved.exposed {
            let (number, protocol) = check::exposed_port(text)?;
            let wanted = port(None, 0, number, protocol);
            let is_same = |other: &network::PublishedPort| {
                (other.container_port, other.protocol) == (number, wanted.protocol)
            };
            if !ports.iter().any(is_same) {
                ports.push(wanted);
            }
        }
    }
    Ok(ports)
}

fn attachment(
    record: &ContainerRecord,
    asked: &NetworkAttachment,
    ports: Vec<network::PublishedPort>,
) -> Result<Attachment, RuntimeError> {
    let short = record.id.get(..SHORT_ID).unwrap_or(&record.id).to_owned();
    let hostname = super::guest::hostname(record);
    let mut names = vec![record.name.clone(), short, hostname];
    names.extend(asked.aliases.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(Attachment {
        container: record.id.clone(),
        network: asked.network.clone(),
        names,
        ipv4: asked.ipv4,
        ipv6: asked.ipv6,
        mac: asked.mac.as_deref().map(parse_mac).transpose()?,
        ports,
    })
}

fn parse_mac(text: &str) -> Result<[u8; 6], RuntimeError> {
    let invalid = || RuntimeError::invalid(format!("invalid MAC address: {text:?}"));
    let bytes: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|part| {
            let two = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            two.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        })
        .collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(invalid)
}

fn cidrs(addresses: &[(IpAddr, u8)]) -> Vec<Cidr> {
    addresses.iter().filter_map(|(address, prefix)| Cidr::new(*address, *prefix)).collect()
}

fn default_route(gateway: &IpAddr) -> Option<Route> {
    let any: IpAddr = match gateway {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    Some(Route { destination: Cidr::new(any, 0)?, gateway: Some(*gateway) })
}

/// The host's resolver configuration; nothing if it has none.
pub(super) fn host_resolv_conf() -> String {
    fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// Makes an error of a network's: a port that's taken has a hint of its own.
fn error(problem: NetworkError) -> RuntimeError {
    match problem {
        NetworkError::PortInUse { .. } => {
            RuntimeError::failed(ErrorKind::PortInUse, problem.to_string())
        }
        problem => crate::engine::network_error(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_six_pairs_of_digits() {
        assert_eq!(parse_mac("02:42:ac:11:00:02").unwrap(), [2, 0x42, 0xac, 0x11, 0, 2]);
        for text in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:00:02",
            "+1:42:ac:11:00:02",
            "g0:42:ac:11:00:02",
        ] {
            parse_mac(text).unwrap_err();
        }
    }

    #[test]
    fn gateways_are_default_routes_of_their_family() {
        let route = default_route(&"172.29.0.1".parse().unwrap()).unwrap();
        assert_eq!(route.destination.to_string(), "0.0.0.0/0");
        let route = default_route(&"fe80::1".parse().unwrap()).unwrap();
        assert_eq!(route.destination.to_string(), "::/0");
    }
}
