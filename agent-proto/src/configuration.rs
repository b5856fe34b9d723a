//! What makes a VM this container's: its names, its network, the time.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the agent sets before a container is created. It may be sent more than once: a VM that was
/// restored from a template, or whose network changed, gets it anew; what it names is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// The host name.
    pub hostname: String,
    /// The domain name (`setdomainname(2)`); none leaves it.
    pub domainname: Option<String>,
    /// More lines of `/etc/hosts`. Those of the loopback, and one for each address of
    /// `interfaces` with the host's name, come by themselves.
    pub hosts: Vec<HostEntry>,
    /// Name resolution.
    pub dns: Dns,
    /// Network interfaces; the loopback comes by itself.
    pub interfaces: Vec<Interface>,
    /// The time; none leaves the clock.
    pub clock: Option<Clock>,
    /// Random bytes for the kernel's generator, as hexadecimal digits, credited as entropy. A VM
    /// that was restored from a template would otherwise repeat its siblings' numbers.
    pub entropy: Option<String>,
    /// Kernel parameters: `net.ipv4.ip_forward`, `1`.
    pub sysctls: Vec<(String, String)>,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// The address.
    pub address: IpAddr,
    /// Its names.
    pub names: Vec<String>,
}

/// Name resolution: what `/etc/resolv.conf` says, and who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers. With `relay` and none here, the relay's address.
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options, such as `ndots:0`.
    pub options: Vec<String>,
    /// Whether the agent serves 127.0.0.11:53 (UDP and TCP) and relays to the host's vsock port
    /// [`crate::HOST_DNS_PORT`].
    pub relay: bool,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The hardware address, by which it's found: `02:fc:00:00:00:01`.
    pub mac: String,
    /// The name that it gets: `eth0`.
    pub name: String,
    /// Addresses, IPv4 and IPv6.
    #[serde(default)]
    pub addresses: Vec<Cidr>,
    /// Routes beside the ones that come with the addresses.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The largest packet, in bytes; none leaves the device's.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to: `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: Cidr,
    /// Through whom; none for what's on the link.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// The time since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Whole seconds.
    pub seconds: u64,
    /// Nanoseconds of the second.
    pub nanoseconds: u32,
}

impl Clock {
    /// Returns the time of this machine's clock.
    #[must_use]
    pub fn now() -> Self {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() }
    }
}

/// An address and the length of its network's prefix, as `172.29.0.2/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Makes one; none when the prefix is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= bits).then_some(Self { address, prefix })
    }

    /// Returns the address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Returns the length of the prefix, in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no address with a prefix length, as 172.29.0.2/16");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address = address.parse().map_err(|_| bad())?;
        Self::new(address, prefix.parse().map_err(|_| bad())?).ok_or_else(bad)
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_prefixes_that_fit() {
        for text in ["172.29.0.2/16", "fd00::2/64", "0.0.0.0/0", "::1/128"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        for text in ["172.29.0.2", "172.29.0.2/33", "::/129", "x/1", "1.2.3.4/-1", "1.2.3.4/256"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_configuration_is_one() {
        let configuration: Configuration = serde_json::from_str("{\"later\": 1}").unwrap();
        assert_eq!(configuration, Configuration::default());
    }
}
