//! What is kept of networks and of containers' places on them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The network that containers are on unless they say otherwise.
pub const DEFAULT_NETWORK: &str = "bridge";

/// What a new network is asked to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    /// The name: letters, digits, and then `_`, `.`, `-` too.
    pub name: String,
    /// Subnets, one of each family at most; chosen unless said.
    pub subnets: Vec<IpNet>,
    /// Gateways, each in a subnet; the first address of it unless said.
    pub gateways: Vec<IpAddr>,
    /// Whether it has no way to other networks than the host itself.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The name.
    pub name: String,
    /// When it was created.
    pub created: SystemTime,
    /// The host's interface.
    pub bridge: String,
    /// IPv4 addresses.
    pub subnet4: Ipv4Net,
    /// The host's IPv4 address.
    pub gateway4: Ipv4Addr,
    /// IPv6 addresses.
    pub subnet6: Ipv6Net,
    /// The host's IPv6 address.
    pub gateway6: Ipv6Addr,
    /// The largest packet, in bytes.
    pub mtu: u16,
    /// Whether it has no way to other networks than the host itself.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What a container asks of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The network's name or identifier.
    pub network: String,
    /// The container's identifier.
    pub container: String,
    /// The container's names on the network: its own, its host name, aliases.
    pub names: Vec<String>,
    /// A fixed IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// A fixed Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Ports that are published here, with the host's ports known ([`crate::HostPorts`]).
    pub ports: Vec<PublishedPort>,
}

/// A container's place on a network, as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container's identifier.
    pub container: String,
    /// The network's name.
    pub network: String,
    /// The network's identifier.
    pub network_id: String,
    /// The host's TAP interface, for the VMM to open.
    pub tap: String,
    /// The guest's Ethernet address.
    pub mac: [u8; 6],
    /// The guest's IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its prefix length.
    pub prefix4: u8,
    /// The guest's IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Its prefix length.
    pub prefix6: u8,
    /// Gateways that default routes go to; none on an internal network.
    pub gateways: Vec<IpAddr>,
    /// The host's addresses on the network.
    pub host_addresses: Vec<IpAddr>,
    /// The largest packet, in bytes.
    pub mtu: u16,
    /// The container's names.
    pub names: Vec<String>,
    /// Published ports.
    pub ports: Vec<PublishedPort>,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The host's address; every one unless said.
    pub host_ip: Option<IpAddr>,
    /// The host's port; 0 before one that's free was chosen.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// The protocol of a port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The name as rules and people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Endpoint {
    /// The guest's addresses with their prefix lengths.
    #[must_use]
    pub fn addresses(&self) -> [(IpAddr, u8); 2] {
        [(self.ipv4.into(), self.prefix4), (self.ipv6.into(), self.prefix6)]
    }

    /// The guest's Ethernet address as text.
    #[must_use]
    pub fn mac_text(&self) -> String {
        crate::mac_text(self.mac)
    }
}
