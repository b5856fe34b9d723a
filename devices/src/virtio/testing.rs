//! The driver's side of a queue: what tests and benchmarks put requests in with.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::arithmetic_side_effects
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use sys::memory::GuestRam;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Notifier, TransportInterrupt};
use super::queue::{DeviceQueue, QueueCursor};

/// How much memory [`guest_ram`] maps: rings lie in its first 32 KiB, the rest is for buffers.
pub const RAM_SIZE: usize = 16 << 20;

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x5000;
const USED: u64 = 0x6000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Maps [`RAM_SIZE`] bytes of guest memory from address 0.
pub fn guest_ram() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), RAM_SIZE)]).expect("16 MiB of memory")
}

/// One descriptor of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    address: u64,
    len: u32,
    flags: u16,
}

impl Buffer {
    /// A buffer that the device reads.
    pub fn readable(address: u64, len: u32) -> Self {
        Self { address, len, flags: 0 }
    }

    /// A buffer that the device writes.
    pub fn writable(address: u64, len: u32) -> Self {
        Self { address, len, flags: WRITE }
    }
}

#[derive(Default)]
struct CountingInterrupt {
    queue: AtomicUsize,
    config: AtomicUsize,
}

impl TransportInterrupt for CountingInterrupt {
    fn signal_queue(&self, _index: u16) {
        self.queue.fetch_add(1, Ordering::AcqRel);
    }

    fn signal_config(&self) {
        self.config.fetch_add(1, Ordering::AcqRel);
    }
}

/// A split queue in guest memory, driven as a driver would.
pub struct TestQueue {
    memory: GuestRam,
    base: u64,
    size: u16,
    next_descriptor: u16,
    available: u16,
    used_seen: u16,
    kick: Arc<EventFd>,
    interrupt: Arc<CountingInterrupt>,
    needs_reset: Arc<AtomicBool>,
    cursor: Arc<QueueCursor>,
}

impl TestQueue {
    /// Lays out a queue of `size` (at most 512) descriptors in `memory`.
    pub fn new(memory: GuestRam, size: u16) -> Self {
        Self::at(memory, size, 0)
    }

    /// The same with its rings moved up by `base` bytes, for a device of several queues
    /// (`0x7000` bytes each).
    pub fn at(memory: GuestRam, size: u16, base: u64) -> Self {
        Self {
            memory,
            base,
            size,
            next_descriptor: 0,
            available: 0,
            used_seen: 0,
            kick: Arc::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd")),
            interrupt: Arc::default(),
            needs_reset: Arc::default(),
            cursor: Arc::default(),
        }
    }

    /// Returns the guest memory that the queue lies in.
    pub fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// Returns the queue as its device gets it, with index `index`.
    pub fn device_queue(&self, index: u16) -> DeviceQueue {
        DeviceQueue::new(index, self.ring(), Arc::clone(&self.kick), self.notifier())
            .with_cursor(Arc::clone(&self.cursor))
    }

    /// Returns the queue as a device gets it that is restored where the last one was.
    pub fn restored_queue(&self, index: u16) -> DeviceQueue {
        let mut ring = self.ring();
        ring.set_next_avail(self.cursor.next_available());
        ring.set_next_used(self.cursor.next_used());
        DeviceQueue::new(index, ring, Arc::clone(&self.kick), self.notifier())
            .with_cursor(Arc::clone(&self.cursor))
    }

    /// Returns how far the device says that it has come.
    pub fn cursor(&self) -> &QueueCursor {
        &self.cursor
    }

    /// Returns the ring as a transport hands it over.
    pub fn ring(&self) -> Queue {
        let mut queue = Queue::new(self.size).expect("a power of two");
        queue.set_desc_table_address(Some((self.base + DESCRIPTORS) as u32), Some(0));
        queue.set_avail_ring_address(Some((self.base + AVAILABLE) as u32), Some(0));
        queue.set_used_ring_address(Some((self.base + USED) as u32), Some(0));
        queue.set_ready(true);
        queue
    }

    /// Returns a notifier whose signals this queue counts.
    pub fn notifier(&self) -> Notifier {
        Notifier::new(
            Arc::clone(&self.interrupt) as Arc<dyn TransportInterrupt>,
            Arc::clone(&self.needs_reset),
            Arc::new(AtomicU32::new(0)),
        )
    }

    /// Makes a chain of `buffers` available and returns its head.
    pub fn add_chain(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor;
        for (position, buffer) in buffers.iter().enumerate() {
            let index = (head + position as u16) % self.size;
            let next = (index + 1) % self.size;
            let last = position + 1 == buffers.len();
            let flags = if last { buffer.flags } else { buffer.flags | NEXT };
            self.write_descriptor(index, buffer.address, buffer.len, flags, next);
        }
        self.next_descriptor = (head + buffers.len() as u16) % self.size;
        self.make_available(head);
        head
    }

    /// Writes one descriptor as given.
    pub fn write_descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = self.base + DESCRIPTORS + u64::from(index) * 16;
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(len, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Puts `head` in the available ring and advances its index.
    pub fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        let at = self.base + AVAILABLE + 4 + slot * 2;
        self.memory.write_obj(head, GuestAddress(at)).unwrap();
        self.set_available_index(self.available.wrapping_add(1));
    }

    /// Sets the available ring's index, possible or not.
    pub fn set_available_index(&mut self, index: u16) {
        self.available = index;
        self.memory.write_obj(index, GuestAddress(self.base + AVAILABLE + 2)).unwrap();
    }

    /// Chains descriptor `from` to `to`, whether that exists or not.
    pub fn link(&self, from: u16, to: u16) {
        let at = self.base + DESCRIPTORS + u64::from(from) * 16;
        let flags: u16 = self.memory.read_obj(GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(flags | NEXT, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(to, GuestAddress(at + 14)).unwrap();
    }

    /// Sets `VRING_AVAIL_F_NO_INTERRUPT`.
    pub fn suppress_interrupts(&self) {
        self.memory.write_obj(1u16, GuestAddress(self.base + AVAILABLE)).unwrap();
    }

    /// Notifies the device.
    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Returns the (head, written bytes) pairs that the device returned since the last call.
    pub fn used(&mut self) -> Vec<(u32, u32)> {
        let index: u16 =
            self.memory.load(GuestAddress(self.base + USED + 2), Ordering::Acquire).unwrap();
        let mut elements = Vec::new();
        while self.used_seen != index {
            let slot = u64::from(self.used_seen % self.size);
            let at = self.base + USED + 4 + slot * 8;
            elements.push((
                self.memory.read_obj(GuestAddress(at)).unwrap(),
                self.memory.read_obj(GuestAddress(at + 4)).unwrap(),
            ));
            self.used_seen = self.used_seen.wrapping_add(1);
        }
        elements
    }

    /// Counts the interrupts for this queue's device so far.
    pub fn interrupts(&self) -> usize {
        self.interrupt.queue.load(Ordering::Acquire)
    }

    /// Counts the configuration interrupts of this queue's device so far.
    pub fn config_interrupts(&self) -> usize {
        self.interrupt.config.load(Ordering::Acquire)
    }

    /// Tells whether the device asked for a reset.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }
}
