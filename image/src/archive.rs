//! Images in files: archives of `docker save` and `podman save`, and OCI layouts (OCI image-spec 1.1,
//! `image-layout.md`). What's written is all of that at once.

mod files;
mod load;
mod save;
#[cfg(test)]
mod tests;

pub(crate) use load::{load, load_directory};
pub(crate) use save::save;

use serde::{Deserialize, Serialize};

use crate::options::null_is_default;

/// An OCI index's annotation: an image's whole name.
const WHOLE_NAME: &str = "io.containerd.image.name";
/// The same: its tag, or its whole name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image in `manifest.json`, which is Docker's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    /// A path.
    config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    repo_tags: Vec<String>,
    /// Paths.
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<String>,
}
