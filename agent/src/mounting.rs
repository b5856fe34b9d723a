//! Mounts, with the reason when one fails.

use std::ffi::CString;
use std::fs;

use rustix::mount::MountFlags;

use crate::fault::{Context, ErrorKind, Result};

/// The flags of what holds neither programs nor devices.
pub(crate) const INERT: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts a file system. The target is made if it's missing.
pub(crate) fn mount(
    source: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<()> {
    let what = || format!("cannot mount {kind} {source:?} at {target}");
    if !target.starts_with("/proc/self/fd/") {
        fs::create_dir_all(target).context(ErrorKind::Mount, what)?;
    }
    let options = CString::new(options).context(ErrorKind::Mount, what)?;
    rustix::mount::mount(source, target, kind, flags, &*options).context(ErrorKind::Mount, what)
}

/// Mounts what is at `source` at `target` too.
pub(crate) fn bind(source: &str, target: &str, recursive: bool) -> Result<()> {
    let bound = if recursive {
        rustix::mount::mount_bind_recursive(source, target)
    } else {
        rustix::mount::mount_bind(source, target)
    };
    bound.context(ErrorKind::Mount, || format!("cannot bind {source} to {target}"))
}

/// Makes one mount read-only, keeping its other flags.
pub(crate) fn make_read_only(target: &str) -> Result<()> {
    let what = || format!("cannot make {target} read-only");
    let now = rustix::fs::statvfs(target).context(ErrorKind::Mount, what)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (is, flag) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ] {
        if now.contains(is) {
            flags |= flag;
        }
    }
    rustix::mount::mount_remount(target, flags, c"").context(ErrorKind::Mount, what)
}
