//! Frames from the host into the driver's buffers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use sys::memory::GuestRam;
use sys::tap::{GuestVectors, Received, VNET_HEADER_SIZE};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

use super::backend::FrameBackend;
use super::features::Features;
use super::header::NUM_BUFFERS_OFFSET;
use super::metrics::NetMetrics;
use super::{BUDGET, MAX_FRAME_SIZE};
use crate::rate_limiter::RateLimiter;
use crate::virtio::{Chain, ChainBuffers, DeviceQueue, QueueError};

/// Room for what doesn't fit the driver's buffers: any frame that Linux hands out, and more.
const SPILL_SIZE: usize = 128 << 10;

/// Where holding more host buffers than one read takes stops.
const MAX_HELD_VECTORS: usize = 1024;

/// How far a run came, and with it what to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RxProgress {
    /// No frame waits: wait for the backend.
    BackendEmpty,
    /// The driver's buffers are used up: wait for its kick, which it was asked for.
    RingEmpty,
    /// A rate limit is reached: wait for its timer.
    Limited,
    /// There may be more at once, after the other direction had its turn.
    More,
    /// The backend is gone: there is nothing to wait for.
    BackendLost,
}

/// A chain that was popped and waits for a frame.
struct HeldChain {
    head: u16,
    /// Its element in the available ring.
    position: u16,
    vectors: usize,
    bytes: usize,
}

/// The receive queue of one pair.
///
/// Chains are popped ahead, as many as the largest frame may need, and a frame is read straight
/// into them. What doesn't fit goes to a spill buffer and waits there, parked, until the driver
/// adds buffers.
pub(super) struct Receiver {
    queue: DeviceQueue,
    limiter: RateLimiter,
    /// Bytes of the last frame, whose size was known only once it was read: paid before the next.
    owed: Option<u64>,
    chain: ChainBuffers,
    vectors: GuestVectors,
    held: VecDeque<HeldChain>,
    held_bytes: usize,
    spill: Vec<u8>,
    parked: Option<Received>,
    used: Vec<(u16, u32)>,
    mergeable: bool,
    /// How many bytes of buffers to hold before a frame of unknown size is read.
    wanted: usize,
    metrics: Arc<NetMetrics>,
}

impl Receiver {
    /// Takes over `queue`. `mtu` is what frames without segmentation offload are expected to keep.
    pub(super) fn new(
        queue: DeviceQueue,
        memory: GuestRam,
        features: Features,
        mtu: usize,
        limiter: RateLimiter,
        metrics: Arc<NetMetrics>,
    ) -> Self {
        let offloads = features.receive_offloads();
        let large = offloads.tso4 || offloads.tso6 || offloads.uso;
        // An Ethernet header with a VLAN tag comes on top of the MTU.
        let frame = if large { MAX_FRAME_SIZE } else { mtu.saturating_add(18) };
        Self {
            queue,
            limiter,
            owed: None,
            chain: ChainBuffers::default(),
            vectors: GuestVectors::new(memory),
            held: VecDeque::new(),
            held_bytes: 0,
            spill: vec![0; SPILL_SIZE],
            parked: None,
            used: Vec::new(),
            mergeable: features.has(VIRTIO_NET_F_MRG_RXBUF),
            wanted: frame.saturating_add(VNET_HEADER_SIZE),
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

    /// Shows the chains that wait for a frame as not taken: a card that is restored takes them anew.
    /// A frame that waits for further chains is then lost, as on a wire.
    pub(super) fn show_held_as_available(&self) {
        if let Some(oldest) = self.held.front() {
            self.queue.show_available_from(oldest.position);
        }
    }

    /// Moves frames until one side has no more, and interrupts the driver once.
    ///
    /// # Errors
    /// [`QueueError`] when the driver broke the queue.
    pub(super) fn run(&mut self, backend: &dyn FrameBackend) -> Result<RxProgress, QueueError> {
        let memory = self.vectors.memory().clone();
        let progress = self.receive_frames(&memory, backend)?;
        self.queue.signal_used(&memory)?;
        Ok(progress)
    }

    fn receive_frames(
        &mut self,
        memory: &GuestRam,
        backend: &dyn FrameBackend,
    ) -> Result<RxProgress, QueueError> {
        for _ in 0..BUDGET {
            if !self.pay() {
                return Ok(RxProgress::Limited);
            }
            let frame = match self.parked.take() {
                Some(frame) => frame,
                None => {
                    self.hold(memory, self.wanted)?;
                    if self.held.is_empty() {
                        return Ok(RxProgress::RingEmpty);
                    }
                    match self.read(backend) {
                        Ok(frame) => frame,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Ok(RxProgress::BackendEmpty);
                        }
                        Err(error) => {
                            log::warn!("a network card's host side is gone: {error}");
                            return Ok(RxProgress::BackendLost);
                        }
                    }
                }
            };
            if !self.place(memory, frame)? {
                return Ok(RxProgress::RingEmpty);
            }
        }
        Ok(RxProgress::More)
    }

    /// Pays for the last frame; tells whether the rate limit allows another one.
    fn pay(&mut self) -> bool {
        if let Some(bytes) = self.owed {
            if !self.limiter.consume(1, bytes) {
                self.metrics.rate_limited.add(1);
                return false;
            }
            self.owed = None;
        }
        true
    }

    fn read(&mut self, backend: &dyn FrameBackend) -> io::Result<Received> {
        let count = if self.mergeable {
            self.vectors.len()
        } else {
            self.held.front().map_or(0, |chain| chain.vectors)
        };
        let frame = backend.receive(&mut self.vectors, count, &mut self.spill)?;
        if frame.len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.owed = u64::try_from(frame.len).ok();
        Ok(frame)
    }

    /// Delivers `frame`, drops it, or parks it: then it returns false.
    fn place(&mut self, memory: &GuestRam, frame: Received) -> Result<bool, QueueError> {
        let spilled = frame.len.saturating_sub(frame.in_guest);
        // A full spill buffer may have cut the frame off.
        let whole = frame.len > VNET_HEADER_SIZE && spilled < self.spill.len();
        let room = if self.mergeable {
            self.hold(memory, frame.len)?;
            self.held_bytes
        } else {
            self.held.front().map_or(0, |chain| chain.bytes)
        };
        if whole && room >= frame.len {
            if let Some(rest) = self.spill.get(..spilled) {
                self.vectors.write_at(frame.in_guest, rest);
            }
            self.deliver(memory, frame.len)?;
            return Ok(true);
        }
        if whole && self.mergeable && !self.is_hopeless() {
            self.parked = Some(frame);
            return Ok(false);
        }
        self.metrics.rx_dropped.add(1);
        Ok(true)
    }

    /// Tells that waiting for more buffers may mean to wait for ever.
    ///
    /// Drivers refill at the latest when half of their ring is free. One that has less than that
    /// free and still not enough posted would wait for a frame while the frame waits for it.
    fn is_hopeless(&self) -> bool {
        self.held.len() >= usize::from(self.queue.size()).div_ceil(2)
            || self.vectors.len() >= MAX_HELD_VECTORS
    }

    /// Pops chains until `bytes` (without mergeable buffers: one chain) are held or the ring is
    /// empty; then the driver is asked to notify.
    fn hold(&mut self, memory: &GuestRam, bytes: usize) -> Result<(), QueueError> {
        while self.wants_more(bytes) {
            match self.queue.pop(memory)? {
                Some(chain) => self.hold_chain(memory, chain)?,
                None if self.queue.enable_notification(memory)? => {}
                None => return Ok(()),
            }
        }
        self.queue.disable_notification(memory)
    }

    fn wants_more(&self, bytes: usize) -> bool {
        if !self.mergeable {
            return self.held.is_empty();
        }
        self.held_bytes < bytes
            && self.held.len() < usize::from(self.queue.size())
            && self.vectors.len() < MAX_HELD_VECTORS
    }

    fn hold_chain(&mut self, memory: &GuestRam, chain: Chain<'_>) -> Result<(), QueueError> {
        let head = chain.head_index();
        let before = self.vectors.len();
        let mut bytes = 0usize;
        let mut valid = self.chain.fill(memory, chain).is_ok() && self.chain.readable.is_empty();
        for segment in &self.chain.writable {
            let len = usize::try_from(segment.len).unwrap_or(usize::MAX);
            bytes = bytes.saturating_add(len);
            valid = valid && self.vectors.push(segment.address, len).is_ok();
        }
        if !valid || bytes < VNET_HEADER_SIZE {
            self.vectors.truncate(before);
            self.metrics.rx_bad_buffers.add(1);
            return self.queue.add_used(memory, head, 0);
        }
        let vectors = self.vectors.len().saturating_sub(before);
        let position = self.queue.last_popped();
        self.held.push_back(HeldChain { head, position, vectors, bytes });
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        Ok(())
    }

    /// Returns the chains that the first `len` held bytes lie in to the driver.
    fn deliver(&mut self, memory: &GuestRam, len: usize) -> Result<(), QueueError> {
        self.used.clear();
        let (mut left, mut vectors) = (len, 0usize);
        while left > 0 {
            let Some(chain) = self.held.pop_front() else { break };
            let part = left.min(chain.bytes);
            left = left.saturating_sub(part);
            vectors = vectors.saturating_add(chain.vectors);
            self.held_bytes = self.held_bytes.saturating_sub(chain.bytes);
            self.used.push((chain.head, u32::try_from(part).unwrap_or(u32::MAX)));
        }
        let buffers = u16::try_from(self.used.len()).unwrap_or(u16::MAX);
        self.vectors.write_at(NUM_BUFFERS_OFFSET, &buffers.to_le_bytes());
        self.vectors.drop_front(vectors);
        self.metrics.rx_frames.add(1);
        self.metrics.rx_bytes.add(len.saturating_sub(VNET_HEADER_SIZE));
        self.queue.add_used_batch(memory, &self.used)
    }
}
