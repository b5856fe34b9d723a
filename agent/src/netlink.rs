//! Messages to the kernel's network configuration (rtnetlink(7)).
//!
//! Few kinds of requests, built by hand: the crates that know all of rtnetlink would be half of
//! this program.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use agent_proto::{Cidr, Route};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv,
    sendto, socket_with,
};

// linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;

// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

// linux/if_link.h, linux/if_addr.h, linux/if.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;
const IFF_UP: u32 = 1;

const HEADER_BYTES: usize = 16;

/// A message, complete but for its length.
#[derive(Debug)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        // The sequence number, and the sender's port, which the kernel knows.
        bytes.extend([0; 8]);
        bytes.extend(body);
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        // Attributes here are names, addresses and integers.
        let length = u16::try_from(value.len()).map_or(u16::MAX, |length| length.saturating_add(4));
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        for (to, from) in self.0.iter_mut().zip(length.to_ne_bytes()) {
            *to = from;
        }
        self.0
    }

    /// Sets a link up or down.
    pub(crate) fn set_link(index: u32, up: bool) -> Self {
        Self::link(index, if up { IFF_UP } else { 0 }, IFF_UP)
    }

    /// Names a link, which has to be down.
    pub(crate) fn rename_link(index: u32, name: &str) -> Self {
        let name = [name.as_bytes(), &[0]].concat();
        Self::link(index, 0, 0).attribute(IFLA_IFNAME, &name)
    }

    /// Gives a link another hardware address.
    pub(crate) fn set_hardware_address(index: u32, address: [u8; 6]) -> Self {
        Self::link(index, 0, 0).attribute(IFLA_ADDRESS, &address)
    }

    /// Sets a link's largest packet.
    pub(crate) fn set_mtu(index: u32, mtu: u32) -> Self {
        Self::link(index, 0, 0).attribute(IFLA_MTU, &mtu.to_ne_bytes())
    }

    /// `struct ifinfomsg`.
    fn link(index: u32, flags: u32, change: u32) -> Self {
        let words = [0, index, flags, change].map(u32::to_ne_bytes);
        Self::new(RTM_NEWLINK, 0, words.as_flattened())
    }

    /// Gives a link an address, at once: nobody else has it, so nobody is asked.
    pub(crate) fn add_address(index: u32, cidr: Cidr) -> Self {
        let (family, address) = address_bytes(cidr.address());
        let flags = if cidr.address().is_ipv6() { IFA_F_NODAD } else { 0 };
        // `struct ifaddrmsg`.
        let mut body = vec![family, cidr.prefix(), flags, RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        let message = Self::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
            .attribute(IFA_LOCAL, &address)
            .attribute(IFA_ADDRESS, &address);
        match cidr.address() {
            IpAddr::V4(v4) if cidr.prefix() < 31 => {
                let host_bits = u32::MAX.checked_shr(u32::from(cidr.prefix())).unwrap_or(0);
                message.attribute(IFA_BROADCAST, &(u32::from(v4) | host_bits).to_be_bytes())
            }
            _ => message,
        }
    }

    /// Adds a route by a link.
    pub(crate) fn add_route(index: u32, route: &Route) -> Self {
        let (family, destination) = address_bytes(masked(route.destination));
        let scope = if route.gateway.is_none() && family == family_of(AddressFamily::INET) {
            RT_SCOPE_LINK
        } else {
            RT_SCOPE_UNIVERSE
        };
        let prefix = route.destination.prefix();
        // `struct rtmsg`.
        let mut body = vec![family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST];
        body.extend([0; 4]);
        let mut message = Self::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body)
            .attribute(RTA_OIF, &index.to_ne_bytes());
        if prefix > 0 {
            message = message.attribute(RTA_DST, &destination);
        }
        if let Some(gateway) = route.gateway {
            message = message.attribute(RTA_GATEWAY, &address_bytes(gateway).1);
        }
        message
    }
}

fn family_of(family: AddressFamily) -> u8 {
    u8::try_from(family.as_raw()).unwrap_or(0)
}

fn address_bytes(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (family_of(AddressFamily::INET), v4.octets().to_vec()),
        IpAddr::V6(v6) => (family_of(AddressFamily::INET6), v6.octets().to_vec()),
    }
}

/// Returns a network's own address: the kernel refuses routes with more bits.
fn masked(cidr: Cidr) -> IpAddr {
    match cidr.address() {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(u32::from(cidr.prefix())).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & !host).into())
        }
        IpAddr::V6(v6) => {
            let host = u128::MAX.checked_shr(u32::from(cidr.prefix())).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & !host).into())
        }
    }
}

/// A socket to the kernel.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?))
    }

    /// Sends a message, and waits until the kernel has done what it says.
    pub(crate) fn request(&self, message: Message) -> Result<(), Errno> {
        let bytes = message.finish();
        sendto(&self.0, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0; 8192];
        let (_, count) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        acknowledgement(answer.get(..count).unwrap_or_default())
    }
}

/// Reads the kernel's `NLMSG_ERROR`, which with a 0 is none.
fn acknowledgement(answer: &[u8]) -> Result<(), Errno> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER_BYTES..HEADER_BYTES + 4);
    let code = code.and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => {
            Err(code.checked_neg().map_or(Errno::PROTO, Errno::from_raw_os_error))
        }
        _ => Err(Errno::PROTO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_has_no_destination() {
        let route = Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: Some([10, 0, 0, 1].into()),
        };
        let bytes = Message::add_route(3, &route).finish();
        let expected = [
            44, 0, 0, 0, 24, 0, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0,
            8, 0, 4, 0, 3, 0, 0, 0, 8, 0, 5, 0, 10, 0, 0, 1,
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn networks_lose_their_host_bits() {
        for (cidr, network) in [
            ("172.29.3.4/16", "172.29.0.0"),
            ("10.0.0.9/0", "0.0.0.0"),
            ("10.0.0.9/32", "10.0.0.9"),
            ("fd00::1:2/64", "fd00::"),
            ("::1/128", "::1"),
        ] {
            assert_eq!(masked(cidr.parse().unwrap()).to_string(), network);
        }
    }

    #[test]
    fn attributes_are_padded() {
        let bytes = Message::rename_link(2, "eth0").finish();
        assert_eq!(bytes.len(), HEADER_BYTES + 16 + 12);
        assert_eq!(bytes[32..44], [9, 0, 3, 0, b'e', b't', b'h', b'0', 0, 0, 0, 0]);
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        assert_eq!(acknowledgement(&[]), Err(Errno::PROTO));
        let mut refusal = vec![36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        refusal.extend((-17_i32).to_ne_bytes());
        assert_eq!(acknowledgement(&refusal), Err(Errno::EXIST));
    }
}
