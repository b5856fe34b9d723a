//! Pause, resume, save and restore of a device and what its driver has set up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::super::super::device::Activation;
use super::super::super::queue::QueueCursor;
use super::super::rings::QueueSetup;
use super::{VirtioTransportCore, status};
use crate::state::{RestoreError, SaveError};

/// Every bit of the device status that the core sets by itself or takes from a driver.
const STATUS_BITS: u8 =
    status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK | status::FEATURES_OK | status::FAILED;

/// What a transport saves of its core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoreState {
    /// The device type's number.
    pub device_type: u16,
    /// The device status, without DEVICE_NEEDS_RESET.
    pub status: u8,
    /// Whether the device asked for a reset.
    pub needs_reset: bool,
    /// The counter of configuration changes.
    pub config_generation: u32,
    /// Which 32 bits of the device's features are shown.
    pub device_feature_select: u32,
    /// Which 32 bits of the driver's features are written.
    pub driver_feature_select: u32,
    /// The features that the driver wrote.
    pub driver_features: u64,
    /// The queue that the queue registers mean.
    pub queue_select: u32,
    /// Each queue, in the order of their indices.
    pub queues: Vec<QueueState>,
    /// What the device itself saved.
    pub device: serde_json::Value,
}

/// What a transport saves of one queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueState {
    /// The size that the driver wrote.
    pub size: u16,
    /// Whether the driver enabled the queue.
    pub enabled: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub available: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
    /// The available ring's next element to pop.
    pub next_available: u16,
    /// The used ring's next element to write.
    pub next_used: u16,
}

impl VirtioTransportCore {
    /// Asks the device to park its workers; doesn't wait for it.
    pub fn request_pause(&mut self) {
        self.device.request_pause();
    }

    /// Waits until nothing is in flight and every worker of the device is parked.
    pub fn pause(&mut self) {
        self.device.pause();
        self.paused = true;
    }

    /// Lets the device go on.
    pub fn resume(&mut self) {
        self.paused = false;
        self.device.resume();
    }

    /// Returns all that a driver could notice of the device.
    ///
    /// # Errors
    /// [`SaveError`] unless the device is paused and can be saved.
    pub fn save(&self) -> Result<CoreState, SaveError> {
        // Named one by one, so that a field that is added later can't be forgotten here.
        let Self {
            device,
            memory: _,
            ops: _,
            kicks: _,
            offered_features: _,
            config_generation,
            status,
            needs_reset,
            gate: _,
            device_feature_select,
            driver_feature_select,
            driver_features,
            queue_select,
            queues,
            cursors,
            paused,
        } = self;
        if !paused {
            return Err(SaveError::NotPaused);
        }
        let queues = queues.iter().zip(cursors).map(|(setup, cursor)| setup.save(cursor));
        Ok(CoreState {
            device_type: device.device_type().id(),
            status: *status,
            needs_reset: needs_reset.load(Ordering::Acquire),
            config_generation: config_generation.load(Ordering::Acquire),
            device_feature_select: *device_feature_select,
            driver_feature_select: *driver_feature_select,
            driver_features: *driver_features,
            queue_select: *queue_select,
            queues: queues.collect(),
            device: device.save()?,
        })
    }

    /// Takes over what [`save`](Self::save) returned, and activates the device if it was active. It's
    /// paused then: nothing is served before [`resume`](Self::resume).
    ///
    /// Guest memory must be restored already; interrupts can still go nowhere.
    ///
    /// # Errors
    /// [`RestoreError`]; the core is as after a reset then, its device perhaps not.
    pub fn restore(&mut self, state: CoreState) -> Result<(), RestoreError> {
        if self.status != 0 {
            return Err(RestoreError::InUse);
        }
        let restored = self.try_restore(state);
        if restored.is_err() {
            self.reset();
        }
        restored
    }

    fn try_restore(&mut self, state: CoreState) -> Result<(), RestoreError> {
        let CoreState {
            device_type,
            status,
            needs_reset,
            config_generation,
            device_feature_select,
            driver_feature_select,
            driver_features,
            queue_select,
            queues,
            device,
        } = state;
        RestoreError::expect("device type", device_type, self.device.device_type().id())?;
        check_status(status)?;
        if status & status::FEATURES_OK != 0 {
            self.check_features(driver_features)?;
        }
        RestoreError::expect("queue count", queues.len(), self.queues.len())?;
        for (index, (setup, saved)) in self.queues.iter_mut().zip(&queues).enumerate() {
            setup.restore(index, saved)?;
        }
        let cursor = |saved: &QueueState| QueueCursor::new(saved.next_available, saved.next_used);
        self.cursors = queues.iter().map(|saved| Arc::new(cursor(saved))).collect();
        self.status = status;
        self.needs_reset = Arc::new(AtomicBool::new(needs_reset));
        // What the driver read of the configuration may be another today.
        self.config_generation = Arc::new(AtomicU32::new(config_generation.wrapping_add(1)));
        self.device_feature_select = device_feature_select;
        self.driver_feature_select = driver_feature_select;
        self.driver_features = driver_features;
        self.queue_select = queue_select;
        self.device.restore(device)?;
        self.paused = true;
        if self.is_active() { self.start_restored() } else { Ok(()) }
    }

    /// Raises every interrupt and every queue's kick once, after a restore: what was on its way when
    /// the machine was saved may have been lost, and a spurious one harms nobody. Interrupt
    /// controllers and vCPUs must be restored already.
    pub fn revive(&self) {
        if !self.has(status::DRIVER_OK) {
            return;
        }
        for (index, (setup, kick)) in (0..).zip(self.queues.iter().zip(self.kicks.iter())) {
            if setup.enabled {
                // It fails only when it is full, and then it is readable already.
                let _ = kick.write(1);
                self.ops.signal_queue(index);
            }
        }
        self.ops.signal_config();
    }

    fn is_active(&self) -> bool {
        self.has(status::DRIVER_OK)
            && !self.has(status::FAILED)
            && !self.needs_reset.load(Ordering::Acquire)
    }

    fn check_features(&self, driver_features: u64) -> Result<(), RestoreError> {
        let missing = driver_features & !self.offered_features;
        if missing != 0 {
            return Err(RestoreError::Features { missing });
        }
        if driver_features & 1 << VIRTIO_F_VERSION_1 == 0 {
            let value = format_args!("{driver_features:#x}").to_string();
            return Err(RestoreError::invalid("set of virtio features", value));
        }
        Ok(())
    }

    /// Activates the device where it was, with workers that are parked from the start.
    fn start_restored(&mut self) -> Result<(), RestoreError> {
        let notifier = self.notifier().with_paused_workers();
        let queues = self.device_queues(&notifier);
        let queues = queues.map_err(|fault| RestoreError::invalid("virtio queue", fault))?;
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.driver_features,
            queues,
            notifier,
        };
        self.device.activate(activation).map_err(|error| RestoreError::Start(Box::new(error)))?;
        self.device.pause();
        Ok(())
    }
}

/// Checks that a driver could have set `bits`.
fn check_status(bits: u8) -> Result<(), RestoreError> {
    let needs = |bit: u8, before: u8| bits & bit == 0 || bits & before == before;
    let possible = bits & !STATUS_BITS == 0
        && needs(status::DRIVER_OK, status::FEATURES_OK)
        && needs(status::FEATURES_OK, status::DRIVER);
    if possible { Ok(()) } else { Err(RestoreError::invalid("device status", bits)) }
}

impl QueueSetup {
    fn save(&self, cursor: &QueueCursor) -> QueueState {
        let &Self { max_size: _, size, enabled, descriptors, available, used } = self;
        QueueState {
            size,
            enabled,
            descriptors,
            available,
            used,
            next_available: cursor.next_available(),
            next_used: cursor.next_used(),
        }
    }

    /// Takes over the registers of queue `index`. Where the rings lie is checked when the queue is
    /// built, as for a driver.
    fn restore(&mut self, index: usize, saved: &QueueState) -> Result<(), RestoreError> {
        self.size = saved.size;
        self.enabled = saved.enabled;
        self.descriptors = saved.descriptors;
        self.available = saved.available;
        self.used = saved.used;
        if !saved.enabled {
            return Ok(());
        }
        if !self.has_valid_size() {
            return Err(RestoreError::invalid("queue size", saved.size));
        }
        // Popped and not yet returned is at most a ring; a device that shows what it holds as
        // available may have returned faulty chains behind that.
        let ahead = saved.next_available.wrapping_sub(saved.next_used);
        if ahead.min(ahead.wrapping_neg()) > saved.size {
            let QueueState { next_available, next_used, .. } = saved;
            let value = format!("{next_available} and {next_used} of queue {index}");
            return Err(RestoreError::invalid("pair of ring indices", value));
        }
        Ok(())
    }
}
