//! What can be said to the store's methods, and what they answer.

use std::fs::File;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Platform, Reference};

/// An image in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The digest of its configuration: `sha256:` and 64 digits.
    pub id: String,
    /// The digest of its manifest, by which the store has it.
    pub manifest_digest: String,
    /// Its configuration.
    pub config: ImageConfig,
    /// The configuration's bytes, as they're hashed.
    pub raw_config: Vec<u8>,
    /// Names with tags.
    pub tags: Vec<Reference>,
    /// Names with digests: where it was pulled from or pushed to.
    pub digests: Vec<Reference>,
    /// Bytes of its layers, uncompressed: Docker's size.
    pub size_bytes: u64,
    /// Bytes of each layer, uncompressed, bottom first: what `history` shows.
    pub layer_bytes: Vec<u64>,
    /// Bytes of its layers as they're on the wire.
    pub compressed_bytes: u64,
    /// When it was created, by its own account.
    pub created: Option<SystemTime>,
}

/// Reads what Go's programs write for an empty list or text: nothing, or `null`.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An image's configuration (OCI image-spec 1.1, `config.md`) with Docker's additions. Fields that
/// aren't known are kept in [`Image::raw_config`] only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Go's name: `amd64`.
    #[serde(deserialize_with = "null_is_default")]
    pub architecture: String,
    /// `linux`.
    #[serde(deserialize_with = "null_is_default")]
    pub os: String,
    /// As `v7`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What a container of it is to be: the `config` object, by Docker's names (`Env`, `Cmd`,
    /// `Entrypoint`, `WorkingDir`, `User`, `ExposedPorts`, `Volumes`, `Labels`, `StopSignal`,
    /// `Healthcheck`, `Shell`). Of whatever types a registry has sent: read with care.
    pub config: serde_json::Value,
    /// The layers' digests, uncompressed, bottom first: `diff_ids`.
    #[serde(deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
    /// How it was made, oldest first.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
}

/// The layers of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type", deserialize_with = "null_is_default")]
    pub kind: String,
    /// Digests of the uncompressed archives, bottom first.
    #[serde(deserialize_with = "null_is_default")]
    pub diff_ids: Vec<String>,
}

/// A step of an image's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether it made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// The files that make an image's root file system: concatenated, each padded to 4096 bytes, they
/// are one read-only EROFS disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFiles {
    /// The merged metadata, then the layers' blobs.
    pub files: Vec<PathBuf>,
    /// What stays the same for the same root file system: the key of warm templates.
    pub key: String,
}

/// How an image is pulled.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Which of several; the host's unless said.
    pub platform: Option<Platform>,
    /// Plain HTTP and unverified TLS, for other hosts than this one, too.
    pub insecure: bool,
}

/// How an image is pushed.
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// Plain HTTP and unverified TLS, for other hosts than this one, too.
    pub insecure: bool,
}

/// An image that was pulled.
#[derive(Clone, Debug, PartialEq)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// The digest that the registry has it by (an index's, if it has one).
    pub digest: String,
    /// Whether anything was fetched or renamed.
    pub is_new: bool,
}

/// An image that a reference or an identifier's beginning led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The image.
    pub image: Image,
    /// The name that led to it; none for an identifier.
    pub reference: Option<Reference>,
}

/// What removing an image did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Names that are gone, as Docker shows them.
    pub untagged: Vec<String>,
    /// Images' identifiers and layers' diff IDs that are gone.
    pub deleted: Vec<String>,
    /// Bytes that were freed.
    pub freed_bytes: u64,
}

/// An image to be made of another one, or of nothing: by `commit`, `build` and `import`.
#[derive(Debug, Default)]
pub struct NewImage {
    /// The identifier of the image whose layers come first.
    pub base: Option<String>,
    /// Further layers, uncompressed archives at their starts, bottom first. The store hashes and
    /// compresses them.
    pub layers: Vec<File>,
    /// The configuration: its `rootfs` is replaced, its `history` is taken as it is.
    pub config: ImageConfig,
    /// Names that it gets.
    pub tags: Vec<Reference>,
}

/// What the store uses on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// How many images there are.
    pub images: usize,
    /// Bytes of all files.
    pub size_bytes: u64,
}

/// Hears how a transfer goes; from several threads at once.
pub trait Progress: Sync {
    /// A layer (its short digest) is in another state: Docker's words, `Pulling fs layer`,
    /// `Downloading`, `Extracting`, `Pull complete`, `Already exists`, `Pushing`, `Pushed`.
    fn layer(&self, id: &str, state: &'static str) {
        let _ = (id, state);
    }

    /// So many bytes of a layer are done.
    fn bytes(&self, id: &str, done: u64, total: u64) {
        let _ = (id, done, total);
    }

    /// A line for the user, as `Retrying in 2 s: connection reset`.
    fn note(&self, text: &str) {
        let _ = text;
    }
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
