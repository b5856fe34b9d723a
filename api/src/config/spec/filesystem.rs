//! Directories of the host's that the guest mounts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::{HostPath, ResourceId};

/// Ours: an element of `filesystems`: a virtio-fs device, which the guest mounts by its tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesystemSpec {
    /// Its name on the host's side, unique among these devices.
    #[schema(value_type = ResourceId)]
    pub fs_id: String,
    /// What the guest mounts it by (`mount -t virtiofs TAG DIR`), unique among these devices; the
    /// `fs_id` unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 36, pattern = "^[ -~]+$")]
    pub tag: Option<String>,
    /// What is in the mounted directory.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub shares: Vec<ShareSpec>,
}

/// Ours: an element of a file system's `shares`: a directory, or a single file, of the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareSpec {
    /// Its name in the mounted directory; its place in the list, from 0, unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255, pattern = "^[^/\\u0000]+$")]
    pub name: Option<String>,
    /// The directory or file.
    #[schema(value_type = HostPath)]
    pub path: PathBuf,
    /// Whether the guest may only read.
    #[serde(default)]
    pub is_read_only: bool,
}
