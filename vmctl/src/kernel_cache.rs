//! A cache of unpacked kernels: what a bzImage holds compressed is unpacked once on the host rather
//! than in the guest at every boot, where it takes a third of a stock kernel's start.
//!
//! ```text
//! ~/.cache/vmctl/unpacked/SHA256.vmlinux      keyed by the whole bzImage's content
//! ~/.cache/vmctl/unpacked/seen/KEY            a link there, for a file that was hashed before
//! ```
//!
//! A file that was seen before, unchanged by its path, size and times, isn't read again. Whatever
//! goes wrong, the bzImage is booted as it is.

mod bzimage;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;

use self::store::Store;

/// Why a kernel is booted as it is.
#[derive(Debug, Error)]
enum CacheError {
    /// It isn't a bzImage with a payload: an uncompressed kernel, or none at all.
    #[error("it's no compressed bzImage")]
    NotPacked,
    /// It's compressed by a method that isn't known here.
    #[error("its compression isn't known")]
    UnknownCompression,
    /// What it holds isn't what its header says.
    #[error("its payload is damaged: {0}")]
    Damaged(&'static str),
    /// There's no place for a cache.
    #[error("there's no cache directory: neither XDG_CACHE_HOME nor HOME is set")]
    NoDirectory,
    /// Somebody else could put a kernel of theirs into the cache.
    #[error("others may write to {}", .0.display())]
    Untrusted(PathBuf),
    /// A file can't be read or written.
    #[error("{what}")]
    Io {
        /// What couldn't be done.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The unpacked kernel of a bzImage, unpacked now if it wasn't before; the kernel itself where that
/// isn't possible.
pub(crate) fn unpacked(kernel: &Path) -> PathBuf {
    match Store::open().and_then(|store| store.unpacked(kernel, SystemTime::now())) {
        Ok(path) => {
            log::info!("booting {} unpacked, from {}", kernel.display(), path.display());
            path
        }
        Err(error) => {
            let source = std::error::Error::source(&error);
            let source = source.map(|source| format!(": {source}")).unwrap_or_default();
            log::debug!("booting {} as it is: {error}{source}", kernel.display());
            kernel.to_owned()
        }
    }
}

/// Wraps what the system said.
fn io_error(what: &'static str) -> impl Fn(io::Error) -> CacheError {
    move |source| CacheError::Io { what, source }
}
