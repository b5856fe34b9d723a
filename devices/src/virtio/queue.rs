//! A queue as its device sees it: pop chains, return them used, interrupt when the driver wants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use sys::memory::GuestRam;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, Permissions};
use vmm_sys_util::eventfd::EventFd;

use super::device::Notifier;

/// A descriptor chain that borrows guest memory for the time of one request.
pub type Chain<'m> = DescriptorChain<&'m GuestRam>;

/// One buffer of a chain, checked to lie in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts.
    pub address: GuestAddress,
    /// Its length in bytes; never 0.
    pub len: u32,
}

/// Why a chain can't be a request. It concerns this chain only: the queue goes on.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainError {
    /// A descriptor can't be read, the chain loops, or it is longer than its queue
    /// (VIRTIO 1.3 §2.7.5.2).
    #[error("a descriptor chain doesn't end within its queue")]
    Unterminated,
    /// A device-readable descriptor follows a device-writable one (VIRTIO 1.3 §2.7.4.2).
    #[error("a readable descriptor follows a writable one")]
    Misordered,
    /// A buffer isn't wholly in guest memory.
    #[error("a buffer of {len} bytes at {address:#x} is not in guest memory")]
    OutsideMemory {
        /// Guest-physical address.
        address: u64,
        /// Length in bytes.
        len: u32,
    },
}

/// All buffers of one chain, copied out of the descriptor table once: what the guest writes there
/// afterwards changes nothing. Kept by a worker and filled again for every chain.
#[derive(Debug, Default)]
pub struct ChainBuffers {
    /// What the device may read, in order. Empty descriptors are left out.
    pub readable: Vec<Segment>,
    /// What the device may write, in order. Empty descriptors are left out.
    pub writable: Vec<Segment>,
}

impl ChainBuffers {
    /// Walks `chain` and replaces what was here by its buffers.
    ///
    /// # Errors
    /// [`ChainError`]; the buffers met until then stay listed (a status byte may be among them).
    pub fn fill(&mut self, memory: &GuestRam, chain: Chain<'_>) -> Result<(), ChainError> {
        self.readable.clear();
        self.writable.clear();
        let mut terminated = false;
        for descriptor in chain {
            terminated = !descriptor.has_next();
            let segment = Segment { address: descriptor.addr(), len: descriptor.len() };
            if segment.len == 0 {
                continue;
            }
            let size = usize::try_from(segment.len).unwrap_or(usize::MAX);
            let access =
                if descriptor.is_write_only() { Permissions::Write } else { Permissions::Read };
            if !memory.check_range(segment.address, size, access) {
                let address = segment.address.raw_value();
                return Err(ChainError::OutsideMemory { address, len: segment.len });
            }
            if descriptor.is_write_only() {
                self.writable.push(segment);
            } else if self.writable.is_empty() {
                self.readable.push(segment);
            } else {
                return Err(ChainError::Misordered);
            }
        }
        if terminated { Ok(()) } else { Err(ChainError::Unterminated) }
    }
}

/// What a driver did to a queue that leaves it unusable until the device is reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The ring isn't readable or writable, or its index passed what the queue can hold.
    #[error("queue {index} is broken: {source}")]
    Ring {
        /// Which queue.
        index: u16,
        /// What the ring code met.
        source: virtio_queue::Error,
    },
}

/// How far a device has come in a queue, as a saved machine has to remember it (VIRTIO 1.3 §2.7).
///
/// Its queue keeps it up to date; whoever reads it must know that the queue's worker is parked.
#[derive(Debug, Default)]
pub struct QueueCursor {
    next_available: AtomicU16,
    next_used: AtomicU16,
}

impl QueueCursor {
    /// Creates a cursor at these places in the available and the used ring.
    pub fn new(next_available: u16, next_used: u16) -> Self {
        Self { next_available: next_available.into(), next_used: next_used.into() }
    }

    /// Returns the index of the available ring's next element to pop. Chains that a device has
    /// popped and would pop again after a restore are behind it.
    pub fn next_available(&self) -> u16 {
        self.next_available.load(Ordering::Acquire)
    }

    /// Returns the index of the used ring's next element to write.
    pub fn next_used(&self) -> u16 {
        self.next_used.load(Ordering::Acquire)
    }
}

/// An enabled queue, handed to its device for the time between DRIVER_OK and reset.
pub struct DeviceQueue {
    index: u16,
    queue: Queue,
    kick: Arc<EventFd>,
    notifier: Notifier,
    cursor: Arc<QueueCursor>,
    /// How many chains were returned since the driver was last told, or decided not to be.
    unsignalled: u16,
}

/// Guest-physical addresses of a queue's parts (VIRTIO 1.3 §2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring.
    pub available: u64,
    /// The used ring.
    pub used: u64,
}

impl DeviceQueue {
    /// Wraps `queue`, whose rings the transport has checked; `kick` is the eventfd that KVM
    /// writes when the driver notifies the queue.
    pub fn new(index: u16, queue: Queue, kick: Arc<EventFd>, notifier: Notifier) -> Self {
        let cursor = QueueCursor::new(queue.next_avail(), queue.next_used());
        Self { index, queue, kick, notifier, cursor: Arc::new(cursor), unsignalled: 0 }
    }

    /// Tells `cursor`, besides, how far the device comes.
    #[must_use]
    pub fn with_cursor(mut self, cursor: Arc<QueueCursor>) -> Self {
        self.cursor = cursor;
        self.publish_cursor();
        self
    }

    fn publish_cursor(&self) {
        self.cursor.next_available.store(self.queue.next_avail(), Ordering::Release);
        self.cursor.next_used.store(self.queue.next_used(), Ordering::Release);
    }

    /// Returns the index of the last popped chain's element in the available ring.
    pub fn last_popped(&self) -> u16 {
        self.queue.next_avail().wrapping_sub(1)
    }

    /// Has a saved machine pop again from the chain on that was popped at `position` (see
    /// [`last_popped`](Self::last_popped)): the device only holds it. Lasts until the next pop.
    pub fn show_available_from(&self, position: u16) {
        self.cursor.next_available.store(position, Ordering::Release);
    }

    /// Returns the queue's index in the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Returns the size that the driver chose.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Returns where the queue's parts are, for whoever serves it elsewhere. The transport has
    /// checked that they lie in guest memory.
    pub fn rings(&self) -> RingAddresses {
        RingAddresses {
            descriptors: self.queue.desc_table(),
            available: self.queue.avail_ring(),
            used: self.queue.used_ring(),
        }
    }

    /// Returns the position of the next chain in the available ring.
    pub fn next_available(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Returns the eventfd that becomes readable when the driver notifies the queue.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Pops the next available chain.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the available ring can't be read or its index is impossible.
    pub fn pop<'m>(&mut self, memory: &'m GuestRam) -> Result<Option<Chain<'m>>, QueueError> {
        let index = self.index;
        let mut available =
            self.queue.iter(memory).map_err(|source| QueueError::Ring { index, source })?;
        let chain = available.next();
        self.cursor.next_available.store(self.queue.next_avail(), Ordering::Release);
        Ok(chain)
    }

    /// Takes back the last popped chain, to be popped again later.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
        self.publish_cursor();
    }

    /// Returns the chain that starts at descriptor `head`, with `written_bytes` written by the
    /// device, to the driver. It isn't told before [`signal_used`](Self::signal_used).
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the used ring can't be written.
    pub fn add_used(
        &mut self,
        memory: &GuestRam,
        head: u16,
        written_bytes: u32,
    ) -> Result<(), QueueError> {
        self.add_used_batch(memory, &[(head, written_bytes)])
    }

    /// Returns several chains, each a head and its written bytes, which the driver sees all at
    /// once: it mustn't find half of a frame that lies in several (VIRTIO 1.3 §5.1.6.4).
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the used ring can't be written, or a head isn't in the queue.
    pub fn add_used_batch(
        &mut self,
        memory: &GuestRam,
        chains: &[(u16, u32)],
    ) -> Result<(), QueueError> {
        let index = self.index;
        self.write_used(memory, chains).map_err(|source| QueueError::Ring { index, source })
    }

    /// Writes used elements and then the index behind the last (VIRTIO 1.3 §2.7.8).
    fn write_used(
        &mut self,
        memory: &GuestRam,
        chains: &[(u16, u32)],
    ) -> Result<(), virtio_queue::Error> {
        let ring = GuestAddress(self.queue.used_ring());
        let at = |offset: u64| ring.checked_add(offset).ok_or(virtio_queue::Error::AddressOverflow);
        let mut next = self.queue.next_used();
        for &(head, written_bytes) in chains {
            if head >= self.queue.size() {
                return Err(virtio_queue::Error::InvalidDescriptorIndex);
            }
            let slot = u64::from(next.checked_rem(self.queue.size()).unwrap_or(0));
            let element = [u32::from(head).to_le(), written_bytes.to_le()];
            let address = at(slot.saturating_mul(8).saturating_add(4))?;
            memory.write_obj(element, address).map_err(virtio_queue::Error::GuestMemory)?;
            next = next.wrapping_add(1);
            self.unsignalled = self.unsignalled.saturating_add(1);
        }
        self.queue.set_next_used(next);
        self.cursor.next_used.store(next, Ordering::Release);
        memory
            .store(next.to_le(), at(2)?, Ordering::Release)
            .map_err(virtio_queue::Error::GuestMemory)
    }

    /// Interrupts the driver for all chains returned since the last call, unless it asked not to
    /// be (VIRTIO 1.3 §2.7.7).
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the suppression fields can't be read.
    pub fn signal_used(&mut self, memory: &GuestRam) -> Result<(), QueueError> {
        let returned = std::mem::take(&mut self.unsignalled);
        if returned == 0 {
            return Ok(());
        }
        let index = self.index;
        let wanted = if self.queue.event_idx_enabled() {
            self.driver_event_passed(memory, returned)
        } else {
            self.driver_wants_interrupts(memory)
        };
        let wanted = wanted.map_err(|source| QueueError::Ring { index, source })?;
        if wanted {
            self.notifier.signal_queue(index);
        }
        Ok(())
    }

    /// Reads the available ring's flags (VIRTIO 1.3 §2.7.7), which `virtio-queue` doesn't.
    fn driver_wants_interrupts(&self, memory: &GuestRam) -> Result<bool, virtio_queue::Error> {
        // The used index must be visible before the flags are read.
        fence(Ordering::SeqCst);
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Tells whether the last `returned` used elements passed the one that the driver wants to
    /// hear of (VIRTIO 1.3 §2.7.7.2). `virtio-queue` knows only of those that it wrote itself.
    fn driver_event_passed(
        &self,
        memory: &GuestRam,
        returned: u16,
    ) -> Result<bool, virtio_queue::Error> {
        // The used index must be visible before the event is read.
        fence(Ordering::SeqCst);
        let offset = u64::from(self.queue.size()).saturating_mul(2).saturating_add(4);
        let event: u16 = GuestAddress(self.queue.avail_ring())
            .checked_add(offset)
            .ok_or(virtio_queue::Error::AddressOverflow)
            .and_then(|at| {
                memory.load(at, Ordering::Relaxed).map_err(virtio_queue::Error::GuestMemory)
            })?;
        let behind = self.queue.next_used().wrapping_sub(u16::from_le(event)).wrapping_sub(1);
        Ok(behind < returned)
    }

    /// Asks the driver to notify; returns whether chains came in meanwhile, which must be popped
    /// first (VIRTIO 1.3 §2.7.10).
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the used ring can't be written.
    pub fn enable_notification(&mut self, memory: &GuestRam) -> Result<bool, QueueError> {
        let index = self.index;
        self.queue.enable_notification(memory).map_err(|source| QueueError::Ring { index, source })
    }

    /// Asks the driver to notify once it has made more chains available than those that it has by
    /// now, which may stay unpopped; returns the available ring's index by now.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when a ring can't be read or written.
    pub fn notify_of_more(&mut self, memory: &GuestRam) -> Result<u16, QueueError> {
        let available = self.available_index(memory)?;
        let next = self.queue.next_avail();
        self.queue.set_next_avail(available);
        let asked = self.enable_notification(memory);
        self.queue.set_next_avail(next);
        asked.map(|_| available)
    }

    /// Returns the available ring's index: how many chains the driver has made available, modulo
    /// 2^16.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the available ring can't be read.
    pub fn available_index(&self, memory: &GuestRam) -> Result<u16, QueueError> {
        let index = self.index;
        self.queue
            .avail_idx(memory, Ordering::Acquire)
            .map(|available| available.0)
            .map_err(|source| QueueError::Ring { index, source })
    }

    /// Asks the driver not to notify while the device looks at the queue anyway.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the used ring can't be written.
    pub fn disable_notification(&mut self, memory: &GuestRam) -> Result<(), QueueError> {
        let index = self.index;
        self.queue.disable_notification(memory).map_err(|source| QueueError::Ring { index, source })
    }

    /// Tells whether the driver has made chains available that aren't popped yet.
    ///
    /// # Errors
    /// [`QueueError::Ring`] when the available ring can't be read.
    pub fn has_available(&self, memory: &GuestRam) -> Result<bool, QueueError> {
        let index = self.index;
        self.queue
            .avail_idx(memory, Ordering::Acquire)
            .map(|available| available.0 != self.queue.next_avail())
            .map_err(|source| QueueError::Ring { index, source })
    }

    /// Asks for a reset of the whole device.
    pub fn needs_reset(&self, reason: &dyn std::fmt::Display) {
        self.notifier.needs_reset(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Buffer, TestQueue, guest_ram};

    fn fill(queue: &TestQueue) -> (ChainBuffers, Result<(), ChainError>) {
        let mut buffers = ChainBuffers::default();
        let mut device = queue.device_queue(0);
        let chain = device.pop(queue.memory()).unwrap().unwrap();
        let result = buffers.fill(queue.memory(), chain);
        (buffers, result)
    }

    #[test]
    fn chain_is_split_into_readable_and_writable_buffers_without_empty_ones() {
        let mut queue = TestQueue::new(guest_ram(), 8);
        queue.add_chain(&[
            Buffer::readable(0x8000, 16),
            Buffer::readable(0x9000, 0),
            Buffer::writable(0xa000, 512),
            Buffer::writable(0xb000, 1),
        ]);
        let (buffers, result) = fill(&queue);
        assert_eq!(result, Ok(()));
        assert_eq!(buffers.readable, [Segment { address: GuestAddress(0x8000), len: 16 }]);
        assert_eq!(buffers.writable.len(), 2);
    }

    #[test]
    fn looping_chain_is_unterminated() {
        let mut queue = TestQueue::new(guest_ram(), 4);
        let head = queue.add_chain(&[Buffer::readable(0x8000, 16), Buffer::readable(0x9000, 16)]);
        queue.link(head + 1, head);
        assert_eq!(fill(&queue).1, Err(ChainError::Unterminated));
    }

    #[test]
    fn chain_to_a_descriptor_past_the_table_is_unterminated() {
        let mut queue = TestQueue::new(guest_ram(), 4);
        let head = queue.add_chain(&[Buffer::readable(0x8000, 16)]);
        queue.link(head, 4);
        assert_eq!(fill(&queue).1, Err(ChainError::Unterminated));
    }

    #[test]
    fn readable_after_writable_is_misordered() {
        let mut queue = TestQueue::new(guest_ram(), 4);
        queue.add_chain(&[Buffer::writable(0x8000, 16), Buffer::readable(0x9000, 16)]);
        assert_eq!(fill(&queue).1, Err(ChainError::Misordered));
    }

    #[test]
    fn buffer_outside_memory_is_refused_also_when_its_end_wraps() {
        for address in [0x4000_0000, u64::MAX - 8] {
            let mut queue = TestQueue::new(guest_ram(), 4);
            queue.add_chain(&[Buffer::readable(address, 16)]);
            assert_eq!(fill(&queue).1, Err(ChainError::OutsideMemory { address, len: 16 }));
        }
    }

    #[test]
    fn available_index_past_the_queue_breaks_it() {
        let mut queue = TestQueue::new(guest_ram(), 4);
        queue.add_chain(&[Buffer::readable(0x8000, 16)]);
        queue.set_available_index(6);
        assert!(queue.device_queue(0).pop(queue.memory()).is_err());
    }

    #[test]
    fn batch_wraps_in_the_used_ring_and_appears_at_once() {
        let mut queue = TestQueue::new(guest_ram(), 4);
        let heads = [(); 3].map(|()| queue.add_chain(&[Buffer::writable(0x8000, 16)]));
        let mut device = queue.device_queue(0);
        device.add_used_batch(queue.memory(), &heads.map(|head| (head, 1))).unwrap();
        assert_eq!(queue.used().len(), 3);
        device.add_used_batch(queue.memory(), &heads.map(|head| (head, 2))).unwrap();
        assert_eq!(queue.used(), heads.map(|head| (u32::from(head), 2)));
        assert!(device.add_used_batch(queue.memory(), &[(0, 1), (4, 1)]).is_err());
        assert_eq!(queue.used(), []);
    }

    #[test]
    fn driver_with_event_idx_is_interrupted_when_a_batch_passes_its_event() {
        let mut queue = TestQueue::new(guest_ram(), 4);
        let mut ring = queue.ring();
        ring.set_event_idx(true);
        let kick = Arc::new(EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap());
        let mut device = DeviceQueue::new(0, ring, kick, queue.notifier());
        let heads = [(); 3].map(|()| queue.add_chain(&[Buffer::writable(0x8000, 16)]));
        let memory = queue.memory().clone();
        let used_event = GuestAddress(0x5000 + 4 + 4 * 2);
        let mut signal = |batch: &[(u16, u32)]| {
            device.add_used_batch(&memory, batch).unwrap();
            device.signal_used(&memory).unwrap();
        };
        memory.write_obj(1u16, used_event).unwrap();
        signal(&[(heads[0], 0)]);
        assert_eq!(queue.interrupts(), 0, "the event is the second element");
        signal(&[(heads[1], 0), (heads[2], 0)]);
        assert_eq!(queue.interrupts(), 1);
        signal(&[(heads[0], 0)]);
        assert_eq!(queue.interrupts(), 1, "the event was passed before");
    }

    #[test]
    fn driver_is_interrupted_once_for_a_batch_and_not_at_all_when_it_asks_not_to_be() {
        let mut queue = TestQueue::new(guest_ram(), 4);
        let heads = [(); 2].map(|()| queue.add_chain(&[Buffer::readable(0x8000, 16)]));
        let mut device = queue.device_queue(0);
        for head in heads {
            device.add_used(queue.memory(), head, 0).unwrap();
        }
        device.signal_used(queue.memory()).unwrap();
        device.signal_used(queue.memory()).unwrap();
        assert_eq!(queue.interrupts(), 1);
        assert_eq!(queue.used(), [(u32::from(heads[0]), 0), (u32::from(heads[1]), 0)]);

        queue.suppress_interrupts();
        let head = queue.add_chain(&[Buffer::readable(0x8000, 16)]);
        device.add_used(queue.memory(), head, 0).unwrap();
        device.signal_used(queue.memory()).unwrap();
        assert_eq!(queue.interrupts(), 1);
    }
}
