//! Network interfaces.

use std::fs;
use std::path::Path;

use agent_proto::Interface;

use crate::fault::{AgentError, Context, ErrorKind, Result, fault};
use crate::netlink::{Message, Netlink};

/// The longest name of an interface (`IFNAMSIZ` less the zero).
const MAX_NAME_BYTES: usize = 15;

/// Configures the loopback and these interfaces. Addresses and routes that exist already stay.
pub(crate) fn configure(interfaces: &[Interface]) -> Result<()> {
    let netlink = Netlink::open().context(ErrorKind::Network, || "cannot open netlink".into())?;
    let loopback = index_of("lo")?;
    netlink
        .request(Message::set_link(loopback, true))
        .context(ErrorKind::Network, || "cannot bring the loopback up".into())?;
    interfaces.iter().try_for_each(|interface| configure_one(&netlink, interface))
}

fn configure_one(netlink: &Netlink, interface: &Interface) -> Result<()> {
    let name = checked_name(&interface.name)?;
    let request = |message, what: String| {
        netlink.request(message).context(ErrorKind::Network, || format!("{name}: cannot {what}"))
    };
    let found = match by_mac(Path::new("/sys/class/net"), &interface.mac) {
        // Out of a snapshot, a driver knows its device by another machine's address still.
        Err(error) => {
            let index = index_of(name).map_err(|_| error)?;
            let address = hardware_address(&interface.mac)?;
            request(Message::set_hardware_address(index, address), "set its address".into())?;
            name.to_owned()
        }
        Ok(found) => found,
    };
    let index = index_of(&found)?;
    if found != name {
        request(Message::set_link(index, false), "bring it down".into())?;
        request(Message::rename_link(index, name), format!("rename {found}"))?;
    }
    if let Some(mtu) = interface.mtu {
        request(Message::set_mtu(index, mtu), format!("set the MTU {mtu}"))?;
    }
    // Addresses and routes are the host's to say, nobody else's.
    for (parameter, value) in [("accept_ra", "0"), ("autoconf", "0")] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{parameter}"), value);
    }
    request(Message::set_link(index, true), "bring it up".into())?;
    for address in &interface.addresses {
        request(Message::add_address(index, *address), format!("add the address {address}"))?;
    }
    for route in &interface.routes {
        let what = format!("add the route to {}", route.destination);
        request(Message::add_route(index, route), what)?;
    }
    Ok(())
}

fn checked_name(name: &str) -> Result<&str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let plain = !name.is_empty() && name != "." && name != "..";
    if plain && name.len() <= MAX_NAME_BYTES && name.bytes().all(allowed) {
        return Ok(name);
    }
    fault(ErrorKind::Invalid, format!("{name:?} is no interface's name"))
}

fn by_mac(interfaces: &Path, mac: &str) -> Result<String> {
    let has = |name: &String| {
        let address = fs::read_to_string(interfaces.join(name).join("address"));
        address.is_ok_and(|address| address.trim().eq_ignore_ascii_case(mac))
    };
    let entries = fs::read_dir(interfaces).internal("cannot list the network interfaces")?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let missing =
        || AgentError::new(ErrorKind::Network, format!("no interface has the address {mac}"));
    names.into_iter().find(has).ok_or_else(missing)
}

/// Reads `02:fc:00:00:00:0a`.
fn hardware_address(mac: &str) -> Result<[u8; 6]> {
    let bytes: Option<Vec<u8>> = mac
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2))
        .collect();
    match bytes.and_then(|bytes| bytes.try_into().ok()) {
        Some(address) => Ok(address),
        None => fault(ErrorKind::Invalid, format!("{mac:?} is no hardware address")),
    }
}

fn index_of(name: &str) -> Result<u32> {
    let what = || format!("cannot find the interface {name}");
    let text = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
        .context(ErrorKind::Network, what)?;
    text.trim().parse().context(ErrorKind::Network, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_found_by_their_hardware_addresses() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mac) in [("lo", "00:00:00:00:00:00\n"), ("eth5", "02:fc:00:00:00:0a\n")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("address"), mac).unwrap();
        }
        assert_eq!(by_mac(dir.path(), "02:FC:00:00:00:0A").unwrap(), "eth5");
        assert!(by_mac(dir.path(), "02:fc:00:00:00:0b").is_err());
    }

    #[test]
    fn hardware_addresses_are_six_bytes() {
        assert_eq!(hardware_address("02:fc:00:00:00:0A").unwrap(), [2, 0xfc, 0, 0, 0, 10]);
        for mac in ["", "02", "02:fc:00:00:00", "02:fc:00:00:00:0a:00", "2:fc:0:0:0:a", "x"] {
            assert!(hardware_address(mac).is_err(), "{mac:?}");
        }
    }

    #[test]
    fn names_of_interfaces_are_plain() {
        assert!(checked_name("eth0").is_ok());
        for name in ["", "..", "a/b", "sixteen-letters-", "eth 0"] {
            assert!(checked_name(name).is_err(), "{name:?}");
        }
    }
}
