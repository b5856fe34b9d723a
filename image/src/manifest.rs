//! Manifests and indexes (OCI image-spec 1.1, Docker's schema 2), as registries and archives have
//! them: hostile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::shown;
use crate::options::null_is_default;
use crate::{ImageConfig, ImageError, Platform, digest};

/// What an OCI layout's `oci-layout` says.
pub(crate) const OCI_LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";
/// The largest manifest and configuration that's read, in bytes.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;
/// Docker allows 127.
const MAX_LAYERS: usize = 256;

pub(crate) mod media {
    pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub(crate) const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub(crate) const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub(crate) const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub(crate) const DOCKER_INDEX: &str =
        "application/vnd.docker.distribution.manifest.list.v2+json";
}

/// What another document is known by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<RawPlatform>,
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What an index says of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RawPlatform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// An image's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u64,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) layers: Vec<Descriptor>,
}

/// A list of images.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u64,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) manifests: Vec<Descriptor>,
}

/// Either.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

fn invalid(what: &str, problem: impl Into<String>) -> ImageError {
    ImageError::Invalid { what: what.to_owned(), problem: problem.into() }
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: &str, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest.to_owned(),
            size,
            ..Self::default()
        }
    }

    fn check(&self, what: &str) -> Result<(), ImageError> {
        if digest::is_digest(&self.digest) {
            return Ok(());
        }
        let digest = shown(&self.digest);
        Err(invalid(what, format!("it names {digest:?}, which is no sha256 digest")))
    }
}

impl Document {
    /// Reads one; `what` names it in errors.
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let no_json = |error: serde_json::Error| invalid(what, format!("its JSON: {error}"));
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(no_json)?;
        if value["schemaVersion"] == 1 {
            let problem = "it has Docker's old schema 1, which isn't supported: push it anew";
            return Err(invalid(what, problem));
        }
        let is_index = value.get("manifests").is_some();
        if is_index && value.get("layers").is_some() {
            return Err(invalid(what, "it's a manifest and an index at once"));
        }
        if is_index {
            let index: Index = serde_json::from_value(value).map_err(no_json)?;
            index.manifests.iter().try_for_each(|it| it.check(what))?;
            return Ok(Self::Index(index));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(no_json)?;
        manifest.config.check(what)?;
        manifest.layers.iter().try_for_each(|it| it.check(what))?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(invalid(what, format!("it has more than {MAX_LAYERS} layers")));
        }
        Ok(Self::Manifest(manifest))
    }
}

impl Index {
    /// The image for a platform.
    pub(crate) fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let fits = |it: &&Descriptor| {
            it.platform.as_ref().is_some_and(|it| is_for(it, platform)) && is_image(it)
        };
        let exact = |it: &&Descriptor| {
            it.platform.as_ref().is_some_and(|it| variant(it) == platform.variant.as_deref())
        };
        let mut fitting = self.manifests.iter().filter(fits);
        fitting.clone().find(exact).or_else(|| fitting.next()).or_else(|| {
            // Some tools don't say what a single image is for; its configuration does.
            match &self.manifests[..] {
                [only] if only.platform.is_none() && is_image(only) => Some(only),
                _ => None,
            }
        })
    }

    /// What there is, for messages.
    pub(crate) fn platforms(&self) -> String {
        let images = self.manifests.iter().filter(|it| is_image(it));
        let name = |it: &RawPlatform| {
            let RawPlatform { os, architecture, variant } = it.clone();
            shown(&Platform { os, architecture, variant }.to_string())
        };
        let names: Vec<_> =
            images.filter_map(|it| it.platform.as_ref().map(name)).take(16).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

/// Whether it's no attestation: those are listed as images of an unknown system.
pub(crate) fn is_image(descriptor: &Descriptor) -> bool {
    let kind = descriptor.annotations.get("vnd.docker.reference.type");
    kind.is_none_or(|kind| kind != "attestation-manifest")
}

/// What every processor of an architecture is isn't told apart.
fn variant(it: &RawPlatform) -> Option<&str> {
    let variant = it.variant.as_deref().filter(|it| !it.is_empty());
    variant.filter(|variant| (it.architecture.as_str(), *variant) != ("arm64", "v8"))
}

fn is_for(it: &RawPlatform, wanted: &Platform) -> bool {
    it.os == wanted.os
        && it.architecture == wanted.architecture
        && (wanted.variant.is_none() || variant(it) == wanted.variant.as_deref())
}

/// Reads an image's configuration, which must fit its manifest.
pub(crate) fn parse_config(what: &str, bytes: &[u8]) -> Result<ImageConfig, ImageError> {
    let config: ImageConfig = serde_json::from_slice(bytes)
        .map_err(|error| invalid(what, format!("its configuration's JSON: {error}")))?;
    if config.rootfs.diff_ids.len() > MAX_LAYERS {
        return Err(invalid(what, format!("it has more than {MAX_LAYERS} layers")));
    }
    if !config.rootfs.diff_ids.iter().all(|it| digest::is_digest(it)) {
        return Err(invalid(what, "its configuration names layers by no sha256 digests"));
    }
    Ok(config)
}

/// Whether an image runs on a platform; what doesn't say is taken as it is.
pub(crate) fn config_is_for(config: &ImageConfig, wanted: &Platform) -> bool {
    let same = |found: &str, wanted: &str| found.is_empty() || found == wanted;
    same(&config.os, &wanted.os) && same(&config.architecture, &wanted.architecture)
}

/// What an image's configuration says that it's for.
pub(crate) fn config_platform(config: &ImageConfig) -> Platform {
    Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
    }
}

/// The OCI's name for a layer's compression, found in its first bytes.
pub(crate) fn layer_media_type(start: &[u8]) -> &'static str {
    match start {
        [0x1f, 0x8b, ..] => media::OCI_GZIP,
        _ if is_zstd(start) => media::OCI_ZSTD,
        _ => media::OCI_TAR,
    }
}

/// Whether a stream begins with a frame of zstd's, or one that it skips (RFC 8878 §3.1).
pub(crate) fn is_zstd(start: &[u8]) -> bool {
    matches!(start, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// A manifest of ours.
pub(crate) fn of_layers(config: &[u8], layers: Vec<Descriptor>) -> Manifest {
    let config = Descriptor::new(media::OCI_CONFIG, &digest::of(config), config.len() as u64);
    Manifest { schema_version: 2, media_type: media::OCI_MANIFEST.to_owned(), config, layers }
}

#[cfg(test)]
mod tests;
