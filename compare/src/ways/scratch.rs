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

/// Where root's comparisons are locked, whatever their data root is: cgroups, network namespaces and
/// addresses are the host's.
const HOST_LOCK: &str = "/run/vmctl-compare.lock";

/// The directory. All that's mounted below it is unmounted and removed when it's dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    disks: PathBuf,
    in_memory: bool,
    _locks: Vec<File>,
}

impl Scratch {
    /// Makes it below the data root, and removes what a killed process has left there.
    ///
    /// # Errors
    /// Another comparison runs, or the directory can't be made.
    pub fn create(data_root: &Path) -> Result<Self, WayError> {
        let is_root = rustix::process::geteuid().is_root();
        let host_lock = is_root.then_some(Path::new(HOST_LOCK));
        let mut scratch = Self::create_locked(data_root, host_lock)?;
        if is_root {
            scratch.provide_overlays()?;
        }
        Ok(scratch)
    }

    fn create_locked(data_root: &Path, host_lock: Option<&Path>) -> Result<Self, WayError> {
        let dir = data_root.join("compare");
        fs::create_dir_all(&dir).map_err(system(format!("create {}", dir.display())))?;
        let own_lock = dir.join("lock");
        let locks = host_lock.into_iter().chain([own_lock.as_path()]).map(lock);
        let locks = locks.collect::<Result<_, _>>()?;
        let (path, disks) = (dir.join("work"), dir.join("disks"));
        let scratch = Self { path, disks, in_memory: false, _locks: locks };
        networks::remove_leftovers(&scratch.path);
        scratch.clear();
        for dir in [&scratch.path, &scratch.disks] {
            fs::create_dir(dir).map_err(system(format!("create {}", dir.display())))?;
        }
        Ok(scratch)
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where disk images are: on the data root's own file system, as microVMs' are.
    pub(crate) fn disks(&self) -> &Path {
        &self.disks
    }

    /// Whether containers write to memory here, in place of a disk.
    pub(crate) fn in_memory(&self) -> bool {
        self.in_memory
    }

    /// Sees that overlays can be made here: above another overlay (a container's, a live system's)
    /// they can't, so that memory is used there.
    fn provide_overlays(&mut self) -> Result<(), WayError> {
        let trial = self.path.join("trial");
        let made = Overlay::mount(&trial, std::slice::from_ref(&self.path));
        match made {
            Ok(overlay) => drop(overlay),
            Err(_) => {
                mount("tmpfs", &self.path, "tmpfs", MountFlags::empty(), None)
                    .map_err(|errno| system("mount a tmpfs")(errno.into()))?;
                self.in_memory = true;
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
        for path in [&self.path, &self.disks] {
            match fs::remove_dir_all(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    log::warn!("{} can't be removed: {error}", path.display());
                }
                _ => {}
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Takes a lock that goes with the file.
fn lock(path: &Path) -> Result<File, WayError> {
    let file = File::create(path).map_err(system(format!("create {}", path.display())))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(WayError::Unavailable(
            "another comparison runs: two at once would measure each other".to_owned(),
        )),
        Err(errno) => Err(system(format!("lock {}", path.display()))(errno.into())),
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
        let other = tempfile::tempdir().unwrap();
        let create = |data: &tempfile::TempDir| Scratch::create_locked(data.path(), None);
        let first = create(&data).unwrap();
        let error = create(&data).unwrap_err();
        assert!(error.to_string().contains("another comparison runs"), "{error}");
        create(&other).unwrap();
        let (path, disks) = (first.path().to_owned(), first.disks().to_owned());
        fs::write(path.join("file"), "x").unwrap();
        fs::write(disks.join("file"), "x").unwrap();
        drop(first);
        assert!(!path.exists() && !disks.exists());
        create(&data).unwrap();
    }

    #[test]
    fn host_has_one_lock_for_all_data_roots() {
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let lock = dirs[2].path().join("lock");
        let create = |number: usize| Scratch::create_locked(dirs[number].path(), Some(&lock));
        let first = create(0).unwrap();
        let error = create(1).unwrap_err();
        assert!(error.to_string().contains("another comparison runs"), "{error}");
        drop(first);
        create(1).unwrap();
    }
}
