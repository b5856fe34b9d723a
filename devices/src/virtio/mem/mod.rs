//! Virtio memory device (VIRTIO 1.3 §5.15): memory that is plugged and unplugged by blocks.
//!
//! The host asks for an amount by [`MemPort::set_requested`]; the driver plugs and unplugs blocks
//! until it has that. What isn't plugged isn't in the guest's sight, by slots, and takes no memory of
//! the host's.

mod blocks;
mod port;
mod request;

use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};

pub use port::{MemPort, MemRegion, MemorySlots};

use super::device::{ActivateError, Activation, DeviceType, VirtioDevice};
use super::serve::{RING_FEATURES, ServedQueue};
use super::worker::{QueueWorker, WorkerHandler};
use crate::bytes::read_at;
use crate::state::{RestoreError, SaveError, from_value, to_value};
use port::Sizes;

const QUEUE_SIZES: [u16; 1] = [64];

/// `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`: the driver mustn't even read what isn't plugged.
const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// A memory device over a [`MemPort`], which outlives its activations.
pub struct Mem {
    port: Arc<MemPort>,
    worker: Option<QueueWorker>,
}

impl Mem {
    /// Creates the device side of `port`, not active.
    pub fn new(port: Arc<MemPort>) -> Self {
        Self { port, worker: None }
    }
}

impl VirtioDevice for Mem {
    fn device_type(&self) -> DeviceType {
        DeviceType::Memory
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn offered_features(&self) -> u64 {
        RING_FEATURES | F_UNPLUGGED_INACCESSIBLE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let region = self.port.region();
        let Sizes { usable, plugged, requested } = self.port.sizes();
        // The second is the NUMA node with its padding, which isn't offered.
        let fields =
            [region.block_size, 0, region.start.0, region.size, usable, plugged, requested];
        let mut config = [0; 56];
        for (to, from) in config.as_chunks_mut().0.iter_mut().zip(fields) {
            *to = from.to_le_bytes();
        }
        read_at(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().next().ok_or(ActivateError::MissingQueue(0))?;
        let requests = ServedQueue::new(queue, activation.memory);
        let handler = MemHandler { requests, port: Arc::clone(&self.port) };
        let name = "virtio-mem".to_owned();
        let worker = QueueWorker::spawn(name, Box::new(handler), &activation.notifier)
            .map_err(ActivateError::Worker)?;
        self.worker = Some(worker);
        self.port.attach(Some(activation.notifier));
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
        self.port.attach(None);
    }

    fn workers(&self) -> &[QueueWorker] {
        self.worker.as_slice()
    }

    fn save(&self) -> Result<serde_json::Value, SaveError> {
        to_value(&self.port.save())
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        self.port.restore(&from_value("pluggable memory", state)?)
    }
}

struct MemHandler {
    requests: ServedQueue,
    port: Arc<MemPort>,
}

/// Between two events nothing is in flight.
impl WorkerHandler for MemHandler {}

impl MutEventSubscriber for MemHandler {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let Self { requests, port } = self;
        requests.serve(|memory, buffers| {
            let answer = request::carry_out(memory, &buffers.readable, port);
            request::respond(memory, &buffers.writable, answer)
        });
    }

    fn init(&mut self, ops: &mut EventOps) {
        self.requests.watch(ops);
    }
}

#[cfg(test)]
mod tests;
