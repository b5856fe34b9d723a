//! A cache of directories, each built once, whole or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::dirs;

/// Returns the cache's directory `name` (which may contain slashes), built by `build` if it isn't there.
///
/// `build` fills a temporary directory beside the final one; a rename makes it visible, so that
/// an interrupted build leaves nothing that a later run could take for a finished one. A lock
/// lets a second process wait for the first one's result instead of doing the work twice.
///
/// # Errors
///
/// Fails with `build`'s error, or when the cache can't be written.
pub(crate) fn entry(name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let path = dirs::cache()?.join(name);
    if path.is_dir() {
        return Ok(path);
    }
    let parent = path.parent().context("a cache entry has a parent directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;

    let lock_path = path.with_added_extension("lock");
    let lock = File::create(&lock_path)
        .with_context(|| format!("cannot create {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if !path.is_dir() {
        let staging = tempfile::Builder::new()
            .prefix(".building-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot create a directory in {}", parent.display()))?;
        build(staging.path())?;
        fs::rename(staging.path(), &path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        // The directory has moved: there is nothing left for the guard to delete.
        let _ = staging.keep();
    }
    Ok(path)
}

/// Collects the inputs of a cached artifact into the key that names it.
#[derive(Default)]
pub(crate) struct Key(Sha256);

impl Key {
    /// Adds one input. Its length is hashed too, so that two inputs can't run into one another.
    #[must_use]
    pub(crate) fn with(mut self, input: impl AsRef<[u8]>) -> Self {
        let input = input.as_ref();
        self.0.update((input.len() as u64).to_le_bytes());
        self.0.update(input);
        self
    }

    /// Returns the key: 16 hexadecimal digits, short enough to read and long enough not to collide.
    pub(crate) fn finish(self) -> String {
        self.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_apart_inputs_that_concatenate_to_the_same_bytes() {
        let one = Key::default().with("ab").with("c").finish();
        let other = Key::default().with("a").with("bc").finish();
        assert_ne!(one, other);
        assert_eq!(one.len(), 16);
    }
}
