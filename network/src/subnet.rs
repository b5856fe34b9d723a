//! Which addresses networks and containers get.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::NetworkError;
use crate::record::{Endpoint, Network, NetworkSpec};

/// The default network's subnet, if nothing on the host has it.
const DEFAULT_SUBNET: Ipv4Net = net(172, 29, 16);
/// Where other subnets are cut out of.
const POOLS: [Ipv4Net; 3] = [net(172, 30, 16), net(172, 31, 16), net(10, 211, 16)];
/// Their prefix length.
const POOL_PREFIX: u8 = 24;

const fn net(first: u8, second: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(first, second, 0, 0), prefix)
}

/// A network's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) subnet4: Ipv4Net,
    pub(crate) gateway4: Ipv4Addr,
    pub(crate) subnet6: Ipv6Net,
    pub(crate) gateway6: Ipv6Addr,
}

/// Decides a network's addresses. `taken` is what the host and other networks use; `id`, 64
/// hexadecimal digits, makes the IPv6 prefix (RFC 4193: forty random bits).
pub(crate) fn plan(
    spec: &NetworkSpec,
    id: &str,
    is_default: bool,
    taken: &[IpNet],
) -> Result<Plan, NetworkError> {
    let asked4 = one(spec, |net| if let IpNet::V4(net) = net { Some(*net) } else { None })?;
    let asked6 = one(spec, |net| if let IpNet::V6(net) = net { Some(*net) } else { None })?;
    for asked in spec.subnets.iter() {
        check_subnet(asked, taken)?;
    }
    let subnet4 = match asked4 {
        Some(net) => net,
        None => free_subnet(is_default, taken)
            .ok_or_else(|| NetworkError::NoAddress("no subnet is free any more".to_owned()))?,
    };
    let subnet6 = asked6.unwrap_or_else(|| unique_local(id));
    let (mut gateway4, mut gateway6) = (None, None);
    for gateway in &spec.gateways {
        let slot_is_free = match gateway {
            IpAddr::V4(v4) if is_host(subnet4, *v4) => gateway4.replace(*v4).is_none(),
            IpAddr::V6(v6) if subnet6.contains(v6) && *v6 != subnet6.network() => {
                gateway6.replace(*v6).is_none()
            }
            _ => return Err(invalid(format!("gateway {gateway} is no address of a subnet"))),
        };
        if !slot_is_free {
            return Err(invalid("more than one gateway of a family".to_owned()));
        }
    }
    let first4 = Ipv4Addr::from_bits(subnet4.network().to_bits() | 1);
    let first6 = Ipv6Addr::from_bits(subnet6.network().to_bits() | 1);
    let (gateway4, gateway6) = (gateway4.unwrap_or(first4), gateway6.unwrap_or(first6));
    Ok(Plan { subnet4, gateway4, subnet6, gateway6 })
}

fn invalid(text: String) -> NetworkError {
    NetworkError::Invalid(text)
}

/// The one element of a family.
fn one<T>(spec: &NetworkSpec, of: impl Fn(&IpNet) -> Option<T>) -> Result<Option<T>, NetworkError> {
    let mut found = spec.subnets.iter().filter_map(of);
    let first = found.next();
    match found.next() {
        Some(_) => Err(invalid("more than one subnet of a family".to_owned())),
        None => Ok(first),
    }
}

fn check_subnet(subnet: &IpNet, taken: &[IpNet]) -> Result<(), NetworkError> {
    if subnet.addr() != subnet.network() {
        return Err(invalid(format!("{subnet} isn't a subnet: {} is", subnet.trunc())));
    }
    let (least, most) = match subnet {
        IpNet::V4(_) => (8, 29),
        // Containers' addresses there are made from their IPv4 ones.
        IpNet::V6(_) => (16, 96),
    };
    if !(least..=most).contains(&subnet.prefix_len()) {
        return Err(invalid(format!("{subnet}: prefixes are {least} to {most} bits long")));
    }
    let reserved = match subnet.network() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_multicast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local() || v6.is_loopback(),
    };
    if reserved || subnet.network().is_unspecified() {
        return Err(invalid(format!("{subnet} is reserved")));
    }
    match taken.iter().find(|other| overlap(other, subnet)) {
        Some(other) => {
            Err(invalid(format!("{subnet} overlaps with {other}, which is in use here")))
        }
        None => Ok(()),
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn free_subnet(is_default: bool, taken: &[IpNet]) -> Option<Ipv4Net> {
    let is_free = |net: &Ipv4Net| !taken.iter().any(|other| overlap(other, &IpNet::V4(*net)));
    let preferred = Some(DEFAULT_SUBNET).filter(|net| is_default && is_free(net));
    preferred.or_else(|| {
        POOLS.iter().flat_map(|pool| pool.subnets(POOL_PREFIX).into_iter().flatten()).find(is_free)
    })
}

/// `fd` and forty bits of `id`, subnet 0.
fn unique_local(id: &str) -> Ipv6Net {
    let random = id.get(..10).and_then(|hex| u128::from_str_radix(hex, 16).ok()).unwrap_or(0);
    Ipv6Net::new_assert(Ipv6Addr::from_bits((0xfd << 120) | (random << 80)), 64)
}

fn is_host(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address) && address != subnet.network() && address != subnet.broadcast()
}

/// Gives a container its addresses: those it asks for, else the lowest that's free (its Ethernet
/// address is made from that one, so neighbours' caches stay right when it's used again).
pub(crate) fn assign(
    network: &Network,
    leases: &[Endpoint],
    asked: (Option<Ipv4Addr>, Option<Ipv6Addr>),
) -> Result<(Ipv4Addr, Ipv6Addr), NetworkError> {
    let taken4: BTreeSet<_> =
        leases.iter().map(|lease| lease.ipv4).chain([network.gateway4]).collect();
    let taken6: BTreeSet<_> =
        leases.iter().map(|lease| lease.ipv6).chain([network.gateway6]).collect();
    let name = &network.name;
    let ipv4 = match asked.0 {
        Some(ipv4) if !is_host(network.subnet4, ipv4) => {
            return Err(invalid(format!("{ipv4} is no address of network {name}")));
        }
        Some(ipv4) if taken4.contains(&ipv4) => return Err(in_use(ipv4.into(), name)),
        Some(ipv4) => ipv4,
        None => {
            let free = network.subnet4.hosts().find(|address| {
                !taken4.contains(address) && !taken6.contains(&twin(network, *address))
            });
            free.ok_or_else(|| {
                NetworkError::NoAddress(format!("no address of network {name} is free any more"))
            })?
        }
    };
    let ipv6 = match asked.1 {
        Some(ipv6) if !network.subnet6.contains(&ipv6) || ipv6 == network.subnet6.network() => {
            return Err(invalid(format!("{ipv6} is no address of network {name}")));
        }
        Some(ipv6) => ipv6,
        None => twin(network, ipv4),
    };
    if taken6.contains(&ipv6) {
        return Err(in_use(ipv6.into(), name));
    }
    Ok((ipv4, ipv6))
}

fn in_use(address: IpAddr, network: &str) -> NetworkError {
    NetworkError::NoAddress(format!("{address} is already in use on network {network}"))
}

/// The IPv6 address that goes with an IPv4 one.
fn twin(network: &Network, ipv4: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(network.subnet6.network().to_bits() | u128::from(ipv4.to_bits()))
}

/// The Ethernet address that goes with an IPv4 one: locally administered, as Docker's.
pub fn mac_of(ipv4: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ipv4.octets();
    [0x02, 0x42, a, b, c, d]
}

/// An Ethernet address as text, with colons.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests;
