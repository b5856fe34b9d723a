//! The control queue (VIRTIO 1.3 §5.1.6.5).

use std::sync::Arc;

use sys::memory::GuestRam;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_MQ,
    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_F_MQ, VIRTIO_NET_OK,
};
use vm_memory::{Bytes, GuestAddress};

use super::choices::Choices;
use super::features::Features;
use super::pair::Pair;
use crate::virtio::{Chain, ChainBuffers, DeviceQueue, QueueError};

/// The longest command: class, command and eight bytes of offloads.
const MAX_COMMAND_SIZE: usize = 2 + 8;

/// Serves the driver's commands, on the worker of the first pair.
pub(super) struct Control {
    queue: DeviceQueue,
    memory: GuestRam,
    features: Features,
    pairs: Vec<Arc<Pair>>,
    /// How many pairs have a worker: the driver enabled their queues.
    usable_pairs: usize,
    choices: Arc<Choices>,
    chain: ChainBuffers,
}

impl Control {
    /// Takes over `queue`; commands concern `pairs`, of which the first `usable_pairs` are served,
    /// and are noted in `choices`.
    pub(super) fn new(
        queue: DeviceQueue,
        memory: GuestRam,
        features: Features,
        pairs: Vec<Arc<Pair>>,
        usable_pairs: usize,
        choices: Arc<Choices>,
    ) -> Self {
        let chain = ChainBuffers::default();
        Self { queue, memory, features, pairs, usable_pairs, choices, chain }
    }

    /// Returns the queue.
    pub(super) fn queue(&self) -> &DeviceQueue {
        &self.queue
    }

    /// Carries out all commands that wait.
    ///
    /// # Errors
    /// [`QueueError`] when the driver broke the queue.
    pub(super) fn run(&mut self) -> Result<(), QueueError> {
        let memory = self.memory.clone();
        loop {
            while let Some(chain) = self.queue.pop(&memory)? {
                let head = chain.head_index();
                let written = u32::from(self.serve(&memory, chain).is_some());
                self.queue.add_used(&memory, head, written)?;
            }
            if !self.queue.enable_notification(&memory)? {
                return self.queue.signal_used(&memory);
            }
        }
    }

    /// Carries out the command in `chain` and writes its result; none if it has no room for one.
    fn serve(&mut self, memory: &GuestRam, chain: Chain<'_>) -> Option<()> {
        self.chain.fill(memory, chain).ok()?;
        let result_at = self.chain.writable.first()?.address;
        let done = self.read_command(memory).is_some_and(|command| self.execute(&command));
        let result = if done { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
        self.write_result(memory, result_at, result)
    }

    fn write_result(&self, memory: &GuestRam, at: GuestAddress, result: u32) -> Option<()> {
        memory.write_slice(result.to_le_bytes().get(..1)?, at).ok()
    }

    /// Copies the command; none if it's longer than any that we know.
    fn read_command(&self, memory: &GuestRam) -> Option<Vec<u8>> {
        let mut command = Vec::with_capacity(MAX_COMMAND_SIZE);
        for segment in &self.chain.readable {
            let start = command.len();
            let end = start.checked_add(usize::try_from(segment.len).ok()?)?;
            if end > MAX_COMMAND_SIZE {
                return None;
            }
            command.resize(end, 0);
            memory.read_slice(command.get_mut(start..)?, segment.address).ok()?;
        }
        Some(command)
    }

    fn execute(&self, command: &[u8]) -> bool {
        let [class, code, data @ ..] = command else { return false };
        match (u32::from(*class), u32::from(*code)) {
            (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => {
                self.features.has(VIRTIO_NET_F_MQ)
                    && <[u8; 2]>::try_from(data)
                        .is_ok_and(|pairs| self.set_pairs(u16::from_le_bytes(pairs).into()))
            }
            (VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) => {
                self.features.has(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS)
                    && <[u8; 8]>::try_from(data)
                        .is_ok_and(|bits| self.set_offloads(u64::from_le_bytes(bits)))
            }
            _ => false,
        }
    }

    fn set_pairs(&self, count: usize) -> bool {
        if count == 0 || count > self.usable_pairs {
            return false;
        }
        let done = self
            .pairs
            .iter()
            .enumerate()
            .all(|(index, pair)| pair.set_enabled(index < count, true).is_ok());
        if done {
            self.choices.set_pairs(u16::try_from(count).unwrap_or(u16::MAX));
        }
        done
    }

    fn set_offloads(&self, bits: u64) -> bool {
        let switchable = self.features.switchable();
        let wanted = Features(bits);
        let done = bits & !switchable.0 == 0
            && self
                .pairs
                .first()
                .is_some_and(|pair| pair.backend().set_offloads(wanted.receive_offloads()).is_ok());
        if done {
            self.choices.set_offloads(wanted);
        }
        done
    }
}
