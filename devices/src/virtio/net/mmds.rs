//! The metadata service on a network card: a host side before the host side.
//!
//! Frames for the service never reach the TAP, and its own reach the guest the same way as the
//! TAP's, within the same rate limits.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sys::tap::{GuestVectors, Offloads, Received, VNET_HEADER_SIZE};

use super::FrameBackend;
use crate::mmds::{FRAME_HEAD_SIZE, MMDS_MAC, Mmds, MmdsStack, is_for};
use crate::virtio::deadline::Deadlines;

/// One card's stack. All pairs of queues send to it; it answers on the first, whose worker waits
/// for its timer.
pub(super) struct MmdsPort {
    mmds: Arc<Mmds>,
    ipv4: Ipv4Addr,
    state: Mutex<PortState>,
    timer: RawFd,
    /// Frames wait for the guest. Spares those who look for some the lock.
    waiting: AtomicBool,
}

struct PortState {
    stack: MmdsStack,
    /// Expires at once when a frame waits, else when the stack has something to do.
    deadlines: Deadlines,
}

impl MmdsPort {
    /// Creates a stack at the address that `mmds` is configured with now.
    ///
    /// # Errors
    /// When the host has no timers left.
    pub(super) fn new(mmds: Arc<Mmds>) -> io::Result<Arc<Self>> {
        let ipv4 = mmds.config().ipv4_address;
        let deadlines = Deadlines::new()?;
        let timer = deadlines.raw_fd();
        let stack = MmdsStack::new(Arc::clone(&mmds), MMDS_MAC, ipv4);
        let state = Mutex::new(PortState { stack, deadlines });
        Ok(Arc::new(Self { mmds, ipv4, state, timer, waiting: AtomicBool::new(false) }))
    }

    /// Puts the port before each of `backends`, those of one card in their order.
    pub(super) fn before(
        self: &Arc<Self>,
        backends: Vec<Box<dyn FrameBackend>>,
    ) -> Vec<Box<dyn FrameBackend>> {
        let wrap = |(index, inner)| -> Box<dyn FrameBackend> {
            Box::new(MmdsBackend { inner, port: Arc::clone(self), receives: index == 0 })
        };
        backends.into_iter().enumerate().map(wrap).collect()
    }

    /// Returns the file descriptor that becomes readable when [`timer_expired`] is to be called,
    /// and then frames are to be received.
    ///
    /// [`timer_expired`]: Self::timer_expired
    pub(super) fn raw_fd(&self) -> RawFd {
        self.timer
    }

    /// Does what the timer expired for.
    pub(super) fn timer_expired(&self) {
        let mut state = self.lock();
        state.deadlines.acknowledge();
        state.stack.poll();
        self.waiting.store(state.stack.has_frames(), Ordering::Release);
        let deadline = state.stack.next_deadline();
        state.deadlines.include(deadline);
    }

    /// Ends all connections: the guest that had them is gone.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.stack = MmdsStack::new(Arc::clone(&self.mmds), MMDS_MAC, self.ipv4);
        self.waiting.store(false, Ordering::Release);
    }

    /// Takes a frame that is for the service.
    fn send(&self, frame: &GuestVectors) {
        // The card let no frame through that is larger than it can be.
        let mut bytes = vec![0; frame.byte_len()];
        let len = frame.read_at(0, &mut bytes);
        bytes.truncate(len);
        let mut state = self.lock();
        state.stack.receive(&bytes);
        self.schedule(&mut state);
    }

    /// Writes the next frame and its header to `spill`, if there is one.
    fn receive(&self, spill: &mut [u8]) -> Option<Received> {
        if !self.waiting.load(Ordering::Acquire) {
            return None;
        }
        let (header, frame) = spill.split_at_mut_checked(VNET_HEADER_SIZE)?;
        header.fill(0);
        let mut state = self.lock();
        let len = state.stack.next_frame(frame);
        self.schedule(&mut state);
        Some(Received { len: len?.saturating_add(VNET_HEADER_SIZE), in_guest: 0 })
    }

    /// Sees to it that the worker comes for frames, also if it stops after this one; or when the
    /// stack has something to do.
    fn schedule(&self, state: &mut PortState) {
        let waiting = state.stack.has_frames();
        self.waiting.store(waiting, Ordering::Release);
        let deadline = if waiting { Some(Instant::now()) } else { state.stack.next_deadline() };
        state.deadlines.include(deadline);
    }

    fn lock(&self) -> MutexGuard<'_, PortState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One queue of the host's side, with the service before it.
struct MmdsBackend {
    inner: Box<dyn FrameBackend>,
    port: Arc<MmdsPort>,
    /// This is the queue on which the service answers.
    receives: bool,
}

impl AsFd for MmdsBackend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl FrameBackend for MmdsBackend {
    fn receive(
        &self,
        buffers: &mut GuestVectors,
        count: usize,
        spill: &mut [u8],
    ) -> io::Result<Received> {
        // From the spill buffer, the frame goes to whichever buffers it needs.
        match self.receives.then(|| self.port.receive(spill)).flatten() {
            Some(frame) => Ok(frame),
            None => self.inner.receive(buffers, count, spill),
        }
    }

    fn send(&self, header: &[u8], frame: &mut GuestVectors) -> io::Result<()> {
        let mut head = [0; FRAME_HEAD_SIZE];
        let len = frame.read_at(0, &mut head);
        if head.get(..len).is_some_and(|head| is_for(self.port.ipv4, head)) {
            self.port.send(frame);
            return Ok(());
        }
        self.inner.send(header, frame)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn supported_offloads(&self) -> Offloads {
        self.inner.supported_offloads()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.inner.set_offloads(offloads)
    }

    fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        self.inner.set_enabled(enabled)
    }
}
