//! A device that does nothing by itself and remembers what its transport did to it.

use std::sync::{Arc, Mutex, MutexGuard};

use virtio_bindings::virtio_config::{VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::state::{RestoreError, SaveError};
use crate::virtio::device::{ActivateError, Activation, DeviceType, VirtioDevice};

/// What the device offers, and what a transport must offer of that.
pub(super) const HONEST_FEATURES: u64 =
    1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;
const EXCESSIVE_FEATURES: u64 = 1 << VIRTIO_F_RING_PACKED | 1 << VIRTIO_F_RING_RESET;

/// The largest sizes of its queues.
pub(super) const QUEUE_SIZES: [u16; 2] = [16, 8];

/// What it has in its configuration.
pub(super) const CONFIG: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

#[derive(Default)]
pub(super) struct Record {
    /// The activation that is in force.
    pub(super) active: Option<Activation>,
    /// How often the device was activated.
    pub(super) activations: usize,
    /// How often the device was reset.
    pub(super) resets: usize,
    /// What was written to the configuration, and where.
    pub(super) config_writes: Vec<(u64, Vec<u8>)>,
    /// What the device saves, and what it was restored with.
    pub(super) saved: serde_json::Value,
    pub(super) restored: Option<serde_json::Value>,
    /// Whether the next activation fails.
    pub(super) refuses: bool,
}

/// The test's view of a [`TestDevice`].
#[derive(Clone, Default)]
pub(super) struct Probe(Arc<Mutex<Record>>);

impl Probe {
    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap()
    }

    pub(super) fn device(&self) -> Box<dyn VirtioDevice> {
        Box::new(TestDevice(self.clone()))
    }
}

struct TestDevice(Probe);

impl VirtioDevice for TestDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn offered_features(&self) -> u64 {
        HONEST_FEATURES | EXCESSIVE_FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // Not careful with its arithmetic: the transport has to be.
        for (at, byte) in data.iter_mut().enumerate() {
            let at = offset + at as u64;
            *byte = usize::try_from(at).ok().and_then(|at| CONFIG.get(at)).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        assert!(offset + (data.len() as u64) < u64::MAX);
        self.0.record().config_writes.push((offset, data.to_vec()));
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut record = self.0.record();
        record.activations += 1;
        if record.refuses {
            return Err(ActivateError::MissingQueue(1));
        }
        assert!(record.active.is_none(), "activated twice");
        record.active = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        let mut record = self.0.record();
        record.resets += 1;
        record.active = None;
        record.restored = None;
    }

    fn save(&self) -> Result<serde_json::Value, SaveError> {
        Ok(self.0.record().saved.clone())
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let mut record = self.0.record();
        assert!(record.active.is_none(), "restored too late");
        record.restored = Some(state);
        Ok(())
    }
}
