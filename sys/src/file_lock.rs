//! Advisory locks on disk images, in the way of QEMU.
//!
//! Nothing is locked but single bytes far beyond what matters, by open file description
//! (`F_OFD_SETLK`): a byte from 100 on for each thing that the holder does with the image, one from
//! 200 on for each thing that nobody else may do meanwhile. All are *read* locks, which never
//! conflict; whoever takes them then tests whether anybody holds a byte that forbids its own. QEMU
//! and `qemu-img` use the same bytes (`file.locking`), so each refuses what the other has in use.
//!
//! Two openers at the same moment may both be refused; both never succeed.
#![expect(unsafe_code, reason = "fcntl with a lock description")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use libc::{c_int, c_short, off_t};

/// First byte of "I do this".
const DOES: off_t = 100;
/// First byte of "nobody else may do this".
const FORBIDS: off_t = 200;
/// Every byte from [`DOES`] to the last one of [`FORBIDS`].
const ALL: (off_t, off_t) = (DOES, 104);

/// Reading an image that keeps still.
const CONSISTENT_READ: off_t = 0;
/// Writing.
const WRITE: off_t = 1;
/// Changing the length.
const RESIZE: off_t = 3;

/// What the holder of a lock does with the image. Readers share it; a writer is alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Only reads: others may read too, but not write.
    Read,
    /// Reads and writes: nobody else may do either with the expectation of a still image.
    Write,
}

impl LockMode {
    fn does(self) -> &'static [off_t] {
        match self {
            Self::Read => &[CONSISTENT_READ],
            Self::Write => &[CONSISTENT_READ, WRITE],
        }
    }

    fn forbids(self) -> &'static [off_t] {
        &[WRITE, RESIZE]
    }
}

/// Why an image can't be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it open in a way that excludes this one.
    #[error("another process uses it")]
    InUse,
    /// The file system doesn't lock, or not this file.
    #[error("can't lock it")]
    Io(#[source] io::Error),
}

/// A lock on an image, held until dropped.
#[derive(Debug)]
pub struct FileLock {
    file: Arc<File>,
}

impl FileLock {
    /// Locks `file`, which must be open for reading, as its open file description: clones of the
    /// descriptor share the lock, another `open` of the same file doesn't.
    ///
    /// # Errors
    /// [`LockError`]. Nothing stays locked then.
    pub fn acquire(file: Arc<File>, mode: LockMode) -> Result<Self, LockError> {
        let fd = file.as_raw_fd();
        // From here on, dropping takes back whatever has been locked.
        let lock = Self { file };
        let mine = mode.does().iter().map(|bit| DOES + bit);
        for byte in mine.chain(mode.forbids().iter().map(|bit| FORBIDS + bit)) {
            set(fd, libc::F_RDLCK, (byte, 1)).map_err(|error| match error.raw_os_error() {
                // A foreign write lock over the whole file, as other VMMs take.
                Some(libc::EAGAIN | libc::EACCES) => LockError::InUse,
                _ => LockError::Io(error),
            })?;
        }
        let forbidden = mode.does().iter().map(|bit| FORBIDS + bit);
        for byte in forbidden.chain(mode.forbids().iter().map(|bit| DOES + bit)) {
            if held_by_another(fd, byte).map_err(LockError::Io)? {
                return Err(LockError::InUse);
            }
        }
        Ok(lock)
    }

    /// Lets others read the image: a writer's lock becomes a reader's. The holder doesn't write from
    /// before this on.
    ///
    /// # Errors
    /// The host's answer; nothing has changed then.
    pub fn downgrade(&self) -> io::Result<()> {
        set(self.file.as_raw_fd(), libc::F_UNLCK, (DOES + WRITE, 1))
    }

    /// Makes a lock that was [downgraded](Self::downgrade) a writer's again.
    ///
    /// # Errors
    /// [`LockError`] when somebody reads the image. The lock stays a reader's then.
    pub fn upgrade(&self) -> Result<(), LockError> {
        let fd = self.file.as_raw_fd();
        set(fd, libc::F_RDLCK, (DOES + WRITE, 1)).map_err(LockError::Io)?;
        let refusal = match held_by_another(fd, FORBIDS + WRITE) {
            Ok(false) => return Ok(()),
            Ok(true) => LockError::InUse,
            Err(error) => LockError::Io(error),
        };
        self.downgrade().map_err(LockError::Io)?;
        Err(refusal)
    }
}

impl Drop for FileLock {
    /// Unlocks at once: a request in an io_uring may keep the open file description a little longer.
    fn drop(&mut self) {
        if let Err(error) = set(self.file.as_raw_fd(), libc::F_UNLCK, ALL) {
            log::warn!("can't unlock a disk image: {error}");
        }
    }
}

fn describe(kind: c_int, (start, len): (off_t, off_t)) -> libc::flock {
    // The constants are C ints for a field that C declares as short.
    #[expect(clippy::cast_possible_truncation, reason = "lock kinds are 0, 1 and 2")]
    let l_type = kind as c_short;
    #[expect(clippy::cast_possible_truncation, reason = "SEEK_SET is 0")]
    let l_whence = libc::SEEK_SET as c_short;
    libc::flock { l_type, l_whence, l_start: start, l_len: len, l_pid: 0 }
}

fn set(fd: RawFd, kind: c_int, bytes: (off_t, off_t)) -> io::Result<()> {
    let description = describe(kind, bytes);
    // SAFETY: `F_OFD_SETLK` reads one `struct flock`, which lives across the call; a descriptor
    // that isn't open is an error, not undefined.
    match unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw const description) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Tells whether another open file description holds any lock on `byte`.
fn held_by_another(fd: RawFd, byte: off_t) -> io::Result<bool> {
    let mut description = describe(libc::F_WRLCK, (byte, 1));
    // SAFETY: `F_OFD_GETLK` reads and writes one `struct flock`, which lives across the call.
    match unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &raw mut description) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(c_int::from(description.l_type) != libc::F_UNLCK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::path::Path;

    fn open(path: &Path) -> Arc<File> {
        Arc::new(OpenOptions::new().read(true).write(true).open(path).unwrap())
    }

    fn acquire(path: &Path, mode: LockMode) -> Result<FileLock, LockError> {
        FileLock::acquire(open(path), mode)
    }

    #[test]
    fn writer_excludes_writers_and_readers_until_dropped() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let writer = acquire(image.path(), LockMode::Write).unwrap();
        for mode in [LockMode::Write, LockMode::Read] {
            assert!(matches!(acquire(image.path(), mode), Err(LockError::InUse)), "{mode:?}");
        }
        drop(writer);
        acquire(image.path(), LockMode::Write).unwrap();
    }

    #[test]
    fn readers_share_and_exclude_a_writer() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let _first = acquire(image.path(), LockMode::Read).unwrap();
        let _second = acquire(image.path(), LockMode::Read).unwrap();
        assert!(matches!(acquire(image.path(), LockMode::Write), Err(LockError::InUse)));
    }

    #[test]
    fn refused_opener_leaves_no_lock_behind() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let reader = acquire(image.path(), LockMode::Read).unwrap();
        assert!(acquire(image.path(), LockMode::Write).is_err());
        let _second = acquire(image.path(), LockMode::Read).expect("no trace of the writer");
        drop(reader);
    }

    #[test]
    fn lock_is_gone_when_dropped_although_its_description_stays_open() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let file = open(image.path());
        drop(FileLock::acquire(Arc::clone(&file), LockMode::Write).unwrap());
        acquire(image.path(), LockMode::Write).unwrap();
        drop(file);
    }

    #[test]
    fn downgraded_writer_shares_with_readers_until_it_writes_again() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let lock = acquire(image.path(), LockMode::Write).unwrap();
        lock.downgrade().unwrap();
        assert!(matches!(acquire(image.path(), LockMode::Write), Err(LockError::InUse)));
        let reader = acquire(image.path(), LockMode::Read).unwrap();
        assert!(matches!(lock.upgrade(), Err(LockError::InUse)));
        let second = acquire(image.path(), LockMode::Read).expect("a reader's lock still");
        drop((reader, second));
        lock.upgrade().unwrap();
        assert!(matches!(acquire(image.path(), LockMode::Read), Err(LockError::InUse)));
        drop(lock);
        acquire(image.path(), LockMode::Write).unwrap();
    }

    #[test]
    fn write_lock_over_the_whole_file_is_in_use_too() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let other = open(image.path());
        set(other.as_raw_fd(), libc::F_WRLCK, (0, 0)).unwrap();
        assert!(matches!(acquire(image.path(), LockMode::Read), Err(LockError::InUse)));
    }
}
