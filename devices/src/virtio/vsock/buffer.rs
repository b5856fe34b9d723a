//! Bytes from the guest that the host's program hasn't taken yet.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;

use sys::memory::GuestRam;
use vm_memory::{
    Bytes, GuestMemory, Permissions, VolatileMemoryError, VolatileSlice, WriteVolatile,
};

use super::packet::GuestPacket;

/// How many bytes a connection holds at most: the credit that its guest gets.
pub(super) const SEND_BUFFER_SIZE: u32 = 128 << 10;

/// A queue of at most [`SEND_BUFFER_SIZE`] bytes, which takes no memory while it's empty.
#[derive(Debug, Default)]
pub(super) struct SendBuffer {
    bytes: VecDeque<u8>,
}

impl SendBuffer {
    /// Tells whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Tells whether there is room for `bytes` more.
    pub(super) fn has_room(&self, bytes: u32) -> bool {
        let room = usize::try_from(SEND_BUFFER_SIZE).unwrap_or(0).saturating_sub(self.bytes.len());
        usize::try_from(bytes).is_ok_and(|bytes| bytes <= room)
    }

    /// Sends the payload of `packet` to `stream`, behind what is held already, and holds what the
    /// stream doesn't take; there must be room. Returns how many bytes it took.
    ///
    /// # Errors
    /// When the other end of `stream` is gone.
    pub(super) fn send(
        &mut self,
        mut stream: &UnixStream,
        memory: &GuestRam,
        packet: &GuestPacket,
    ) -> io::Result<u32> {
        let mut taken: u32 = 0;
        for segment in &packet.payload {
            let len = usize::try_from(segment.len).unwrap_or(0);
            let slices = memory
                .get_slices(segment.address, len, Permissions::Read)
                .map_err(io::Error::other)?;
            for slice in slices {
                let mut slice = slice.map_err(io::Error::other)?;
                while self.bytes.is_empty() && !slice.is_empty() {
                    let sent = match stream.write_volatile(&slice) {
                        Ok(sent) => sent,
                        Err(VolatileMemoryError::IOError(error)) if is_full(&error) => break,
                        Err(VolatileMemoryError::IOError(error)) if is_interrupted(&error) => 0,
                        Err(VolatileMemoryError::IOError(error)) => return Err(error),
                        Err(error) => return Err(io::Error::other(error)),
                    };
                    taken = taken.saturating_add(u32::try_from(sent).unwrap_or(u32::MAX));
                    slice = slice.offset(sent).map_err(io::Error::other)?;
                }
                self.hold(&slice)?;
            }
        }
        Ok(taken)
    }

    fn hold(&mut self, slice: &VolatileSlice<'_>) -> io::Result<()> {
        let start = self.bytes.len();
        self.bytes.resize(start.saturating_add(slice.len()), 0);
        let (front, back) = self.bytes.as_mut_slices();
        let skip = start.saturating_sub(front.len());
        let mut done = 0;
        for part in [front.get_mut(start..), back.get_mut(skip..)].into_iter().flatten() {
            slice.read_slice(part, done).map_err(io::Error::other)?;
            done = done.saturating_add(part.len());
        }
        Ok(())
    }

    /// Sends what is held to `stream`, as much as it takes. Returns how many bytes it took.
    ///
    /// # Errors
    /// When the other end of `stream` is gone.
    pub(super) fn flush(&mut self, mut stream: &UnixStream) -> io::Result<u32> {
        let mut taken: u32 = 0;
        while !self.bytes.is_empty() {
            let (front, back) = self.bytes.as_slices();
            match stream.write_vectored(&[IoSlice::new(front), IoSlice::new(back)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    self.bytes.drain(..sent);
                    taken = taken.saturating_add(u32::try_from(sent).unwrap_or(u32::MAX));
                }
                Err(error) if is_full(&error) => return Ok(taken),
                Err(error) if is_interrupted(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes = VecDeque::new();
        Ok(taken)
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn is_interrupted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}
