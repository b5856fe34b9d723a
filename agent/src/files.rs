//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, as Docker makes them.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use agent_proto::{Configuration, Dns};

use crate::fault::{Context, Result};
use crate::paths::FILES;

/// Where the agent answers DNS queries in the guest: Docker's address.
pub(crate) const RELAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The files, by their names in `/etc`.
pub(crate) const NAMES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// Writes the files. Those that are mounted in the container already change in place.
pub(crate) fn write(configuration: &Configuration) -> Result<()> {
    let hostname = format!("{}\n", configuration.hostname);
    let content = [hostname, hosts(configuration), resolv_conf(&configuration.dns)];
    for (name, content) in NAMES.into_iter().zip(content) {
        fs::write(Path::new(FILES).join(name), content).internal("cannot write a file of /etc")?;
    }
    Ok(())
}

fn hosts(configuration: &Configuration) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for entry in &configuration.hosts {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}\t{}", entry.address, entry.names.join(" "));
    }
    let hostname = &configuration.hostname;
    let names = match &configuration.domainname {
        Some(domain) if !domain.is_empty() => format!("{hostname}.{domain} {hostname}"),
        _ => hostname.clone(),
    };
    if !hostname.is_empty() {
        for address in configuration.interfaces.iter().flat_map(|interface| &interface.addresses) {
            let _ = writeln!(text, "{}\t{names}", address.address());
        }
    }
    text
}

fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    let relay = [IpAddr::V4(RELAY_ADDRESS)];
    let servers = if dns.servers.is_empty() && dns.relay { &relay[..] } else { &dns.servers };
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.search.is_empty() {
        let _ = writeln!(text, "search {}", dns.search.join(" "));
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_proto::{HostEntry, Interface};

    #[test]
    fn hosts_has_the_loopback_the_extra_ones_and_the_container() {
        let configuration = Configuration {
            hostname: "web".into(),
            domainname: Some("example".into()),
            hosts: vec![HostEntry {
                address: "10.0.0.1".parse().unwrap(),
                names: vec!["db".into(), "db.example".into()],
            }],
            interfaces: vec![Interface {
                mac: String::new(),
                name: "eth0".into(),
                addresses: vec!["172.29.0.2/16".parse().unwrap(), "fd00::2/64".parse().unwrap()],
                routes: Vec::new(),
                mtu: None,
            }],
            ..Configuration::default()
        };
        let hosts = hosts(&configuration);
        assert!(hosts.starts_with("127.0.0.1\tlocalhost\n::1\t"), "{hosts}");
        assert!(hosts.ends_with(
            "10.0.0.1\tdb db.example\n172.29.0.2\tweb.example web\nfd00::2\tweb.example web\n"
        ));
    }

    #[test]
    fn the_relay_is_the_name_server_when_no_other_is_named() {
        let mut dns = Dns { relay: true, search: vec!["a".into(), "b".into()], ..Dns::default() };
        assert_eq!(resolv_conf(&dns), "nameserver 127.0.0.11\nsearch a b\n");
        dns.servers = vec!["9.9.9.9".parse().unwrap()];
        dns.options = vec!["ndots:0".into()];
        assert_eq!(resolv_conf(&dns), "nameserver 9.9.9.9\nsearch a b\noptions ndots:0\n");
        assert_eq!(resolv_conf(&Dns::default()), "");
    }
}
