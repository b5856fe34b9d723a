//! Virtio entropy device (VIRTIO 1.3 §5.4): random bytes from the host's kernel.

use event_manager::{EventOps, Events, MutEventSubscriber};
use sys::entropy::KernelEntropy;
use sys::memory::GuestRam;
use vm_memory::Bytes;

use super::device::{ActivateError, Activation, DeviceType, VirtioDevice};
use super::queue::ChainBuffers;
use super::serve::{RING_FEATURES, ServedQueue};
use super::worker::{QueueWorker, WorkerHandler};
use crate::log_limit::LogLimit;

const QUEUE_SIZES: [u16; 1] = [256];

/// How much one request gets at most; the device may give less than a driver asks for (§5.4.6.1).
/// It bounds how long a request takes.
const MAX_REQUEST_BYTES: u32 = 64 << 10;

/// An entropy device with a worker of its own.
#[derive(Default)]
pub struct Rng {
    worker: Option<QueueWorker>,
}

impl Rng {
    /// Creates a device that isn't active.
    pub fn new() -> Self {
        Self::default()
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
        let handler = RngHandler { requests: ServedQueue::new(queue, activation.memory) };
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
}

struct RngHandler {
    requests: ServedQueue,
}

/// Between two events nothing is in flight.
impl WorkerHandler for RngHandler {}

impl MutEventSubscriber for RngHandler {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.requests.serve(fill);
    }

    fn init(&mut self, ops: &mut EventOps) {
        self.requests.watch(ops);
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

    fn handler(queue: &TestQueue) -> Loop {
        let requests = ServedQueue::new(queue.device_queue(0), queue.memory().clone());
        Loop::new(RngHandler { requests })
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
}
