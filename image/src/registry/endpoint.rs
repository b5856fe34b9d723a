//! Where a registry is.

use std::net::{IpAddr, Ipv6Addr};

use crate::reference::DOCKER_HUB;
use crate::{ImageError, Platform};

/// Stands in for Docker Hub if it's set: `http://HOST:PORT`.
const MIRROR: &str = "VMCTL_REGISTRY_MIRROR";

/// Where a registry is, and how it may be spoken with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Its host and port, for messages.
    pub(crate) shown: String,
    /// Addresses to try, the safest first, without a slash at the end.
    pub(crate) candidates: Vec<String>,
    /// The name that its credentials are kept under.
    pub(crate) credentials: String,
    /// Whether certificates aren't checked.
    pub(crate) unverified: bool,
    /// Whether it's this host, to which no proxy leads.
    pub(crate) is_loopback: bool,
}

impl Endpoint {
    /// That of a name's registry.
    pub(crate) fn of(registry: &str, insecure: bool) -> Result<Self, ImageError> {
        let mirror = std::env::var(MIRROR).ok().filter(|it| !it.is_empty());
        Self::with_mirror(registry, insecure, mirror.as_deref())
    }

    fn with_mirror(
        registry: &str,
        insecure: bool,
        mirror: Option<&str>,
    ) -> Result<Self, ImageError> {
        match mirror {
            Some(mirror) if registry == DOCKER_HUB => Self::mirror(mirror),
            _ => Ok(Self::direct(registry, insecure)),
        }
    }

    fn direct(registry: &str, insecure: bool) -> Self {
        let host = if registry == DOCKER_HUB { "registry-1.docker.io" } else { registry };
        let is_loopback = is_loopback(host);
        let (plain, tls) = (format!("http://{host}"), format!("https://{host}"));
        let candidates = match (is_loopback, insecure) {
            // Nobody listens in on this host; most registries on it are plain.
            (true, _) => vec![plain, tls],
            (false, true) => vec![tls, plain],
            (false, false) => vec![tls],
        };
        let credentials = registry.to_owned();
        Self { shown: host.to_owned(), candidates, credentials, unverified: insecure, is_loopback }
    }

    fn mirror(mirror: &str) -> Result<Self, ImageError> {
        let mirror = mirror.trim_end_matches('/');
        let host = mirror.strip_prefix("http://").or_else(|| mirror.strip_prefix("https://"));
        let is_host = |host: &&str| !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
        let Some(host) = host.filter(is_host) else {
            let message = format!("{MIRROR} is {mirror:?}: http://HOST:PORT is expected");
            return Err(ImageError::Request { message });
        };
        Ok(Self {
            shown: host.to_owned(),
            candidates: vec![mirror.to_owned()],
            // Never Docker Hub's own.
            credentials: host.to_owned(),
            unverified: false,
            is_loopback: is_loopback(host),
        })
    }
}

/// Whether a host, with or without a port, is this one.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_address = name.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
        || name.parse::<Ipv6Addr>().is_ok_and(|it| it.is_loopback());
    name == "localhost" || name.ends_with(".localhost") || is_address
}

/// What's said of the program in requests.
pub(crate) fn user_agent() -> String {
    format!("vmctl/{} ({})", env!("CARGO_PKG_VERSION"), Platform::host())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(registry: &str, insecure: bool) -> Vec<String> {
        Endpoint::with_mirror(registry, insecure, None).unwrap().candidates
    }

    #[test]
    fn plain_http_is_for_this_host_and_where_it_is_allowed() {
        assert_eq!(candidates("quay.io", false), ["https://quay.io"]);
        assert_eq!(
            candidates("quay.io:5000", true),
            ["https://quay.io:5000", "http://quay.io:5000"]
        );
        assert_eq!(candidates("docker.io", false), ["https://registry-1.docker.io"]);
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert_eq!(
                candidates(host, false),
                [format!("http://{host}"), format!("https://{host}")]
            );
        }
        for host in
            ["localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1:5000", "[fe80::1]"]
        {
            assert_eq!(candidates(host, false), [format!("https://{host}")]);
        }
    }

    #[test]
    fn mirror_stands_in_for_docker_hub_alone_and_never_gets_its_credentials() {
        let hub = Endpoint::with_mirror("docker.io", false, Some("http://10.0.0.1:5000/")).unwrap();
        assert_eq!(hub.candidates, ["http://10.0.0.1:5000"]);
        assert_eq!((&*hub.shown, &*hub.credentials), ("10.0.0.1:5000", "10.0.0.1:5000"));
        let other = Endpoint::with_mirror("quay.io", false, Some("http://10.0.0.1:5000")).unwrap();
        assert_eq!(other.candidates, ["https://quay.io"]);
        for mirror in
            ["10.0.0.1:5000", "ftp://x", "http://", "http://a/b", "http://u@h", "http://a b"]
        {
            let error = Endpoint::with_mirror("docker.io", false, Some(mirror)).unwrap_err();
            assert!(error.to_string().contains("VMCTL_REGISTRY_MIRROR"), "{error}");
        }
    }
}
