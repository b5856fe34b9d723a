//! Frames from the driver to the host.

use std::io;
use std::sync::Arc;

use sys::memory::GuestRam;
use sys::tap::{GuestVectors, Offloads, VNET_HEADER_SIZE};
use vm_memory::{Address, Bytes};
use zerocopy::{FromZeros, IntoBytes};

use super::backend::FrameBackend;
use super::features::Features;
use super::header::FrameHeader;
use super::metrics::NetMetrics;
use super::{BUDGET, MAX_FRAME_SIZE};
use crate::rate_limiter::RateLimiter;
use crate::virtio::{Chain, ChainBuffers, DeviceQueue, QueueError};

/// How far a run came, and with it what to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TxProgress {
    /// Everything is sent: wait for the driver's kick, which it was asked for.
    RingEmpty,
    /// The host's side is full: wait until it's writable.
    BackendFull,
    /// A rate limit is reached: wait for its timer.
    Limited,
    /// There may be more at once, after the other direction had its turn.
    More,
}

/// What became of one chain.
enum Verdict {
    /// It can go back to the driver, sent or not.
    Done,
    /// It must be tried again when there is a reason to.
    Later(TxProgress),
}

/// The transmit queue of one pair.
pub(super) struct Transmitter {
    queue: DeviceQueue,
    limiter: RateLimiter,
    chain: ChainBuffers,
    frame: GuestVectors,
    allowed: Offloads,
    /// The next chain passed the rate limit before the host's side was found full.
    paid: bool,
    metrics: Arc<NetMetrics>,
}

impl Transmitter {
    /// Takes over `queue`.
    pub(super) fn new(
        queue: DeviceQueue,
        memory: GuestRam,
        features: Features,
        limiter: RateLimiter,
        metrics: Arc<NetMetrics>,
    ) -> Self {
        Self {
            queue,
            limiter,
            chain: ChainBuffers::default(),
            frame: GuestVectors::new(memory),
            allowed: features.transmit_offloads(),
            paid: false,
            metrics,
        }
    }

    /// Returns the queue.
    pub(super) fn queue(&self) -> &DeviceQueue {
        &self.queue
    }

    /// Returns the rate limiter, for its timer.
    pub(super) fn limiter(&mut self) -> &mut RateLimiter {
        &mut self.limiter
    }

    /// Sends frames until there are no more or the host takes no more, and interrupts the driver
    /// once.
    ///
    /// # Errors
    /// [`QueueError`] when the driver broke the queue.
    pub(super) fn run(&mut self, backend: &dyn FrameBackend) -> Result<TxProgress, QueueError> {
        let memory = self.frame.memory().clone();
        self.queue.disable_notification(&memory)?;
        let progress = self.send_frames(&memory, backend)?;
        self.queue.signal_used(&memory)?;
        Ok(progress)
    }

    fn send_frames(
        &mut self,
        memory: &GuestRam,
        backend: &dyn FrameBackend,
    ) -> Result<TxProgress, QueueError> {
        for _ in 0..BUDGET {
            let Some(chain) = self.queue.pop(memory)? else {
                if self.queue.enable_notification(memory)? {
                    continue;
                }
                return Ok(TxProgress::RingEmpty);
            };
            let head = chain.head_index();
            match self.send(memory, chain, backend) {
                Verdict::Done => self.queue.add_used(memory, head, 0)?,
                Verdict::Later(reason) => {
                    self.queue.undo_pop();
                    return Ok(reason);
                }
            }
        }
        Ok(TxProgress::More)
    }

    fn send(&mut self, memory: &GuestRam, chain: Chain<'_>, backend: &dyn FrameBackend) -> Verdict {
        let Some((header, frame_len)) = self.parse(memory, chain) else {
            self.metrics.tx_malformed.add(1);
            return Verdict::Done;
        };
        let bytes = frame_len.saturating_add(VNET_HEADER_SIZE);
        let paid = std::mem::take(&mut self.paid);
        if !paid && !self.limiter.consume(1, u64::try_from(bytes).unwrap_or(u64::MAX)) {
            self.metrics.rate_limited.add(1);
            return Verdict::Later(TxProgress::Limited);
        }
        match backend.send(header.as_bytes(), &mut self.frame) {
            Ok(()) => {
                self.metrics.tx_frames.add(1);
                self.metrics.tx_bytes.add(frame_len);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.paid = true;
                return Verdict::Later(TxProgress::BackendFull);
            }
            // The kernel found what the header says untrue of the frame.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.metrics.tx_malformed.add(1);
            }
            Err(_) => self.metrics.tx_dropped.add(1),
        }
        Verdict::Done
    }

    /// Copies the header of `chain` and collects the frame behind it; none if it can't be sent.
    fn parse(&mut self, memory: &GuestRam, chain: Chain<'_>) -> Option<(FrameHeader, usize)> {
        self.chain.fill(memory, chain).ok()?;
        if !self.chain.writable.is_empty() {
            return None;
        }
        let mut header = FrameHeader::new_zeroed();
        let (mut copied, mut frame_len) = (0usize, 0usize);
        self.frame.clear();
        for segment in &self.chain.readable {
            let len = usize::try_from(segment.len).ok()?;
            let rest = header.as_mut_bytes().get_mut(copied..)?;
            let in_header = len.min(rest.len());
            memory.read_slice(rest.get_mut(..in_header)?, segment.address).ok()?;
            copied = copied.saturating_add(in_header);
            let in_frame = len.saturating_sub(in_header);
            frame_len = frame_len.saturating_add(in_frame);
            if frame_len > MAX_FRAME_SIZE {
                return None;
            }
            if in_frame > 0 {
                let start = segment.address.checked_add(u64::try_from(in_header).ok()?)?;
                self.frame.push(start, in_frame).ok()?;
            }
        }
        let valid = frame_len > 0 && header.sanitize(frame_len, self.allowed);
        valid.then_some((header, frame_len))
    }
}
