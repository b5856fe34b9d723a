//! Ports as `ps` shows them.

use std::net::IpAddr;

use runtime::PublishedPort;

/// Ports in a row that are published in the same way.
#[derive(Debug)]
struct Range {
    first: PublishedPort,
    length: u16,
}

/// `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp`; ports in a row as a range.
pub(super) fn in_words(ports: &[PublishedPort]) -> String {
    let mut sorted: Vec<_> = ports.iter().collect();
    // Each address's own ports together, in their order.
    sorted.sort_by_key(|port| {
        let host = port.host;
        (port.protocol, host.map(|(address, _)| address), port.container_port, host)
    });
    let mut ranges: Vec<Range> = Vec::new();
    for port in sorted {
        match ranges.last_mut().filter(|range| range.goes_on_with(port)) {
            Some(range) => range.length += 1,
            None => ranges.push(Range { first: port.clone(), length: 1 }),
        }
    }
    ranges.sort_by_key(|range| (range.first.container_port, range.first.clone()));
    ranges.iter().map(Range::in_words).collect::<Vec<_>>().join(", ")
}

impl Range {
    fn goes_on_with(&self, port: &PublishedPort) -> bool {
        let next = |first: u16| first.checked_add(self.length);
        port.protocol == self.first.protocol
            && next(self.first.container_port) == Some(port.container_port)
            && match (self.first.host, port.host) {
                (None, None) => true,
                (Some((address, first)), Some((other, number))) => {
                    address == other && next(first) == Some(number)
                }
                _ => false,
            }
    }

    fn in_words(&self) -> String {
        let span = |first: u16| match self.length {
            1 => first.to_string(),
            length => format!("{first}-{}", first.saturating_add(length - 1)),
        };
        let container = format!("{}/{}", span(self.first.container_port), self.first.protocol);
        match self.first.host {
            None => container,
            Some((IpAddr::V4(address), port)) => format!("{address}:{}->{container}", span(port)),
            Some((IpAddr::V6(address), port)) => format!("[{address}]:{}->{container}", span(port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::Protocol;

    use super::*;

    fn port(container_port: u16, host: Option<(&str, u16)>) -> PublishedPort {
        let host = host.map(|(address, port)| (address.parse().unwrap(), port));
        PublishedPort { container_port, protocol: Protocol::Tcp, host }
    }

    #[test]
    fn ports_are_written_as_docker_writes_them() {
        let ports =
            [port(443, None), port(80, Some(("0.0.0.0", 8080))), port(80, Some(("::", 8080)))];
        assert_eq!(in_words(&ports), "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp");
        assert_eq!(in_words(&[]), "");
    }

    #[test]
    fn ports_in_a_row_are_a_range() {
        let ports = [
            port(81, Some(("0.0.0.0", 8081))),
            port(80, Some(("0.0.0.0", 8080))),
            port(82, Some(("0.0.0.0", 9000))),
            port(90, None),
            port(91, None),
            port(93, None),
            port(65535, None),
        ];
        assert_eq!(
            in_words(&ports),
            "0.0.0.0:8080-8081->80-81/tcp, 0.0.0.0:9000->82/tcp, 90-91/tcp, 93/tcp, 65535/tcp"
        );
        let udp = PublishedPort { protocol: Protocol::Udp, ..port(91, None) };
        assert_eq!(in_words(&[port(90, None), udp]), "90/tcp, 91/udp");
    }
}
