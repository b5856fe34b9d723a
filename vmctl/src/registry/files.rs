//! Files that several processes use at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::RegistryError;

/// A lock that's held until dropped, or until this process ends. No process that's started
/// meanwhile inherits it.
#[derive(Debug)]
pub(super) struct LockFile {
    file: File,
}

impl LockFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        Ok(Self { file })
    }

    pub(super) fn take(self, how: FlockOperation) -> io::Result<Self> {
        flock(&self.file, how)?;
        Ok(self)
    }
}

/// Whether somebody holds the lock at `path`.
pub(super) fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Replaces the file at `path`: whoever reads it finds all of the old text or all of the new.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    // One name per process: two that write at once don't write into one another's file.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Whether somebody listens on the socket at `path`.
pub(super) fn is_served(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(_) => true,
        // Its queue is full, or it's somebody else's: either way somebody's.
        Err(error) => {
            !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
        }
    }
}

/// Removes a socket that nobody listens on any more; anything else at `path` stays. Returns whether
/// there was one.
pub(super) fn remove_dead_socket(path: &Path) -> bool {
    let is_socket =
        fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket && !is_served(path) && fs::remove_file(path).is_ok()
}

/// Says what couldn't be done with a file.
pub(super) fn system(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    let path = path.to_owned();
    move |source| RegistryError::File { what, path, source }
}
