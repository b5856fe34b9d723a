//! A client's input, and the keys in it that leave the session.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

const BUFFER_BYTES: usize = 64 << 10;

/// How a client's input came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputEnd {
    /// There's no more of it.
    Eof,
    /// The keys were pressed that leave the session.
    Detached,
    /// The session is over.
    Cancelled,
}

/// Ends a pump of input from another thread.
#[derive(Debug)]
pub(super) struct Cancel(OwnedFd);

impl Cancel {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(super) fn cancel(&self) {
        // It fails only when it's readable already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// Recognizes the keys that leave a session. What may be their beginning is held back.
#[derive(Debug)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    pub(super) const fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Takes input, and adds what's for the process to `out`; true once all keys were pressed.
    fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        for byte in bytes {
            if self.keys.get(self.matched) != Some(byte) {
                out.extend(self.keys.get(..self.matched).unwrap_or_default());
                self.matched = 0;
            }
            if self.keys.get(self.matched) != Some(byte) {
                out.push(*byte);
                continue;
            }
            self.matched += 1;
            if self.matched == self.keys.len() {
                return true;
            }
        }
        false
    }

    /// What was held back, once there's no more input.
    fn rest(&self) -> &[u8] {
        self.keys.get(..self.matched).unwrap_or_default()
    }
}

/// Reads input and hands it on in pieces, until its end.
pub(super) fn pump(
    from: &OwnedFd,
    mut keys: DetachKeys,
    cancel: &Cancel,
    mut hand_on: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<InputEnd> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut out = Vec::new();
    loop {
        if wait(from, cancel)? {
            return Ok(InputEnd::Cancelled);
        }
        let read = match rustix::io::read(from, &mut buffer) {
            Ok(read) => read,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            // A terminal that was hung up.
            Err(Errno::IO) => 0,
            Err(errno) => return Err(errno.into()),
        };
        if read == 0 {
            if !keys.rest().is_empty() {
                hand_on(keys.rest())?;
            }
            return Ok(InputEnd::Eof);
        }
        out.clear();
        let detached = keys.feed(buffer.get(..read).unwrap_or_default(), &mut out);
        if !out.is_empty() {
            hand_on(&out)?;
        }
        if detached {
            return Ok(InputEnd::Detached);
        }
    }
}

/// Waits for input; true if there's none to be awaited any more.
fn wait(from: &OwnedFd, cancel: &Cancel) -> io::Result<bool> {
    loop {
        let mut sources = [
            PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN),
            PollFd::new(&cancel.0, PollFlags::IN),
        ];
        match poll(&mut sources, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let [_, cancelled] = &sources;
        return Ok(!cancelled.revents().is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn fed(pieces: &[&[u8]]) -> (Vec<u8>, bool, Vec<u8>) {
        let mut keys = DetachKeys::new(vec![0x10, 0x11]);
        let mut out = Vec::new();
        let detached = pieces.iter().any(|piece| keys.feed(piece, &mut out));
        (out, detached, keys.rest().to_vec())
    }

    #[test]
    fn detach_keys_are_found_across_pieces_and_never_sent() {
        assert_eq!(fed(&[b"ab\x10\x11c"]), (b"ab".to_vec(), true, vec![0x10, 0x11]));
        assert!(fed(&[b"ab\x10", b"\x11"]).1);
        assert_eq!(fed(&[b"\x10\x10\x11"]), (vec![0x10], true, vec![0x10, 0x11]));
    }

    #[test]
    fn half_of_the_detach_keys_is_input_after_all() {
        assert_eq!(fed(&[b"\x10", b"x"]), (b"\x10x".to_vec(), false, vec![]));
        assert_eq!(fed(&[b"\x10"]), (vec![], false, vec![0x10]));
        let mut none = DetachKeys::new(Vec::new());
        let mut out = Vec::new();
        assert!(!none.feed(b"\x10\x11", &mut out));
        assert_eq!(out, b"\x10\x11");
    }

    #[test]
    fn input_ends_with_its_end_by_keys_or_when_cancelled() {
        for (input, keys, expected, end) in [
            (&b"all\x10"[..], vec![0x10, 0x11], &b"all\x10"[..], InputEnd::Eof),
            (b"some\x10\x11more", vec![0x10, 0x11], b"some", InputEnd::Detached),
        ] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(input).unwrap();
            drop(ours);
            let mut got = Vec::new();
            let cancel = Cancel::new().unwrap();
            let ended = pump(&theirs.into(), DetachKeys::new(keys), &cancel, |bytes| {
                got.extend_from_slice(bytes);
                Ok(())
            });
            assert_eq!((ended.unwrap(), got.as_slice()), (end, expected));
        }
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let cancel = Cancel::new().unwrap();
        cancel.cancel();
        let ended = pump(&theirs.into(), DetachKeys::new(Vec::new()), &cancel, |_| Ok(()));
        assert_eq!(ended.unwrap(), InputEnd::Cancelled);
    }
}
