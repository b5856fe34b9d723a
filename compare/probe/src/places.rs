//! Where something can be put in an image that may have nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// Where an image may let a file be made, the likeliest first.
const PLACES: [&str; 6] = ["/dev/shm", "/run", "/tmp", "/var/tmp", "/dev", "/"];

/// A name that nothing else has.
fn name() -> String {
    format!(".vmctl-probe-{}-{:016x}", std::process::id(), fastrand::u64(..))
}

/// Returns paths at which something might be made, one in each place.
pub(crate) fn candidates() -> impl Iterator<Item = PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join(name()))
}

/// A path in this directory that nothing else has.
pub(crate) fn fresh(directory: &Path) -> PathBuf {
    directory.join(name())
}

/// A directory that is removed in the end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Makes one where the image lets one be made.
    pub(crate) fn make() -> Option<Self> {
        candidates().find(|path| fs::create_dir(path).is_ok()).map(Self)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A file that is removed in the end.
pub(crate) struct Removed(pub(crate) PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
