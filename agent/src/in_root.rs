//! Paths in the container's root: looked up by `openat2(2)` with `RESOLVE_IN_ROOT`, so that no
//! symbolic link or `..` of an image leads out of it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2, readlinkat};
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

/// Opens a path for its place, and makes it and the directories above if they're missing. A link
/// that leads to nothing has what it leads to made. Adds the first path that it made to `made`.
pub(crate) fn ensure(
    root: impl AsFd,
    path: &str,
    make: Make,
    made: &mut Vec<PathBuf>,
) -> Result<OwnedFd> {
    let parts = components(path)?.into_iter().map(OsStr::to_owned).collect();
    Ensure { root: root.as_fd(), make, made, links: 0 }.run(parts)
}

/// How many links that lead to nothing are followed: as the kernel does it.
const MAX_LINKS: usize = 40;

/// What [`ensure`] does, and where it is.
struct Ensure<'a> {
    root: BorrowedFd<'a>,
    make: Make,
    made: &'a mut Vec<PathBuf>,
    links: usize,
}

impl Ensure<'_> {
    fn run(&mut self, mut parts: VecDeque<OsString>) -> Result<OwnedFd> {
        let mut so_far = PathBuf::from(".");
        let mut place = self.open(&so_far).internal("cannot open the container's root")?;
        let made_before = self.made.len();
        while let Some(part) = parts.pop_front() {
            let parent = so_far.clone();
            so_far.push(&part);
            let shown = so_far.display().to_string();
            let what = || format!("cannot make {shown} in the container");
            match self.open(&so_far) {
                Ok(found) => place = found,
                Err(Errno::NOENT) => match self.make_one(&place, &part, parts.is_empty()) {
                    Ok(()) => {
                        if self.made.len() == made_before {
                            self.made.push(so_far.strip_prefix(".").unwrap_or(&so_far).to_owned());
                        }
                        place = self.open(&so_far).context(ErrorKind::Mount, what)?;
                    }
                    // There is something that leads to nothing: a link.
                    Err(Errno::EXIST) if self.links < MAX_LINKS => {
                        self.links += 1;
                        let target = readlinkat(&place, &part, Vec::new());
                        let target = target.context(ErrorKind::Mount, what)?;
                        so_far = PathBuf::from(".");
                        place = self.open(&so_far).context(ErrorKind::Mount, what)?;
                        prepend(
                            &mut parts,
                            &parent,
                            Path::new(OsStr::from_bytes(target.to_bytes())),
                        );
                    }
                    Err(error) => return Err(error).context(ErrorKind::Mount, what),
                },
                Err(error) => return Err(error).context(ErrorKind::Mount, what),
            }
        }
        Ok(place)
    }

    fn open(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        openat2(self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), IN_ROOT)
    }

    fn make_one(&self, parent: &OwnedFd, name: &OsStr, last: bool) -> rustix::io::Result<()> {
        if last && self.make == Make::File {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            return rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop);
        }
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
    }
}

/// Puts a link's target, seen from its directory, before what's left of a path. At the root, `..`
/// leads to the root.
fn prepend(parts: &mut VecDeque<OsString>, dir: &Path, target: &Path) {
    let mut all = Vec::new();
    for component in dir.join(target).components() {
        match component {
            Component::Normal(part) => all.push(part.to_owned()),
            Component::RootDir => all.clear(),
            Component::ParentDir => drop(all.pop()),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    for part in all.into_iter().rev() {
        parts.push_front(part);
    }
}

/// Returns a path's parts. `..` is refused: lexically it means something else than in the kernel.
pub(crate) fn components(path: &str) -> Result<Vec<&OsStr>> {
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
    fn what_a_link_leads_to_is_made_in_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("var")).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("../../../tmp/./x", root.join("var/tmp")).unwrap();
        let fd = fs::File::open(&root).unwrap();
        let mut made = Vec::new();
        ensure(&fd, "/var/run/scratch", Make::Directory, &mut made).unwrap();
        ensure(&fd, "/var/tmp", Make::File, &mut made).unwrap();
        assert!(root.join("run/scratch").is_dir() && root.join("tmp/x").is_file());
        assert_eq!(made, [PathBuf::from("run"), PathBuf::from("tmp")]);
    }

    #[test]
    fn links_that_lead_in_circles_end() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b/x", dir.path().join("a")).unwrap();
        symlink("a/x", dir.path().join("b")).unwrap();
        let fd = fs::File::open(dir.path()).unwrap();
        let error = ensure(&fd, "/a", Make::Directory, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Mount);
    }
}
