//! Directories of the host's that the guest mounts.

use std::path::PathBuf;

use super::super::{FilesystemSpec, ShareSpec};

/// A virtio-fs device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilesystemConfig {
    /// Its unique name on the host's side.
    pub id: String,
    /// What the guest mounts it by: 1 to [`MAX_TAG_BYTES`](super::super::MAX_TAG_BYTES) printable
    /// ASCII bytes, unique.
    pub tag: String,
    /// What is in the mounted directory: at most [`MAX_SHARES`](super::super::MAX_SHARES).
    pub shares: Vec<ShareConfig>,
}

/// A directory, or a single file, of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShareConfig {
    /// Its name in the mounted directory: one that a file can have, unique there.
    pub name: String,
    /// The directory or file.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
}

impl From<FilesystemConfig> for FilesystemSpec {
    fn from(filesystem: FilesystemConfig) -> Self {
        let share = |share: ShareConfig| ShareSpec {
            name: Some(share.name),
            path: share.path,
            is_read_only: share.read_only,
        };
        Self {
            fs_id: filesystem.id,
            tag: Some(filesystem.tag),
            shares: filesystem.shares.into_iter().map(share).collect(),
        }
    }
}
