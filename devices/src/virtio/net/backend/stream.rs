//! Frames over a Unix stream socket, as QEMU's `-netdev stream` and `passt` have it: the length in
//! four bytes, big-endian, then the frame.
//!
//! There is no header that says what is left undone in a frame, so nothing is: the card offers no
//! offloads. Both directions may stop in the middle of a frame. What arrived of one waits in a
//! buffer for the rest; what couldn't be sent of one goes out before the next is taken.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sys::tap::{GuestVectors, Offloads, Received, VNET_HEADER_SIZE};

use super::FrameBackend;
use crate::virtio::net::MAX_FRAME_SIZE;

/// Size of the length before each frame.
const PREFIX_SIZE: usize = 4;
/// An Ethernet header: nothing shorter is a frame.
const MIN_FRAME_SIZE: usize = 14;
/// Room for the largest frame, and for many small ones that arrive at once.
const BUFFER_SIZE: usize = 128 << 10;

const _: () = assert!(BUFFER_SIZE > PREFIX_SIZE + MAX_FRAME_SIZE);

/// A connection to a process that is the guest's network, such as `passt`.
#[derive(Debug)]
pub struct StreamBackend {
    socket: UnixStream,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
}

/// What arrived and isn't delivered yet.
#[derive(Debug)]
struct Incoming {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// The rest of a frame that was sent in part.
#[derive(Debug, Default)]
struct Outgoing {
    rest: Vec<u8>,
    sent: usize,
}

impl StreamBackend {
    /// Connects to the process that listens at `path`.
    ///
    /// # Errors
    /// What `connect` says.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::over(UnixStream::connect(path)?)
    }

    /// Takes over a connection.
    ///
    /// # Errors
    /// When it can't be made non-blocking.
    pub fn over(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let incoming = Incoming { buffer: vec![0; BUFFER_SIZE], start: 0, end: 0 };
        Ok(Self { socket, incoming: Mutex::new(incoming), outgoing: Mutex::default() })
    }
}

impl AsFd for StreamBackend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl FrameBackend for StreamBackend {
    /// Everything goes to `spill`: where a frame ends is known only once it has arrived.
    fn receive(
        &self,
        _buffers: &mut GuestVectors,
        _count: usize,
        spill: &mut [u8],
    ) -> io::Result<Received> {
        let mut incoming = lock(&self.incoming);
        loop {
            if let Some(len) = incoming.take_frame(spill)? {
                return Ok(Received { len, in_guest: 0 });
            }
            incoming.fill(&self.socket)?;
        }
    }

    fn send(&self, _header: &[u8], frame: &mut GuestVectors) -> io::Result<()> {
        let mut outgoing = lock(&self.outgoing);
        outgoing.flush(&self.socket)?;
        let len = u32::try_from(frame.byte_len()).map_err(io::Error::other)?;
        let prefix = len.to_be_bytes();
        let sent = frame.write_frame(self.as_fd(), &prefix)?;
        outgoing.keep_rest(prefix, frame, sent);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        lock(&self.outgoing).flush(&self.socket)
    }

    fn supported_offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn set_offloads(&self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn set_enabled(&self, _enabled: bool) -> io::Result<()> {
        Ok(())
    }
}

impl Incoming {
    /// Copies the next frame, if all of it is there, behind an empty header to `spill`. Returns the
    /// length of both.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for a length that no frame has: what follows can't be
    /// understood any more.
    fn take_frame(&mut self, spill: &mut [u8]) -> io::Result<Option<usize>> {
        let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((prefix, rest)) = waiting.split_first_chunk::<PREFIX_SIZE>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if !(MIN_FRAME_SIZE..=MAX_FRAME_SIZE).contains(&len) {
            let message = format!("the other side announced a frame of {len} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let Some(frame) = rest.get(..len) else { return Ok(None) };
        let room = spill.split_at_mut_checked(VNET_HEADER_SIZE);
        let Some((header, room)) = room else { return Err(io::ErrorKind::OutOfMemory.into()) };
        let Some(room) = room.get_mut(..len) else { return Err(io::ErrorKind::OutOfMemory.into()) };
        header.fill(0);
        room.copy_from_slice(frame);
        self.start = self.start.saturating_add(PREFIX_SIZE).saturating_add(len);
        Ok(Some(len.saturating_add(VNET_HEADER_SIZE)))
    }

    /// Reads what has arrived, behind the part of a frame that's there.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing has; [`io::ErrorKind::UnexpectedEof`] when the
    /// other side is gone.
    fn fill(&mut self, mut socket: &UnixStream) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end.saturating_sub(self.start));
        // Less than a frame is there, so there's room.
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        loop {
            match socket.read(room) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    self.end = self.end.saturating_add(len);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Outgoing {
    /// Sends the rest of the last frame.
    fn flush(&mut self, mut socket: &UnixStream) -> io::Result<()> {
        while let Some(rest) = self.rest.get(self.sent..)
            && !rest.is_empty()
        {
            match socket.write(rest) {
                Ok(sent) => self.sent = self.sent.saturating_add(sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.rest.clear();
        self.sent = 0;
        Ok(())
    }

    /// Copies what is left of `prefix` and `frame` after their first `sent` bytes: the guest gets
    /// its buffers back now. It's at most a frame, of the length that was announced, whatever the
    /// guest does to it meanwhile.
    fn keep_rest(&mut self, prefix: [u8; PREFIX_SIZE], frame: &GuestVectors, sent: usize) {
        let len = frame.byte_len();
        if sent >= len.saturating_add(PREFIX_SIZE) {
            return;
        }
        self.rest.extend_from_slice(prefix.get(sent..).unwrap_or_default());
        let before = self.rest.len();
        let in_frame = sent.saturating_sub(PREFIX_SIZE);
        self.rest.resize(before.saturating_add(len.saturating_sub(in_frame)), 0);
        if let Some(rest) = self.rest.get_mut(before..) {
            frame.read_at(in_frame, rest);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
