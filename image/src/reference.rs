//! Names of images, as Docker resolves them.

use std::fmt;
use std::str::FromStr;

use crate::digest;

/// What stands for Docker Hub in names.
pub(crate) const DOCKER_HUB: &str = "docker.io";
/// Docker's bound on a repository's name, in bytes.
const MAX_NAME: usize = 255;
/// The specification's bound on a tag, in bytes.
const MAX_TAG: usize = 128;

/// A name of an image, with its defaults filled in: `nginx` is `docker.io/library/nginx:latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is no name of an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: {text:?}: {problem}")]
pub struct ReferenceError {
    /// What was given.
    pub text: String,
    /// What's wrong with it; for capitals, that the repository must be lowercase.
    pub problem: &'static str,
}

/// What an image is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// Go's name: `amd64`, `arm64`.
    pub architecture: String,
    /// As `v7`.
    pub variant: Option<String>,
}

impl Reference {
    /// `docker.io` and the like, with the port.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none if there's a digest and no tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// `sha256:…`.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// As Docker shows the repository: `nginx`, `user/app`, `host:5000/app`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.registry != DOCKER_HUB {
            return format!("{}/{}", self.registry, self.repository);
        }
        match self.repository.strip_prefix("library/") {
            Some(name) if !name.contains('/') => name.to_owned(),
            // What would be read as a registry.
            _ if names_registry(&self.repository) => format!("{DOCKER_HUB}/{}", self.repository),
            _ => self.repository.clone(),
        }
    }

    /// As Docker shows the whole: `nginx:latest`, `nginx@sha256:…`.
    #[must_use]
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), Suffix(self))
    }

    /// The same repository's image of this digest.
    pub(crate) fn with_digest(&self, digest: &str) -> Self {
        Self { tag: None, digest: Some(digest.to_owned()), ..self.clone() }
    }

    /// What's in the database, where parsed names only are put.
    pub(crate) fn from_parts(
        registry: String,
        repository: String,
        tag: Option<String>,
        digest: Option<String>,
    ) -> Self {
        Self { registry, repository, tag, digest }
    }
}

/// The tag and the digest of a name.
struct Suffix<'a>(&'a Reference);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = &self.0.tag {
            write!(f, ":{tag}")?;
        }
        self.0.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// The whole name: `docker.io/library/nginx:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, Suffix(self))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError { text: text.to_owned(), problem })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
        None => (text, None),
    };
    // A colon before the last slash is a port's.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(check_tag(tag)?)),
        _ => (rest, None),
    };
    if name.is_empty() {
        return Err("there is no name");
    }
    if digest::is_hex(name) {
        return Err("64 hexadecimal digits are an image's identifier, not its name");
    }
    let (registry, repository) = match name.split_once('/') {
        Some((registry, repository)) if names_registry(name) => (registry, repository),
        _ => (DOCKER_HUB, name),
    };
    check_registry(registry)?;
    let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
    let repository = match registry {
        DOCKER_HUB if !repository.contains('/') => format!("library/{repository}"),
        _ => repository.to_owned(),
    };
    check_repository(&repository)?;
    let latest = if digest.is_none() { Some("latest") } else { None };
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        tag: tag.or(latest).map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

/// Whether what's before the first slash is a registry: it looks like a host, or can't be a
/// repository.
fn names_registry(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| {
        first == "localhost"
            || first.contains(['.', ':'])
            || first.contains(|c: char| c.is_ascii_uppercase())
    })
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if port.is_some_and(|port| {
        !port.bytes().all(|c| c.is_ascii_digit()) || port.parse::<u16>().is_err()
    }) {
        return Err("the registry's port is no number from 0 to 65535");
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
        return if is_address { Ok(()) } else { Err("the registry is no IPv6 address") };
    }
    let is_label = |label: &str| {
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        label.bytes().all(inner)
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.split('.').all(is_label) { Ok(()) } else { Err("the registry is no host name") }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.len() > MAX_NAME {
        return Err("the repository's name has more than 255 bytes");
    }
    if repository.contains(|c: char| c.is_ascii_uppercase()) {
        return Err("the repository's name must be lowercase");
    }
    if repository.split('/').all(is_component) {
        Ok(())
    } else {
        Err("the repository's name must be of letters and digits, separated by one of . _ __ - /")
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(component: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut separators = component.split(is_plain);
    // Before the first letter and after the last there's nothing.
    let is_bounded = component.starts_with(is_plain) && component.ends_with(is_plain);
    is_bounded
        && separators.all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|c| c == b'-')
        })
}

fn check_tag(tag: &str) -> Result<&str, &'static str> {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let is_inner = |c: u8| is_word(c) || matches!(c, b'.' | b'-');
    let is_tag = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(is_inner);
    if is_tag {
        Ok(tag)
    } else {
        Err(
            "a tag has at most 128 letters, digits, and _ . -, and begins with none of the last two",
        )
    }
}

fn check_digest(text: &str) -> Result<&str, &'static str> {
    if digest::is_digest(text) {
        Ok(text)
    } else {
        Err("a digest is sha256: and 64 digits of 0-9a-f")
    }
}

impl Platform {
    /// This host's.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// `linux/arm/v7`, `linux/amd64`, or an architecture alone, by Go's names or the kernel's.
impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no platform: OS/ARCHITECTURE[/VARIANT] is, as linux/amd64");
        let is_word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.'))
        };
        let lower = text.to_ascii_lowercase();
        let parts: Vec<_> = lower.split('/').collect();
        if !parts.iter().all(is_word) {
            return Err(wrong());
        }
        let (os, architecture, variant) = match parts[..] {
            ["linux"] => return Ok(Self::host()),
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(wrong()),
        };
        let (architecture, implied) = match architecture {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            "i386" | "i686" => ("386", None),
            other => (other, None),
        };
        // What every processor of that kind is.
        let variant = variant.filter(|variant| (architecture, *variant) != ("arm64", "v8"));
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.or(implied).map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests;
