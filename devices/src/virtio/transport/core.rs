//! The state of one virtio device as its driver sees it, whatever carries the registers.

mod saved;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use sys::memory::GuestRam;
use virtio_bindings::virtio_config::{
    VIRTIO_F_ADMIN_VQ, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA,
    VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET, VIRTIO_F_SR_IOV, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::super::device::{Activation, DeviceType, Notifier, TransportInterrupt, VirtioDevice};
use super::super::queue::{DeviceQueue, QueueCursor};
use super::rings::{Half, QueueSetup, Ring, RingFault, check_placement};

pub use saved::{CoreState, QueueState};

/// The bits of the device status (VIRTIO 1.3 §2.1).
pub mod status {
    /// The driver has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The driver knows how to drive the device.
    pub const DRIVER: u8 = 2;
    /// The driver is set up; the device serves.
    pub const DRIVER_OK: u8 = 4;
    /// Both sides agreed on the features.
    pub const FEATURES_OK: u8 = 8;
    /// The device met an error that only a reset ends.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// The driver gave up.
    pub const FAILED: u8 = 128;
}

/// The largest size of a split queue (VIRTIO 1.3 §2.7).
const MAX_QUEUE_SIZE: u16 = 32768;

/// How many queues a device may have: more than any real one, and far from an index's end.
const MAX_QUEUES: usize = 1024;

/// Features that this transport would have to carry out and doesn't: never offered, whatever a
/// device says.
const UNSUPPORTED_FEATURES: u64 = 1 << VIRTIO_F_RING_PACKED
    | 1 << VIRTIO_F_SR_IOV
    | 1 << VIRTIO_F_NOTIFICATION_DATA
    | 1 << VIRTIO_F_NOTIF_CONFIG_DATA
    | 1 << VIRTIO_F_RING_RESET
    | 1 << VIRTIO_F_ADMIN_VQ;

/// What the core asks of the transport that carries it.
///
/// Called from any thread, also under the core's lock: it must not call back.
pub trait TransportOps: TransportInterrupt {
    /// Returns interrupt state (ISR status, vectors, pending bits) to what it is after a reset.
    fn reset(&self);
}

/// Status, features, queues and reset of one device (VIRTIO 1.3 §2 and §3.1).
///
/// ```text
///  reset ─► ACKNOWLEDGE ─► DRIVER ─► FEATURES_OK ─► DRIVER_OK (the device is active)
///    ▲                                                  │
///    └── 0 written ◄── FAILED (driver), DEVICE_NEEDS_RESET (device)
/// ```
///
/// The transport keeps it behind a lock. Nothing that a driver does here is an error: what it may
/// not do is ignored, or sets DEVICE_NEEDS_RESET. Dropping it resets the device.
pub struct VirtioTransportCore {
    device: Box<dyn VirtioDevice>,
    memory: GuestRam,
    ops: Arc<dyn TransportOps>,
    kicks: Arc<[Arc<EventFd>]>,
    offered_features: u64,
    config_generation: Arc<AtomicU32>,
    status: u8,
    needs_reset: Arc<AtomicBool>,
    gate: Option<Arc<Gate>>,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u32,
    queues: Vec<QueueSetup>,
    /// How far the device has come in each queue since it was activated.
    cursors: Vec<Arc<QueueCursor>>,
    paused: bool,
}

impl VirtioTransportCore {
    /// Takes over `device`, which must be idle.
    ///
    /// # Errors
    /// When the device lists an impossible queue size or too many queues, or an eventfd can't be
    /// made.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestRam,
        ops: Arc<dyn TransportOps>,
    ) -> io::Result<Self> {
        let sizes = device.queue_max_sizes();
        let valid = |size: &u16| size.is_power_of_two() && *size <= MAX_QUEUE_SIZE;
        if !sizes.iter().all(valid) || sizes.len() > MAX_QUEUES {
            let message = format!("{:?} device with queues {sizes:?}", device.device_type());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let queues = sizes.iter().copied().map(QueueSetup::new).collect();
        let cursors = sizes.iter().map(|_| Arc::default()).collect();
        let kicks = sizes
            .iter()
            .map(|_| EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map(Arc::new))
            .collect::<io::Result<_>>()?;
        let offered_features =
            device.offered_features() & !UNSUPPORTED_FEATURES | 1 << VIRTIO_F_VERSION_1;
        Ok(Self {
            device,
            memory,
            ops,
            kicks,
            offered_features,
            config_generation: Arc::default(),
            status: 0,
            needs_reset: Arc::default(),
            gate: None,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues,
            cursors,
            paused: false,
        })
    }

    /// Names the device type.
    pub fn device_type(&self) -> DeviceType {
        self.device.device_type()
    }

    /// Returns one eventfd per queue, written when the driver notifies it. They stay the same for
    /// the device's whole life.
    pub fn queue_kicks(&self) -> Arc<[Arc<EventFd>]> {
        Arc::clone(&self.kicks)
    }

    /// Returns how many queues the device has.
    pub fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    /// Returns the device status.
    pub fn status(&self) -> u8 {
        if self.needs_reset.load(Ordering::Acquire) {
            self.status | status::DEVICE_NEEDS_RESET
        } else {
            self.status
        }
    }

    /// Takes the driver's next step (VIRTIO 1.3 §3.1.1); 0 resets the device.
    ///
    /// Bits can't be taken back one by one (§2.1.1). A step whose conditions aren't met leaves its
    /// bit clear, and after FAILED only a reset counts.
    pub fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let asks_for = |bit: u8| value & u32::from(bit) != 0;
        for bit in [status::ACKNOWLEDGE, status::DRIVER, status::FAILED] {
            if asks_for(bit) && !self.has(status::FAILED) {
                self.status |= bit;
            }
        }
        if self.has(status::FAILED) {
            return;
        }
        if asks_for(status::FEATURES_OK) && self.accepts_features() {
            self.status |= status::FEATURES_OK;
        }
        if asks_for(status::DRIVER_OK)
            && self.has(status::FEATURES_OK)
            && !self.has(status::DRIVER_OK)
        {
            self.status |= status::DRIVER_OK;
            self.activate();
        }
    }

    fn has(&self, bit: u8) -> bool {
        self.status & bit != 0
    }

    /// Tells whether the driver may agree on what it wrote: nothing that wasn't offered, and not
    /// the interface from before VIRTIO 1.0 (§6.1).
    fn accepts_features(&self) -> bool {
        self.has(status::DRIVER)
            && self.driver_features & !self.offered_features == 0
            && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0
    }

    /// Returns which 32 bits of the device's features are shown.
    pub fn device_feature_select(&self) -> u32 {
        self.device_feature_select
    }

    /// Chooses which 32 bits of the device's features are shown.
    pub fn select_device_features(&mut self, select: u32) {
        self.device_feature_select = select;
    }

    /// Returns the chosen 32 bits of the features that the device offers; 0 past the second word.
    pub fn device_features(&self) -> u32 {
        feature_word(self.offered_features, self.device_feature_select)
    }

    /// Returns which 32 bits of the driver's features are written.
    pub fn driver_feature_select(&self) -> u32 {
        self.driver_feature_select
    }

    /// Chooses which 32 bits of the driver's features are written.
    pub fn select_driver_features(&mut self, select: u32) {
        self.driver_feature_select = select;
    }

    /// Returns the chosen 32 bits of the features that the driver wrote; 0 past the second word.
    pub fn driver_features(&self) -> u32 {
        feature_word(self.driver_features, self.driver_feature_select)
    }

    /// Replaces the chosen 32 bits of the driver's features, until both sides have agreed.
    pub fn write_driver_features(&mut self, value: u32) {
        if self.has(status::FEATURES_OK) {
            return;
        }
        let (low, high) =
            (feature_word(self.driver_features, 0), feature_word(self.driver_features, 1));
        let (low, high) = match self.driver_feature_select {
            0 => (value, high),
            1 => (low, value),
            _ => return,
        };
        self.driver_features = u64::from(high) << 32 | u64::from(low);
    }

    /// Returns the number of the chosen queue, whether there is one or not.
    pub fn queue_select(&self) -> u32 {
        self.queue_select
    }

    /// Chooses the queue that the queue registers mean.
    pub fn select_queue(&mut self, select: u32) {
        self.queue_select = select;
    }

    /// Returns the registers of the chosen queue, if there is one.
    pub fn queue(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    /// Sets the size of the chosen queue. A size that isn't a power of two, or is larger than the
    /// device's, can be written but not enabled.
    pub fn set_queue_size(&mut self, size: u16) {
        if let Some(queue) = self.disabled_queue() {
            queue.size = size;
        }
    }

    /// Sets half of the address of one ring of the chosen queue.
    pub fn set_ring_address(&mut self, ring: Ring, half: Half, value: u32) {
        if let Some(queue) = self.disabled_queue() {
            queue.set_address(ring, half, value);
        }
    }

    /// Enables the chosen queue, unless its size is invalid. From now on it can't be changed.
    pub fn enable_queue(&mut self) {
        if let Some(queue) = self.disabled_queue()
            && queue.has_valid_size()
        {
            queue.enabled = true;
        }
    }

    /// Disables the chosen queue (VIRTIO 1.3 §4.2.2.2: the device may not touch it afterwards).
    ///
    /// No device here can stop one queue of several, so that an active one stops altogether and
    /// asks for a reset.
    pub fn disable_queue(&mut self) {
        let active = self.has(status::DRIVER_OK);
        let Some(queue) = usize::try_from(self.queue_select)
            .ok()
            .and_then(|index| self.queues.get_mut(index))
            .filter(|queue| queue.enabled)
        else {
            return;
        };
        queue.enabled = false;
        if active {
            self.notifier().needs_reset(&"the driver disabled a queue of an active device");
            self.stop();
        }
    }

    /// Returns the chosen queue while it may be set up: features are agreed on, and neither the
    /// queue is enabled nor the device active.
    fn disabled_queue(&mut self) -> Option<&mut QueueSetup> {
        let phase = status::FEATURES_OK | status::DRIVER_OK | status::FAILED;
        if self.status & phase != status::FEATURES_OK {
            return None;
        }
        let index = usize::try_from(self.queue_select).ok()?;
        self.queues.get_mut(index).filter(|queue| !queue.enabled)
    }

    /// Returns the counter that changes whenever the device-specific configuration does.
    pub fn config_generation(&self) -> u32 {
        self.config_generation.load(Ordering::Acquire)
    }

    /// Reads the device-specific configuration. What lies past its end reads as zero.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if is_in_bounds(offset, data) {
            self.device.read_config(offset, data);
        }
    }

    /// Writes the device-specific configuration, once a driver is there.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        let phase = status::DRIVER | status::FAILED;
        if self.status & phase == status::DRIVER && is_in_bounds(offset, data) {
            self.device.write_config(offset, data);
        }
    }

    /// Hands the enabled queues to the device, if they are sound.
    fn activate(&mut self) {
        let notifier = self.notifier();
        let queues = match self.device_queues(&notifier) {
            Ok(queues) => queues,
            Err(fault) => return notifier.needs_reset(&fault),
        };
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.driver_features,
            queues,
            notifier: notifier.clone(),
        };
        if let Err(error) = self.device.activate(activation) {
            // What had started until the error is stopped.
            self.device.reset();
            let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            notifier.needs_reset(&format_args!("{error}{cause}"));
        } else if self.paused {
            self.device.pause();
        }
    }

    fn device_queues(&self, notifier: &Notifier) -> Result<Vec<DeviceQueue>, RingFault> {
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        check_placement(&self.queues, &self.memory, event_idx)?;
        (0..)
            .zip(self.queues.iter().zip(self.kicks.iter()).zip(&self.cursors))
            .filter(|(_, ((setup, _), _))| setup.enabled)
            .map(|(index, ((setup, kick), cursor))| {
                let queue = setup.build(index, event_idx, cursor)?;
                Ok(DeviceQueue::new(index, queue, Arc::clone(kick), notifier.clone())
                    .with_cursor(Arc::clone(cursor)))
            })
            .collect()
    }

    /// Makes a notifier that works until the next [`stop`](Self::stop).
    fn notifier(&mut self) -> Notifier {
        let gate = self.gate.get_or_insert_with(|| Gate::open(Arc::clone(&self.ops)));
        Notifier::new(
            Arc::clone(gate) as Arc<dyn TransportInterrupt>,
            Arc::clone(&self.needs_reset),
            Arc::clone(&self.config_generation),
        )
    }

    /// Stops the device; signals of a worker that is late go nowhere from now on.
    fn stop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.close();
        }
        self.device.reset();
    }

    /// Returns everything but the configuration generation to what it was before the first driver
    /// (VIRTIO 1.3 §2.4).
    pub fn reset(&mut self) {
        self.stop();
        // Named one by one, so that a field that is added later can't be forgotten here.
        let Self {
            device: _,
            memory: _,
            ops,
            kicks,
            offered_features: _,
            config_generation: _,
            status,
            needs_reset,
            gate: _,
            device_feature_select,
            driver_feature_select,
            driver_features,
            queue_select,
            queues,
            cursors,
            // Whoever paused the machine resumes it.
            paused: _,
        } = self;
        *status = 0;
        // A new flag: the old one belongs to whoever still holds a notifier of before.
        *needs_reset = Arc::default();
        for select in [device_feature_select, driver_feature_select, queue_select] {
            *select = 0;
        }
        *driver_features = 0;
        for queue in queues {
            *queue = QueueSetup::new(queue.max_size);
        }
        for cursor in cursors {
            *cursor = Arc::default();
        }
        for kick in kicks.iter() {
            // Fails when there is nothing to drain.
            let _ = kick.read();
        }
        ops.reset();
    }
}

impl Drop for VirtioTransportCore {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Passes signals on until it's closed.
struct Gate {
    open: AtomicBool,
    ops: Arc<dyn TransportOps>,
}

impl Gate {
    fn open(ops: Arc<dyn TransportOps>) -> Arc<Self> {
        Arc::new(Self { open: AtomicBool::new(true), ops })
    }

    fn close(&self) {
        self.open.store(false, Ordering::Release);
    }
}

impl TransportInterrupt for Gate {
    fn signal_queue(&self, index: u16) {
        if self.open.load(Ordering::Acquire) {
            self.ops.signal_queue(index);
        }
    }

    fn signal_config(&self) {
        if self.open.load(Ordering::Acquire) {
            self.ops.signal_config();
        }
    }
}

/// Returns 32 of 64 feature bits, and none past these.
fn feature_word(features: u64, select: u32) -> u32 {
    let word = match select {
        0 => features,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default()
}

fn is_in_bounds(offset: u64, data: &[u8]) -> bool {
    u64::try_from(data.len()).is_ok_and(|len| offset.checked_add(len).is_some())
}
