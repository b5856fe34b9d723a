//! Where the agent keeps things in its own file system, which the container doesn't see.

/// The image's EROFS.
pub(crate) const IMAGE: &str = "/image";
/// What holds the container's changes: `data` and overlayfs's `work`.
pub(crate) const UPPER: &str = "/upper";
/// The changes themselves.
pub(crate) const UPPER_DATA: &str = "/upper/data";
/// The container's root.
pub(crate) const ROOT: &str = "/container";
/// The virtio-fs device with the shares.
pub(crate) const SHARES: &str = "/shares";
/// `hosts`, `hostname`, `resolv.conf`.
pub(crate) const FILES: &str = "/files";
/// The container's cgroup.
pub(crate) const CGROUP: &str = "/sys/fs/cgroup/container";
