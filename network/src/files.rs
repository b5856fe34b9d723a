//! `/etc/hosts` and `/etc/resolv.conf` of a container, as Docker writes them.

use std::fmt::Write as _;
use std::net::IpAddr;

/// Where a guest's agent answers DNS queries.
pub const GUEST_DNS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));

/// Docker's first lines.
const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// What `/etc/hosts` says beside the local names.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostsFile<'a> {
    /// The container's host name.
    pub hostname: &'a str,
    /// Its domain, if it has one.
    pub domainname: Option<&'a str>,
    /// Its own addresses.
    pub addresses: &'a [IpAddr],
    /// Further names and addresses (`--add-host`).
    pub extra: &'a [(String, IpAddr)],
}

/// Writes `/etc/hosts`.
#[must_use]
pub fn hosts(file: &HostsFile<'_>) -> String {
    let mut text = LOCAL_HOSTS.to_owned();
    for (name, address) in file.extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    let hostname = file.hostname;
    for address in file.addresses {
        let _ = match file.domainname {
            Some(domain) => writeln!(text, "{address}\t{hostname}.{domain} {hostname}"),
            None => writeln!(text, "{address}\t{hostname}"),
        };
    }
    text
}

/// What `/etc/resolv.conf` says.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResolvConf<'a> {
    /// Name servers, in order.
    pub servers: &'a [IpAddr],
    /// Search domains (`--dns-search`); `.` for none at all, the host's if it's empty.
    pub search: &'a [String],
    /// Options (`--dns-option`); the host's if it's empty.
    pub options: &'a [String],
}

/// Writes `/etc/resolv.conf`; `host` is the host's own, for what isn't said.
#[must_use]
pub fn resolv_conf(file: &ResolvConf<'_>, host: &str) -> String {
    let mut text = String::new();
    for server in file.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    let search = match file.search {
        [] => words(host, &["search", "domain"]),
        [dot] if dot == "." => Vec::new(),
        said => said.iter().map(String::as_str).collect(),
    };
    let options = match file.options {
        [] => words(host, &["options"]),
        said => said.iter().map(String::as_str).collect(),
    };
    for (keyword, words) in [("search", search), ("options", options)] {
        if !words.is_empty() {
            let _ = writeln!(text, "{keyword} {}", words.join(" "));
        }
    }
    text
}

/// The words of the last line that begins with one of the keywords: it's the one that counts.
fn words<'a>(resolv_conf: &'a str, keywords: &[&str]) -> Vec<&'a str> {
    let mut lines = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|first| keywords.contains(first)).map(|_| words.collect())
    });
    lines.next_back().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_local_names_extra_ones_and_its_own() {
        let addresses = ["172.29.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let extra = [("db".to_owned(), "10.0.0.9".parse().unwrap())];
        let mut file =
            HostsFile { hostname: "web", domainname: None, addresses: &addresses, extra: &extra };
        let text = hosts(&file);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "));
        assert!(text.ends_with("10.0.0.9\tdb\n172.29.0.2\tweb\nfd00::2\tweb\n"), "{text}");
        file.domainname = Some("example.org");
        assert!(hosts(&file).contains("172.29.0.2\tweb.example.org web\n"));
    }

    #[test]
    fn resolv_conf_takes_from_the_host_what_isnt_said() {
        let host =
            "nameserver 192.0.2.1\nsearch old\nsearch a.example b.example\noptions ndots:2\n";
        let mut file = ResolvConf { servers: &[GUEST_DNS], ..ResolvConf::default() };
        let text = "nameserver 127.0.0.11\nsearch a.example b.example\noptions ndots:2\n";
        assert_eq!(resolv_conf(&file, host), text);
        let (search, options) = ([".".to_owned()], ["edns0".to_owned()]);
        (file.search, file.options) = (&search, &options);
        assert_eq!(resolv_conf(&file, host), "nameserver 127.0.0.11\noptions edns0\n");
    }
}
