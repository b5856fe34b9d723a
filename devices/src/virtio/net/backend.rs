//! Where frames come from and go to.

mod stream;

use std::io;
use std::os::fd::AsFd;

use sys::tap::{GuestVectors, Offloads, Received, Tap};

pub use stream::StreamBackend;

/// One queue of the host's side of a network card: a non-blocking file descriptor on which each
/// read or write is one frame behind a `virtio_net_hdr_v1` (VIRTIO 1.3 §5.1.6).
///
/// It polls as readable when a frame waits and as writable when there is room for one; one that reads
/// ahead may have frames without. The provided methods suit everything that `readv` and `writev`
/// work on.
pub trait FrameBackend: AsFd + Send + Sync {
    /// Reads one frame into the first `count` of `buffers` and what doesn't fit into `spill`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when no frame waits; any other error ends the link, as does
    /// a frame of no bytes.
    fn receive(
        &self,
        buffers: &mut GuestVectors,
        count: usize,
        spill: &mut [u8],
    ) -> io::Result<Received> {
        buffers.read_frame(self.as_fd(), count, spill)
    }

    /// Sends `header` and `frame` as one frame.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is no room; any other error loses this frame only.
    fn send(&self, header: &[u8], frame: &mut GuestVectors) -> io::Result<()> {
        frame.write_frame(self.as_fd(), header).map(drop)
    }

    /// Sends what is left of a frame that [`send`](Self::send) took and sent in part.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is no room for all of it; any other error loses it.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Says what may be left undone in frames, in both directions.
    fn supported_offloads(&self) -> Offloads;

    /// Sets what may be left undone in received frames; for all queues of the card.
    ///
    /// # Errors
    /// When the host refuses.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;

    /// Takes this queue into the host's distribution of frames, or out of it.
    ///
    /// # Errors
    /// When the host refuses.
    fn set_enabled(&self, enabled: bool) -> io::Result<()>;
}

impl FrameBackend for Tap {
    fn supported_offloads(&self) -> Offloads {
        Self::supported_offloads(self)
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        Self::set_offloads(self, offloads)
    }

    fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        Self::set_enabled(self, enabled)
    }
}
