//! Names of containers, hosts, networks; addresses for names.

use std::net::IpAddr;

use runtime::ExtraHost;

use super::Problem;

/// The longest name of a host that Linux takes, in bytes.
const MAX_HOSTNAME_BYTES: usize = 64;

/// Reads a name for a container, a volume or a network.
pub(crate) fn name(text: &str) -> Result<String, Problem> {
    // As Docker's own tools print names.
    let name = text.strip_prefix('/').unwrap_or(text);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && name.len() >= 2 && name.bytes().all(is_allowed) {
        Ok(name.to_owned())
    } else {
        Err(format!("invalid name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-]+ are allowed"))
    }
}

/// Reads a host's name.
pub(crate) fn hostname(text: &str) -> Result<String, Problem> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_label =
        |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    if text.len() > MAX_HOSTNAME_BYTES {
        return Err(format!("longer than {MAX_HOSTNAME_BYTES} bytes"));
    }
    if text.bytes().all(is_allowed) && text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid hostname format: {text:?}"))
    }
}

/// Reads `name:address` or `name=address`; `host-gateway` is the host's address.
pub(crate) fn extra_host(text: &str) -> Result<ExtraHost, Problem> {
    let malformed = || format!("bad format for add-host: {text:?}");
    let at = text.find(['=', ':']).ok_or_else(malformed)?;
    let (name, address) = (&text[..at], &text[at + 1..]);
    let name = hostname(name).map_err(|_| malformed())?;
    if address == "host-gateway" {
        return Ok(ExtraHost { name, address: None });
    }
    let bare = address.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(address);
    match bare.parse() {
        Ok(address) => Ok(ExtraHost { name, address: Some(address) }),
        Err(_) => Err(format!("invalid IP address in add-host: {address:?}")),
    }
}

/// Reads the address of a DNS server.
pub(crate) fn dns_server(text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| format!("{text} is not an ip address"))
}

/// Reads the name of a network.
pub(crate) fn network(text: &str) -> Result<String, Problem> {
    match text {
        "host" => {
            Err("a virtual machine can't be in the host's network; -p publishes its ports".into())
        }
        "default" => Ok("bridge".to_owned()),
        _ if text.starts_with("container:") => Err(
            "a virtual machine can't share another's network; --network NAME lets both reach each \
             other by name"
                .into(),
        ),
        _ => name(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dockers() {
        for text in ["web", "/web", "a1", "0_.-", "A.b"] {
            assert!(name(text).is_ok(), "{text}");
        }
        for text in ["", "a", "-web", ".web", "a b", "a/b", "//web", "wéb", "../x", "a\n"] {
            assert!(name(text).unwrap_err().starts_with("invalid name ("), "{text}");
        }
    }

    #[test]
    fn hostnames_can_do_nothing_to_the_files_that_they_are_written_into() {
        for text in ["nginx", "a.b-c", "x1"] {
            assert!(hostname(text).is_ok(), "{text}");
        }
        for text in ["", "a b", "a\nb", "-a", "a-", "a..b", ".", "ä", "a#b"] {
            assert!(hostname(text).is_err(), "{text:?}");
        }
        assert!(hostname(&"x".repeat(64)).is_ok() && hostname(&"x".repeat(65)).is_err());
    }

    #[test]
    fn extra_hosts_have_a_name_and_an_address() {
        let host =
            |address: &str| Ok(ExtraHost { name: "db".to_owned(), address: address.parse().ok() });
        assert_eq!(extra_host("db:10.0.0.1"), host("10.0.0.1"));
        assert_eq!(extra_host("db=10.0.0.1"), host("10.0.0.1"));
        assert_eq!(extra_host("db:::1"), host("::1"));
        assert_eq!(extra_host("db=[::1]"), host("::1"));
        assert_eq!(extra_host("db:host-gateway"), host(""));
        for (text, problem) in [
            ("db", "bad format for add-host: \"db\""),
            (":1.2.3.4", "bad format for add-host"),
            ("a b:1.2.3.4", "bad format for add-host"),
            ("db:", "invalid IP address in add-host: \"\""),
            ("db:localhost", "invalid IP address in add-host"),
            ("db:1.2.3.256", "invalid IP address in add-host"),
        ] {
            assert!(extra_host(text).unwrap_err().starts_with(problem), "{text}");
        }
    }

    #[test]
    fn networks_that_need_a_shared_kernel_are_refused() {
        assert_eq!(network("none").as_deref(), Ok("none"));
        assert_eq!(network("default").as_deref(), Ok("bridge"));
        assert!(network("host").unwrap_err().contains("-p publishes"));
        assert!(network("container:web").unwrap_err().contains("can't share"));
        assert!(network("a/b").is_err());
        assert!(dns_server("1.1.1.1").is_ok() && dns_server("one").is_err());
    }
}
