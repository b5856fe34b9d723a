//! Names of images, as Docker resolves them.

use std::fmt;
use std::str::FromStr;

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
        todo_text()
    }

    /// As Docker shows the whole: `nginx:latest`, `nginx@sha256:…`.
    #[must_use]
    pub fn familiar(&self) -> String {
        todo_text()
    }
}

fn todo_text() -> String {
    String::new()
}

/// The whole name: `docker.io/library/nginx:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Err(ReferenceError { text: text.to_owned(), problem: "not built yet" })
    }
}

impl Platform {
    /// This host's.
    #[must_use]
    pub fn host() -> Self {
        Self { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Err(format!("not built yet: {text}"))
    }
}
