//! `-p [[IP:][HOST-PORT]:]PORT[/PROTOCOL]`.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use runtime::{PortSpec, Protocol};

use super::Problem;

/// Reads a published port, or a range of them.
pub(crate) fn publish(text: &str) -> Result<Vec<PortSpec>, Problem> {
    let (text, protocol) = split_protocol(text)?;
    let (rest, container) = match text.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, text),
    };
    if container.is_empty() {
        return Err("no port specified: ".to_owned() + text);
    }
    let container =
        range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let (address, host) = match rest {
        None => (None, ""),
        Some(rest) => host_part(rest)?,
    };
    let host = match host {
        "" => None,
        ports => Some(range(ports).ok_or_else(|| format!("invalid hostPort: {ports}"))?),
    };
    pair(address, host, container, protocol)
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), Problem> {
    let Some((text, protocol)) = text.split_once('/') else { return Ok((text, Protocol::Tcp)) };
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok((text, Protocol::Tcp)),
        "udp" => Ok((text, Protocol::Udp)),
        "sctp" => Err("sctp can't be published: use tcp or udp".to_owned()),
        _ => Err(format!("invalid proto: {protocol}")),
    }
}

/// The address, if there's one, and the ports, which may be left out.
fn host_part(text: &str) -> Result<(Option<IpAddr>, &str), Problem> {
    let (address, ports) = match text.rsplit_once(':') {
        Some((address, ports)) if text.starts_with('[') == address.ends_with(']') => {
            (address, ports)
        }
        // `[::1]` without a port after it.
        Some(_) => return Err(format!("invalid IP address: {text}")),
        None => return Ok((None, text)),
    };
    let bare = match address.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|rest| rest.contains(':')),
        None => Some(address).filter(|address| !address.contains(':')),
    };
    match bare {
        Some("") => Ok((None, ports)),
        Some(bare) => match bare.parse() {
            Ok(address) => Ok((Some(address), ports)),
            Err(_) => Err(format!("invalid IP address: {bare}")),
        },
        None => Err(format!("invalid IP address: {address}")),
    }
}

/// Pairs the ports of two ranges.
fn pair(
    host_ip: Option<IpAddr>,
    host: Option<RangeInclusive<u16>>,
    container: RangeInclusive<u16>,
    protocol: Protocol,
) -> Result<Vec<PortSpec>, Problem> {
    let one = |host_port, container_port| PortSpec { container_port, protocol, host_ip, host_port };
    let Some(host) = host else {
        return Ok(container.map(|port| one(None, port)).collect());
    };
    if host.len() != container.len() {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {}-{} and {}-{}",
            container.start(),
            container.end(),
            host.start(),
            host.end()
        ));
    }
    Ok(host.zip(container).map(|(host, port)| one(Some(host), port)).collect())
}

/// Reads `PORT` or `FIRST-LAST`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0 && !text.starts_with('+'));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

/// Reads an exposed port, or a range of them.
pub(crate) fn exposed(
    text: &str,
) -> Result<impl Iterator<Item = (u16, Protocol)> + use<>, Problem> {
    let (ports, protocol) = split_protocol(text)?;
    let ports = range(ports).ok_or_else(|| format!("invalid range format for --expose: {text}"))?;
    Ok(ports.map(move |port| (port, protocol)))
}

/// Reads a container's port, as `vmctl port` takes it: `80` or `80/udp`.
pub(crate) fn container_port(text: &str) -> Result<(u16, Protocol), Problem> {
    let (port, protocol) = split_protocol(text)?;
    match range(port) {
        Some(range) if range.len() == 1 => Ok((*range.start(), protocol)),
        _ => Err(format!("invalid port: {port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(address: &str, host_port: Option<u16>, container_port: u16) -> PortSpec {
        let host_ip = address.parse().ok();
        PortSpec { container_port, protocol: Protocol::Tcp, host_ip, host_port }
    }

    #[test]
    fn ports_are_read_in_every_form() {
        for (text, expected) in [
            ("80", published("", None, 80)),
            ("8080:80", published("", Some(8080), 80)),
            ("8080:80/tcp", published("", Some(8080), 80)),
            ("127.0.0.1:8080:80", published("127.0.0.1", Some(8080), 80)),
            ("127.0.0.1::80", published("127.0.0.1", None, 80)),
            ("[::1]:8080:80", published("::1", Some(8080), 80)),
            ("[::]::80", published("::", None, 80)),
            (":80", published("", None, 80)),
        ] {
            assert_eq!(publish(text), Ok(vec![expected]), "{text}");
        }
        assert_eq!(publish("53:53/UDP").unwrap()[0].protocol, Protocol::Udp);
        let range = publish("8000-8001:80-81").unwrap();
        assert_eq!(range, [published("", Some(8000), 80), published("", Some(8001), 81)]);
        assert_eq!(publish("80-82").unwrap().len(), 3);
    }

    #[test]
    fn malformed_ports_are_refused() {
        for (text, problem) in [
            ("", "no port specified"),
            ("8080:", "no port specified"),
            ("x", "invalid containerPort: x"),
            ("0", "invalid containerPort: 0"),
            ("65536", "invalid containerPort: 65536"),
            ("+80", "invalid containerPort: +80"),
            ("82-80", "invalid containerPort: 82-80"),
            ("x:80", "invalid hostPort: x"),
            ("-1:80", "invalid hostPort: -1"),
            ("80:80/icmp", "invalid proto: icmp"),
            ("80:80/sctp", "sctp can't be published"),
            ("80:80/", "invalid proto: "),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("localhost:80:80", "invalid IP address: localhost"),
            ("::1:80:80", "invalid IP address: ::1"),
            ("[::1]:80", "invalid IP address: [::1]"),
            ("[::1:80:80", "invalid IP address"),
            ("8000-8009:80", "invalid ranges specified for container and host Ports"),
            ("8000-8001:80-82", "invalid ranges specified for container and host Ports"),
        ] {
            let found = publish(text).unwrap_err();
            assert!(found.starts_with(problem), "{text}: {found}");
        }
    }

    #[test]
    fn one_port_of_a_container_is_named_with_its_protocol() {
        assert_eq!(container_port("80"), Ok((80, Protocol::Tcp)));
        assert_eq!(container_port("53/udp"), Ok((53, Protocol::Udp)));
        assert!(container_port("80-81").is_err() && container_port("x").is_err());
    }
}
