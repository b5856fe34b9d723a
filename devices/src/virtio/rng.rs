//! Virtio entropy device (VIRTIO 1.3 §5.4): random bytes from the host's kernel.

use std::cell::Cell;
use std::io;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use serde::{Deserialize, Serialize};
use sys::entropy::KernelEntropy;
use sys::memory::GuestRam;
use vm_memory::Bytes;

use super::device::{ActivateError, Activation, DeviceType, VirtioDevice};
use super::queue::ChainBuffers;
use super::serve::{RING_FEATURES, ServedQueue};
use super::worker::{QueueWorker, WorkerHandler};
use crate::log_limit::LogLimit;
use crate::rate_limiter::{RateLimitControl, RateLimiter, RateLimiterConfig, RateLimiterState};
use crate::state::{RestoreError, SaveError, from_value, to_value};

const QUEUE_SIZES: [u16; 1] = [256];

/// How much one request gets at most; the device may give less than a driver asks for (§5.4.6.1).
/// It bounds how long a request takes.
const MAX_REQUEST_BYTES: u32 = 64 << 10;

/// An entropy device with a worker of its own.
pub struct Rng {
    limiter: RateLimiter,
    worker: Option<QueueWorker>,
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}

/// What an entropy device saves.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct RngState {
    limiter: RateLimiterState,
}

impl Rng {
    /// Creates a device that isn't active and gives as much as it's asked for.
    pub fn new() -> Self {
        Self { limiter: RateLimiter::unlimited(), worker: None }
    }

    /// Creates a device that isn't active and gives as much as `limit` allows, which can be changed.
    ///
    /// # Errors
    /// When the limit's timer can't be made.
    pub fn with_limit(limit: &RateLimiterConfig) -> io::Result<Self> {
        Ok(Self { limiter: RateLimiter::new(limit)?, worker: None })
    }

    /// Returns what changes the limit while the device works; nothing, for a device made without.
    pub fn control(&self) -> RateLimitControl {
        self.limiter.control()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn offered_features(&self) -> u64 {
        RING_FEATURES
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().next().ok_or(ActivateError::MissingQueue(0))?;
        let limiter = self.limiter.share().map_err(ActivateError::Worker)?;
        let handler = RngHandler::new(ServedQueue::new(queue, activation.memory), limiter);
        let worker =
            QueueWorker::spawn("virtio-rng".to_owned(), Box::new(handler), &activation.notifier)
                .map_err(ActivateError::Worker)?;
        self.worker = Some(worker);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }

    fn workers(&self) -> &[QueueWorker] {
        self.worker.as_slice()
    }

    fn save(&self) -> Result<serde_json::Value, SaveError> {
        to_value(&RngState { limiter: self.limiter.control().save() })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let RngState { limiter } = from_value("an entropy device", state)?;
        self.limiter.control().restore(&limiter);
        Ok(())
    }
}

struct RngHandler {
    requests: ServedQueue,
    limiter: RateLimiter,
    /// Bytes of the last request, whose number was known only afterwards: paid before the next.
    owed: Cell<Option<u32>>,
}

impl RngHandler {
    fn new(requests: ServedQueue, limiter: RateLimiter) -> Self {
        Self { requests, limiter, owed: Cell::new(None) }
    }

    fn serve(&mut self) {
        let Self { requests, limiter, owed } = self;
        let may_go_on = || {
            let paid = owed.get().is_none_or(|bytes| limiter.consume(1, bytes.into()));
            if paid {
                owed.set(None);
            }
            paid
        };
        requests.serve_while(may_go_on, |memory, buffers| {
            let written = fill(memory, buffers);
            owed.set(Some(written));
            written
        });
    }
}

/// Between two events nothing is in flight.
impl WorkerHandler for RngHandler {}

impl MutEventSubscriber for RngHandler {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if !self.requests.owns(events) {
            self.limiter.acknowledge();
        }
        self.serve();
    }

    fn init(&mut self, ops: &mut EventOps) {
        self.requests.watch(ops);
        if let Some(timer) = self.limiter.timer()
            && let Err(error) = ops.add(Events::new(&timer, EventSet::IN))
        {
            log::error!("the entropy device's limit can't end: {error}");
        }
    }
}

/// Fills the request's buffers, from the first on, and returns with how many bytes.
fn fill(memory: &GuestRam, buffers: &ChainBuffers) -> u32 {
    static LOG: LogLimit = LogLimit::new();
    let mut written: u32 = 0;
    for segment in &buffers.writable {
        let len = segment.len.min(MAX_REQUEST_BYTES.saturating_sub(written));
        let size = usize::try_from(len).unwrap_or_default();
        if let Err(error) =
            memory.read_exact_volatile_from(segment.address, &mut KernelEntropy, size)
        {
            LOG.warn(format_args!("the guest gets less entropy than it asked for: {error}"));
            break;
        }
        written = written.saturating_add(len);
    }
    written
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::super::serve::testing::Loop;
    use super::super::testing::{Buffer, RAM_SIZE, TestQueue, guest_ram};
    use super::*;
    use crate::rate_limiter::TokenBucketConfig;

    fn handler(queue: &TestQueue) -> Loop {
        let requests = ServedQueue::new(queue.device_queue(0), queue.memory().clone());
        Loop::new(RngHandler::new(requests, RateLimiter::unlimited()))
    }

    fn bytes(queue: &TestQueue, address: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        queue.memory().read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    #[test]
    fn request_is_filled_to_its_last_byte_and_not_further() {
        let mut queue = TestQueue::new(guest_ram(), 8);
        let head = queue.add_chain(&[Buffer::writable(0x8000, 48), Buffer::writable(0x9000, 16)]);
        let mut events = handler(&queue);
        events.settle();
        assert_eq!(queue.used(), [(u32::from(head), 64)]);
        assert_eq!(queue.interrupts(), 1);
        for (address, size) in [(0x8000, 48), (0x9000, 16)] {
            let random = bytes(&queue, address, size);
            assert!(random.chunks(16).all(|block| block.iter().any(|byte| *byte != 0)));
            assert_eq!(bytes(&queue, address + size as u64, 16), [0; 16]);
        }
        let first = bytes(&queue, 0x8000, 16);
        assert_ne!(first, bytes(&queue, 0x9000, 16));
    }

    #[test]
    fn huge_request_gets_a_bounded_answer() {
        let mut queue = TestQueue::new(guest_ram(), 8);
        let size = RAM_SIZE as u32 - 0x8000;
        queue.add_chain(&[Buffer::writable(0x8000, size), Buffer::writable(0x8000, size)]);
        handler(&queue).settle();
        assert_eq!(queue.used()[0].1, MAX_REQUEST_BYTES);
        let end = 0x8000 + u64::from(MAX_REQUEST_BYTES);
        assert_eq!(bytes(&queue, end, 4096), [0; 4096]);
    }

    #[test]
    fn requests_without_a_usable_buffer_come_back_empty() {
        let mut queue = TestQueue::new(guest_ram(), 16);
        queue.add_chain(&[Buffer::readable(0x8000, 16)]);
        queue.add_chain(&[Buffer::writable(0x8000, 0)]);
        queue.add_chain(&[Buffer::writable(RAM_SIZE as u64 - 8, 16)]);
        queue.add_chain(&[Buffer::writable(0x8000, 16), Buffer::readable(0x9000, 16)]);
        let looping = queue.add_chain(&[Buffer::writable(0x8000, 16)]);
        queue.link(looping, looping);
        handler(&queue).settle();
        assert!(queue.used().iter().map(|(_, written)| *written).eq([0; 5]));
        assert_eq!(bytes(&queue, 0x8000, 16), [0; 16]);
        assert!(!queue.needs_reset(), "bad requests don't concern the queue");
    }

    #[test]
    fn request_of_a_later_kick_is_served_too() {
        let mut queue = TestQueue::new(guest_ram(), 4);
        let mut events = handler(&queue);
        for _ in 0..9 {
            queue.add_chain(&[Buffer::writable(0x8000, 16)]);
            queue.kick();
            events.settle();
            assert_eq!(queue.used().len(), 1);
        }
    }

    #[test]
    fn full_ring_leaves_notifications_wanted() {
        /// `flags` of the used ring, and what says "don't notify" there.
        const USED_FLAGS: GuestAddress = GuestAddress(0x6000);
        let mut queue = TestQueue::new(guest_ram(), 4);
        for _ in 0..4 {
            queue.add_chain(&[Buffer::writable(0x8000, 16)]);
        }
        handler(&queue).settle();
        assert_eq!(queue.used().len(), 4);
        assert_eq!(queue.memory().read_obj::<u16>(USED_FLAGS).unwrap(), 0);
    }

    #[test]
    fn broken_ring_asks_for_a_reset_once_and_is_left_alone() {
        let mut queue = TestQueue::new(guest_ram(), 4);
        let mut events = handler(&queue);
        queue.set_available_index(100);
        queue.kick();
        events.settle();
        assert!(queue.needs_reset());
        assert_eq!(queue.config_interrupts(), 1);
        queue.set_available_index(0);
        queue.add_chain(&[Buffer::writable(0x8000, 16)]);
        queue.kick();
        events.settle();
        assert_eq!(queue.used(), []);
        assert_eq!(queue.config_interrupts(), 1);
    }

    #[test]
    fn head_past_the_descriptor_table_asks_for_a_reset() {
        let mut queue = TestQueue::new(guest_ram(), 4);
        queue.make_available(4);
        handler(&queue).settle();
        assert!(queue.needs_reset());
    }

    #[test]
    fn limited_device_goes_on_when_it_may_and_at_once_when_the_limit_is_lifted() {
        let mut queue = TestQueue::new(guest_ram(), 8);
        for _ in 0..4 {
            queue.add_chain(&[Buffer::writable(0x8000, 64)]);
        }
        let bucket = |size| TokenBucketConfig { size, one_time_burst: 0, refill_time_ms: 1 << 40 };
        let limit = RateLimiterConfig { bandwidth: Some(bucket(64)), ops: None };
        let limiter = RateLimiter::new(&limit).unwrap();
        let control = limiter.control();
        let requests = ServedQueue::new(queue.device_queue(0), queue.memory().clone());
        let mut events = Loop::new(RngHandler::new(requests, limiter));
        events.settle();
        assert_eq!(queue.used().len(), 2, "one that is paid for, one on credit");
        queue.kick();
        events.settle();
        assert_eq!(queue.used(), []);
        control.update(&RateLimiterConfig { bandwidth: Some(bucket(0)), ops: None });
        let start = std::time::Instant::now();
        let mut served = 0;
        while served < 2 && start.elapsed().as_secs() < 20 {
            events.settle();
            served += queue.used().len();
        }
        assert_eq!(served, 2);
    }

    #[test]
    fn device_without_its_queue_refuses_to_start_and_can_be_started_again_after_a_reset() {
        let queue = TestQueue::new(guest_ram(), 4);
        let activation = |queues| Activation {
            memory: queue.memory().clone(),
            features: 0,
            queues,
            notifier: queue.notifier(),
        };
        let mut rng = Rng::new();
        rng.reset();
        let refused = rng.activate(activation(vec![]));
        assert!(matches!(refused, Err(ActivateError::MissingQueue(0))));
        for _ in 0..2 {
            rng.activate(activation(vec![queue.device_queue(0)])).unwrap();
            rng.reset();
        }
    }

    #[test]
    fn state_of_each_past_format_is_read_whole() {
        crate::state::kept::expect_read_whole::<super::RngState>("rng");
    }
}
