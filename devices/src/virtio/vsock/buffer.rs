//! Bytes from the guest that the host's program hasn't taken yet.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;

use sys::memory::{GuestRam, GuestSlice};
use vm_memory::{Bytes, GuestMemory, Permissions, VolatileMemoryError, WriteVolatile};

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

    fn hold(&mut self, slice: &GuestSlice<'_>) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use vm_memory::GuestAddress;

    use super::*;
    use crate::virtio::Segment;
    use crate::virtio::testing::guest_ram;

    #[test]
    fn bytes_keep_their_order_while_the_program_reads_in_fits_and_starts() {
        let memory = guest_ram();
        let (ours, mut program) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        program.set_nonblocking(true).unwrap();
        let data: Vec<u8> = (0..4_000_000u32).map(|at| (at / 251) as u8 ^ at as u8).collect();
        let mut buffer = SendBuffer::default();
        let (mut sent, mut taken, mut read) = (0, 0, Vec::<u8>::new());
        let mut packet = GuestPacket::default();
        while read.len() < data.len() {
            for len in [9000u32, 50_000, 1, 30_000] {
                let part = data.len().min(sent + len as usize) - sent;
                if part == 0 || !buffer.has_room(len) {
                    continue;
                }
                memory.write_slice(&data[sent..sent + part], GuestAddress(0x8000)).unwrap();
                packet.payload = vec![
                    Segment { address: GuestAddress(0x8000), len: 1 },
                    Segment { address: GuestAddress(0x8001), len: part as u32 - 1 },
                ];
                packet.payload.retain(|segment| segment.len > 0);
                taken += buffer.send(&ours, &memory, &packet).unwrap();
                sent += part;
            }
            let mut bytes = vec![0; 1 + read.len() % 150_000];
            if let Ok(len) = program.read(&mut bytes) {
                read.extend(&bytes[..len]);
            }
            taken += buffer.flush(&ours).unwrap();
        }
        assert!(read == data);
        assert_eq!((taken as usize, buffer.is_empty()), (data.len(), true));
    }

    #[test]
    fn room_ends_at_the_promised_size() {
        let mut buffer = SendBuffer::default();
        assert!(buffer.has_room(SEND_BUFFER_SIZE));
        assert!(!buffer.has_room(SEND_BUFFER_SIZE + 1));
        buffer.bytes.push_back(0);
        assert!(!buffer.has_room(SEND_BUFFER_SIZE));
        assert!(!buffer.has_room(u32::MAX));
    }
}
