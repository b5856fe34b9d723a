//! Paths in the container's root: looked up by `openat2(2)` with `RESOLVE_IN_ROOT`, so that no
//! symbolic link or `..` of an image leads out of it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::fault::{Context, ErrorKind, Result, fault};

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// What is made where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Directory,
    File,
}

/// Opens a path for its place only (`O_PATH`).
pub(crate) fn open_place(root: impl AsFd, path: &str, follow: bool) -> rustix::io::Result<OwnedFd> {
    let follow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    openat2(root, relative(path), OFlags::PATH | OFlags::CLOEXEC | follow, Mode::empty(), IN_ROOT)
}

/// Opens a path for its place, and makes it and the directories above if they're missing. Adds the
/// first path that it made to `made`.
pub(crate) fn ensure(
    root: impl AsFd,
    path: &str,
    make: Make,
    made: &mut Vec<PathBuf>,
) -> Result<OwnedFd> {
    let root = root.as_fd();
    let parts = components(path)?;
    let mut so_far = PathBuf::from(".");
    let open =
        |path: &Path| openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), IN_ROOT);
    let what = |path: &Path| format!("cannot make {} in the container", path.display());
    let mut place = open(&so_far).internal("cannot open the container's root")?;
    let mut new = false;
    for (index, part) in parts.iter().enumerate() {
        so_far.push(part);
        let parent = place;
        place = match open(&so_far) {
            Err(Errno::NOENT) => {
                let last = index + 1 == parts.len();
                let made_now = if last && make == Make::File {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    let mode = Mode::from_raw_mode(0o644);
                    rustix::fs::openat(&parent, *part, flags, mode).map(drop)
                } else {
                    rustix::fs::mkdirat(&parent, *part, Mode::from_raw_mode(0o755))
                };
                made_now.context(ErrorKind::Mount, || what(&so_far))?;
                if !new {
                    made.push(so_far.strip_prefix(".").unwrap_or(&so_far).to_owned());
                }
                new = true;
                open(&so_far)
            }
            found => found,
        }
        .context(ErrorKind::Mount, || what(&so_far))?;
    }
    Ok(place)
}

/// Returns a path's parts. `..` is refused: lexically it means something else than in the kernel.
pub(crate) fn components(path: &str) -> Result<Vec<&std::ffi::OsStr>> {
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return fault(ErrorKind::Invalid, format!("{path:?} has `..` in it"));
            }
        }
    }
    Ok(parts)
}

/// Returns the path by which an open file is named in `/proc`.
pub(crate) fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// `openat2` takes absolute paths as the root's; an empty one is the root.
fn relative(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_nowhere_but_into_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("run")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("../../../..", root.join("up")).unwrap();
        let fd = fs::File::open(&root).unwrap();
        let mut made = Vec::new();
        ensure(&fd, "/var/run/lock/here", Make::File, &mut made).unwrap();
        ensure(&fd, "/up/below", Make::Directory, &mut made).unwrap();
        assert!(root.join("run/lock/here").is_file());
        assert!(root.join("below").is_dir());
        assert_eq!(made, [PathBuf::from("var/run/lock"), PathBuf::from("up/below")]);
        assert!(ensure(&fd, "/a/../../b", Make::Directory, &mut made).is_err());
        assert!(open_place(&fd, "/up/etc/passwd", true).is_err());
    }

    #[test]
    fn a_dangling_link_is_not_made_through() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/nowhere", dir.path().join("link")).unwrap();
        let fd = fs::File::open(dir.path()).unwrap();
        assert!(ensure(&fd, "/link", Make::Directory, &mut Vec::new()).is_err());
        assert!(ensure(&fd, "/link/below", Make::Directory, &mut Vec::new()).is_err());
    }
}
