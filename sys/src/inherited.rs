//! File descriptors that the parent process handed down by number.
#![expect(unsafe_code, reason = "takes ownership of a descriptor known only by its number")]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::FdFlags;

/// Numbers that have an owner already.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes over descriptor `number`, which this process was started with, and keeps it from being
/// handed down further.
///
/// Call it before anything else opens files: until then, a number that is open is the parent's.
///
/// # Errors
/// When the number isn't open, is one of the standard streams, or was taken before.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::other("the standard streams can't be taken"));
    }
    // SAFETY: `number` isn't -1; a number that isn't open makes the next call fail, no more.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !taken.insert(number) {
        return Err(io::Error::other("taken before"));
    }
    // SAFETY:
    // - The descriptor is open: its flags were just set.
    // - Nobody else owns it: by this function's contract nothing was opened yet, and each number
    //   is given out once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn open_number_is_taken_once_and_others_are_refused() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let number = OwnedFd::from(reader).into_raw_fd();
        assert_eq!(take(number).unwrap().as_raw_fd(), number);
        assert!(take(number).is_err());
        for number in [-1, 0, 1, 2, 1_000_000] {
            assert!(take(number).is_err(), "{number}");
        }
    }
}
