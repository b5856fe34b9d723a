//! Volumes: shares of the host, memory.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;

use agent_proto::{Mount, MountSource};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::MountFlags;

use crate::fault::{Context, ErrorKind, Result, fault};
use crate::in_root::{self, Make};
use crate::mounting::{INERT, bind, make_read_only, mount};
use crate::paths::SHARES;
use crate::{copy, in_root::proc_path};

/// Nothing in a share leads out of it.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Tells whether a mount is of the host's.
pub(crate) fn is_share(mount: &Mount) -> bool {
    matches!(mount.source, MountSource::Share { .. })
}

/// Mounts a volume in the container's root. Adds what was made for that to `made`.
pub(crate) fn mount_volume(root: impl AsFd, volume: &Mount, made: &mut Vec<PathBuf>) -> Result<()> {
    let root = root.as_fd();
    if in_root::components(&volume.target)?.is_empty() {
        return fault(ErrorKind::Invalid, "a volume can't be mounted at /");
    }
    match &volume.source {
        MountSource::Share { index, path, copy_up } => {
            let source = open_share(*index, path.as_deref().unwrap_or(""))?;
            let metadata = source.metadata().context(ErrorKind::Mount, || describe(volume))?;
            let make = if metadata.is_dir() { Make::Directory } else { Make::File };
            let target = in_root::ensure(root, &volume.target, make, made)?;
            if *copy_up && metadata.is_dir() {
                copy::fill(&target, &source).context(ErrorKind::Mount, || describe(volume))?;
            }
            bind(&proc_path(&source), &proc_path(&target), false)?;
        }
        MountSource::Tmpfs { size_bytes, mode, options } => {
            let target = in_root::ensure(root, &volume.target, Make::Directory, made)?;
            let mut data = format!("mode={:o}", mode.unwrap_or(0o1777) & 0o7777);
            if let Some(bytes) = size_bytes {
                data += &format!(",size={bytes}");
            }
            mount("tmpfs", &proc_path(&target), "tmpfs", tmpfs_flags(options)?, &data)?;
        }
    }
    if volume.read_only {
        // What was opened before is below the mount: look again.
        let target = in_root::open_place(root, &volume.target, true)
            .context(ErrorKind::Mount, || describe(volume))?;
        make_read_only(&proc_path(&target))?;
    }
    Ok(())
}

/// Opens something in a share, for its place only.
pub(crate) fn open_share(index: u32, path: &str) -> Result<File> {
    let what = || format!("cannot open {path:?} in share {index}");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let share = File::open(SHARES).context(ErrorKind::Mount, what)?;
    let entry = openat2(&share, index.to_string(), flags, Mode::empty(), BENEATH)
        .context(ErrorKind::Mount, what)?;
    let path = path.trim_start_matches('/');
    if path.is_empty() {
        return Ok(entry.into());
    }
    let found = openat2(&entry, path, flags, Mode::empty(), BENEATH);
    found.map(File::from).context(ErrorKind::Mount, what)
}

fn describe(volume: &Mount) -> String {
    format!("cannot mount the volume at {}", volume.target)
}

/// Docker's defaults, then what the options say.
fn tmpfs_flags(options: &[String]) -> Result<MountFlags> {
    let mut flags = INERT;
    for option in options {
        match option.as_str() {
            "exec" => flags.remove(MountFlags::NOEXEC),
            "noexec" => flags.insert(MountFlags::NOEXEC),
            "suid" => flags.remove(MountFlags::NOSUID),
            "nosuid" => flags.insert(MountFlags::NOSUID),
            "dev" => flags.remove(MountFlags::NODEV),
            "nodev" => flags.insert(MountFlags::NODEV),
            "ro" => flags.insert(MountFlags::RDONLY),
            "rw" => flags.remove(MountFlags::RDONLY),
            "noatime" => flags.insert(MountFlags::NOATIME),
            _ => return fault(ErrorKind::Invalid, format!("unknown tmpfs option {option:?}")),
        }
    }
    Ok(flags)
}

/// Tells whether a directory has nothing in it.
pub(crate) fn is_empty(dir: &str) -> std::io::Result<bool> {
    Ok(fs::read_dir(dir)?.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_is_inert_unless_said() {
        assert_eq!(tmpfs_flags(&[]).unwrap(), INERT);
        let flags = tmpfs_flags(&["exec".into(), "ro".into()]).unwrap();
        assert!(flags.contains(MountFlags::RDONLY) && !flags.contains(MountFlags::NOEXEC));
        assert!(tmpfs_flags(&["uid=0,evil".into()]).is_err());
    }
}
