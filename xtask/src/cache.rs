//! A cache of directories, each built once, whole or not at all.

use std::fs::{self, File};
use std::io;
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
    entry_at(dirs::cache()?.join(name), build)
}

fn entry_at(path: PathBuf, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
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
        let staging = path.with_file_name(format!(".building-{}", file_name(&path)?));
        // Only who has the lock writes there: what is there was left by a process that was killed.
        discard(&staging)?;
        fs::create_dir(&staging).with_context(|| format!("cannot create {}", staging.display()))?;
        let renamed = build(&staging).and_then(|()| {
            fs::rename(&staging, &path).with_context(|| format!("cannot create {}", path.display()))
        });
        if renamed.is_err() {
            discard(&staging)?;
        }
        renamed?;
    }
    Ok(path)
}

fn file_name(path: &Path) -> Result<&str> {
    path.file_name().and_then(|name| name.to_str()).context("a cache entry has a name")
}

fn discard(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot delete {}", dir.display()))
        }
        _ => Ok(()),
    }
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
    fn entry_is_built_once_and_a_failed_or_killed_build_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join("kind/name");
        let left = path.with_file_name(".building-name");
        fs::create_dir_all(left.join("of a killed build")).unwrap();

        let failed = entry_at(path.clone(), |dir| {
            fs::write(dir.join("half"), "")?;
            anyhow::bail!("no")
        });
        assert!(failed.is_err() && !path.exists() && !left.exists());

        let write = |dir: &Path| fs::write(dir.join("file"), "").map_err(Into::into);
        assert_eq!(entry_at(path.clone(), write).unwrap(), path);
        assert!(path.join("file").exists() && !left.exists());
        entry_at(path, |_| panic!("it is there")).unwrap();
    }

    #[test]
    fn keys_tell_apart_inputs_that_concatenate_to_the_same_bytes() {
        let one = Key::default().with("ab").with("c").finish();
        let other = Key::default().with("a").with("bc").finish();
        assert_ne!(one, other);
        assert_eq!(one.len(), 16);
    }
}
