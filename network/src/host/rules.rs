//! Packet rules, all in one table that's derived from the records.
//!
//! They're written in nftables' own language and handed to `nft`, which replaces the table in one
//! transaction: no packet sees half of them. Nothing in them is text of a user's: addresses, ports,
//! and interfaces' names of our own making.
//!
//! A published port is translated for everyone but the host's own loopback addresses, which can't
//! leave the host ([`crate::HostPorts`] serves those).

use std::fmt;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::record::{Endpoint, Network, PublishedPort};
use crate::{NetworkError, program};

/// Replaces the table `name` by what the networks and their containers need.
pub(crate) fn apply(name: &str, places: &[(Network, Vec<Endpoint>)]) -> Result<(), NetworkError> {
    load(&Script { name, places }.to_string())
}

/// Removes the table `name`, if there is one.
pub(crate) fn remove(name: &str) -> Result<(), NetworkError> {
    load(&format!("table inet {name} {{}}\ndelete table inet {name}\n"))
}

/// Hands a script to `nft`, which does all of it or nothing.
fn load(script: &str) -> Result<(), NetworkError> {
    let Some(program) = program::find("nft") else {
        return Err(NetworkError::MissingProgram { program: "nft", package: "nftables" });
    };
    let spawned = Command::new(program)
        .args(["-f", "-"])
        // A terminal's Ctrl-C is for this program, which may just be taking things back by this one.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let failed = |error| NetworkError::host("set packet rules", error);
    let mut child = spawned.map_err(failed)?;
    // It says why it ended on its standard error: not taking all of its input is no news.
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(script.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("nft failed").to_owned();
        return Err(failed(io::Error::other(said)));
    }
    written.map_err(failed)
}

/// The table as nftables reads it.
struct Script<'a> {
    name: &'a str,
    places: &'a [(Network, Vec<Endpoint>)],
}

impl fmt::Display for Script<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        // Deleting needs one that's there.
        writeln!(f, "table inet {name} {{}}\ndelete table inet {name}\ntable inet {name} {{")?;
        self.sets(f)?;
        self.forward(f)?;
        self.publish(f)?;
        self.masquerade(f)?;
        f.write_str("}\n")
    }
}

impl Script<'_> {
    fn sets(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bridges = |is_meant: fn(&Network) -> bool| {
            let names = self.places.iter().map(|(network, _)| network);
            let names = names.filter(|network| is_meant(network));
            names.map(|network| format!("{:?}", network.bridge)).collect::<Vec<_>>().join(", ")
        };
        for (name, elements) in
            [("bridges", bridges(|_| true)), ("internal", bridges(|network| network.internal))]
        {
            write!(f, "set {name} {{ type ifname; ")?;
            if !elements.is_empty() {
                write!(f, "elements = {{ {elements} }}; ")?;
            }
            f.write_str("}\n")?;
        }
        Ok(())
    }

    /// Who may send to whom: within a network, out of one that isn't internal, and into one at
    /// published ports only.
    fn forward(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "chain forward {\n\
             type filter hook forward priority filter; policy accept;\n\
             iifname != @bridges oifname != @bridges accept\n\
             ct state established,related accept\n\
             ct state invalid drop\n",
        )?;
        for (network, _) in self.places {
            let bridge = &network.bridge;
            writeln!(f, "iifname {bridge:?} oifname {bridge:?} accept")?;
        }
        f.write_str(
            "iifname @internal drop\n\
             oifname @internal drop\n\
             ct status dnat accept\n\
             oifname @bridges drop\n\
             }\n",
        )
    }

    fn publish(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("chain published {\n")?;
        for (_, endpoints) in self.places.iter().filter(|(network, _)| !network.internal) {
            for endpoint in endpoints {
                for port in &endpoint.ports {
                    publish_port(f, endpoint, port)?;
                }
            }
        }
        f.write_str(
            "}\n\
             chain prerouting {\n\
             type nat hook prerouting priority dstnat; policy accept;\n\
             fib daddr type local jump published\n\
             }\n\
             chain output {\n\
             type nat hook output priority -100; policy accept;\n\
             ip daddr != 127.0.0.0/8 fib daddr type local jump published\n\
             ip6 daddr != ::1 fib daddr type local jump published\n\
             }\n",
        )
    }

    /// Containers' addresses are nobody else's business. The last rule is for a container that
    /// reaches another one of its network by the host's port: the answer has to come back the same
    /// way.
    fn masquerade(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "chain postrouting {\n\
             type nat hook postrouting priority srcnat; policy accept;\n",
        )?;
        for (network, _) in self.places.iter().filter(|(network, _)| !network.internal) {
            let Network { bridge, subnet4, subnet6, .. } = network;
            for (family, subnet) in [("ip", subnet4 as &dyn fmt::Display), ("ip6", subnet6)] {
                writeln!(f, "{family} saddr {subnet} oifname != {bridge:?} masquerade")?;
                writeln!(
                    f,
                    "{family} saddr {subnet} {family} daddr {subnet} ct status dnat masquerade"
                )?;
            }
        }
        f.write_str("}\n")
    }
}

/// Translates a port of the host's to a container's, for everyone but that container: where
/// `br_netfilter` is loaded, a bridge wouldn't send its packets back to where they came from. They
/// go to [`crate::HostPorts`], too.
fn publish_port(
    f: &mut fmt::Formatter<'_>,
    endpoint: &Endpoint,
    port: &PublishedPort,
) -> fmt::Result {
    let PublishedPort { host_ip, host_port, container_port, protocol } = *port;
    let Endpoint { ipv4, ipv6, .. } = endpoint;
    for (family, own, target) in [
        ("ip", IpAddr::V4(*ipv4), format!("{ipv4}:{container_port}")),
        ("ip6", IpAddr::V6(*ipv6), format!("[{ipv6}]:{container_port}")),
    ] {
        let at = match host_ip {
            None => String::new(),
            Some(ip) if ip.is_ipv4() != own.is_ipv4() || ip.is_loopback() => continue,
            Some(ip) if ip.is_unspecified() => String::new(),
            Some(ip) => format!("{family} daddr {ip} "),
        };
        writeln!(
            f,
            "{family} saddr != {own} {at}{protocol} dport {host_port} dnat {family} to {target}"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
