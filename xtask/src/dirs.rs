//! Where things are: the checkout, Cargo's target directory, the cache.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};

/// Returns the root of the checkout.
pub(crate) fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Returns Cargo's target directory, which `CARGO_TARGET_DIR` may have moved.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Returns the directory that downloads and builds are cached in, outside the checkout:
/// `$XDG_CACHE_HOME/vmctl`, else `~/.cache/vmctl`.
///
/// # Errors
///
/// Fails when neither variable names a directory.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(base) = env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute()) {
        return Ok(PathBuf::from(base).join("vmctl"));
    }
    let home = env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/vmctl"))
}

/// Points the link at `path` to `target`; what it pointed at before stays.
///
/// # Errors
///
/// Fails when the link can't be made.
pub(crate) fn link(target: &Path, path: &Path) -> Result<()> {
    if fs::read_link(path).is_ok_and(|current| current == target) {
        return Ok(());
    }
    let dir = path.parent().context("a link is in a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    // By a rename, so that a program that looks at the same time always finds one or the other.
    let temporary = path.with_added_extension(format!("{}", std::process::id()));
    symlink(target, &temporary)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot create {}", path.display()))
}
