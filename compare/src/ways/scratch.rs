//! A directory for a comparison's mounts and files, and the lock that lets one run at a time: two
//! would measure each other.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::process::{run_ok, system};
use super::{WayError, networks};

/// How long `mount` may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The directory. All that's mounted below it is unmounted and removed when it's dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes it below the data root, and removes what a killed process has left there.
    ///
    /// # Errors
    /// Another comparison runs, or the directory can't be made.
    pub fn create(data_root: &Path) -> Result<Self, WayError> {
        let dir = data_root.join("compare");
        fs::create_dir_all(&dir).map_err(system(format!("create {}", dir.display())))?;
        let lock_path = dir.join("lock");
        let lock =
            File::create(&lock_path).map_err(system(format!("create {}", lock_path.display())))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(WayError::Unavailable(
                    "another comparison runs: two at once would measure each other".to_owned(),
                ));
            }
            Err(errno) => {
                return Err(system(format!("lock {}", lock_path.display()))(errno.into()));
            }
        }
        let path = dir.join("work");
        let scratch = Self { path, _lock: lock };
        networks::remove_leftovers(&scratch.path);
        scratch.clear();
        fs::create_dir(&scratch.path)
            .map_err(system(format!("create {}", scratch.path.display())))?;
        if scratch.is_root() {
            scratch.provide_overlays()?;
        }
        Ok(scratch)
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Sees that overlays can be made here: above another overlay (a container's, a live system's)
    /// they can't, so that memory is used there.
    fn provide_overlays(&self) -> Result<(), WayError> {
        let trial = self.path.join("trial");
        let made = Overlay::mount(&trial, std::slice::from_ref(&self.path));
        match made {
            Ok(overlay) => drop(overlay),
            Err(_) => {
                mount("tmpfs", &self.path, "tmpfs", MountFlags::empty(), None)
                    .map_err(|errno| system("mount a tmpfs")(errno.into()))?;
                Overlay::mount(&trial, std::slice::from_ref(&self.path))?;
            }
        }
        let _ = fs::remove_dir_all(&trial);
        Ok(())
    }

    /// Unmounts and removes everything.
    fn clear(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for path in mounts_below(&mounts, &self.path).into_iter().rev() {
            if let Err(errno) = unmount(&path, UnmountFlags::DETACH) {
                log::warn!("{} can't be unmounted: {errno}", path.display());
            }
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn!("{} can't be removed: {error}", self.path.display());
            }
            _ => {}
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The mount points at and below a directory, in the order that they were mounted in.
fn mounts_below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    // The kernel writes blanks and the like as octal numbers.
    let points = points.map(|point| PathBuf::from(point.replace("\\040", " ")));
    points.filter(|point| point.starts_with(dir)).collect()
}

/// A writable file system above read-only ones, as containers have it. Unmounted and removed when
/// it's dropped.
#[derive(Debug)]
pub(crate) struct Overlay {
    dir: PathBuf,
}

impl Overlay {
    /// Mounts it in `dir`, which is made; the topmost of `lower` comes first.
    pub(crate) fn mount(dir: &Path, lower: &[PathBuf]) -> Result<Self, WayError> {
        let sub = |name: &str| dir.join(name);
        for name in ["upper", "work", "root"] {
            let path = sub(name);
            fs::create_dir_all(&path).map_err(system(format!("create {}", path.display())))?;
        }
        let lower: Vec<_> = lower.iter().map(|path| path.display().to_string()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            sub("upper").display(),
            sub("work").display()
        );
        let options = std::ffi::CString::new(options)
            .map_err(|_| WayError::Unavailable("a path has a zero byte in it".to_owned()))?;
        let overlay = Self { dir: dir.to_owned() };
        mount("overlay", overlay.root(), "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .map_err(|errno| system("mount an overlay file system")(errno.into()))?;
        Ok(overlay)
    }

    /// The root file system.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // It isn't mounted if that was what failed.
        let _ = unmount(self.root(), UnmountFlags::DETACH);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Mounts an image's file systems, read-only; returns where, the topmost first.
pub(crate) fn mount_layers(
    scratch: &Scratch,
    layers: &[PathBuf],
) -> Result<Vec<PathBuf>, WayError> {
    let mut mounted = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let dir = scratch.path().join(format!("l{index}"));
        fs::create_dir(&dir).map_err(system(format!("create {}", dir.display())))?;
        let mut command = Command::new("mount");
        command.args(["-t", "erofs", "-o", "ro,loop"]).arg(layer).arg(&dir);
        run_ok(command, PATIENCE, None)?;
        mounted.insert(0, dir);
    }
    if mounted.is_empty() {
        // An image without layers is an empty directory.
        let dir = scratch.path().join("empty");
        fs::create_dir(&dir).map_err(system(format!("create {}", dir.display())))?;
        mounted.push(dir);
    }
    Ok(mounted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_directory_are_found_and_no_others() {
        let text = "1 0 0:1 / / rw - ext4 /dev/a rw\n\
                    2 1 0:2 / /data/work rw - tmpfs tmpfs rw\n\
                    3 2 0:3 / /data/work/a\\040b/root rw - overlay overlay rw\n\
                    4 1 0:4 / /data/workshop rw - tmpfs tmpfs rw\nnonsense\n";
        let found = mounts_below(text, Path::new("/data/work"));
        assert_eq!(found, [PathBuf::from("/data/work"), PathBuf::from("/data/work/a b/root")]);
    }

    #[test]
    fn one_at_a_time() {
        let data = tempfile::tempdir().unwrap();
        let first = Scratch::create(data.path()).unwrap();
        let error = Scratch::create(data.path()).unwrap_err();
        assert!(error.to_string().contains("another comparison runs"), "{error}");
        let path = first.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        drop(first);
        assert!(!path.exists());
        Scratch::create(data.path()).unwrap();
    }
}
