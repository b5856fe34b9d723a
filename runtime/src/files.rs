//! Files that several processes use at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A lock that's held until dropped, or until this process ends. No process that's started
/// meanwhile inherits it.
#[derive(Debug)]
pub(crate) struct LockFile {
    _file: File,
}

impl LockFile {
    /// Waits until nobody else holds it.
    pub(crate) fn take(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                outcome => return outcome.map(|()| Self { _file: file }).map_err(Into::into),
            }
        }
    }

    /// Takes it unless somebody else holds it. Whoever only looks ([`is_locked`]) doesn't count.
    pub(crate) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self { _file: file })),
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(errno.into()),
            }
            // Against a holder a look fails; if it doesn't, there were only others who look.
            match flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => std::thread::yield_now(),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Whether somebody holds the lock at `path`.
pub(crate) fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

/// Replaces the file at `path`: whoever reads it finds all of the old text or all of the new.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // One name per writer: two that write at once don't write into one another's file.
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}.{number}.tmp", std::process::id()));
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

/// Removes a file; that there's none is no failure.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    ignore_missing(fs::remove_file(path))
}

/// Removes a directory and all that's in it; that there's none is no failure.
pub(crate) fn remove_dir_all(path: &Path) -> io::Result<()> {
    ignore_missing(fs::remove_dir_all(path))
}

fn ignore_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Random bytes as lower-case hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        let rest = random.get_mut(filled..).unwrap_or_default();
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn lock_has_one_holder_and_lookers_dont_keep_it_from_being_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_locked(&path), "there's none");
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !ends.load(Ordering::Relaxed) {
                        is_locked(&path);
                    }
                });
            }
            for _ in 0..1000 {
                let lock = LockFile::try_take(&path).unwrap().expect("nobody holds it");
                assert!(is_locked(&path));
                assert!(LockFile::try_take(&path).unwrap().is_none());
                drop(lock);
            }
            ends.store(true, Ordering::Relaxed);
        });
        assert!(!is_locked(&path));
    }

    #[test]
    fn readers_find_all_of_the_old_text_or_all_of_the_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let texts = [vec![b'a'; 10_000], vec![b'b'; 20_000]];
        replace(&path, &texts[0]).unwrap();
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| (0..200).for_each(|_| replace(&path, text).unwrap()));
            }
            for _ in 0..200 {
                assert!(texts.contains(&fs::read(&path).unwrap()));
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left");
    }
}
