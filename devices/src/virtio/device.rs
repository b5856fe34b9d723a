//! What a virtio device is to its transport, and what the transport gives it to work with.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::queue::DeviceQueue;
use super::worker::QueueWorker;
use crate::log_limit::LogLimit;
use crate::state::{RestoreError, SaveError};
use sys::memory::GuestRam;

/// Device types that this VMM offers, by their numbers in VIRTIO 1.3 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DeviceType {
    /// Network card, §5.1.
    Net = 1,
    /// Block device, §5.2.
    Block = 2,
    /// Console, §5.3.
    Console = 3,
    /// Entropy source, §5.4.
    Rng = 4,
    /// Memory balloon, §5.5.
    Balloon = 5,
    /// Socket device, §5.10.
    Vsock = 19,
    /// Memory that is plugged and unplugged, §5.15.
    Memory = 24,
    /// File system, §5.11.
    Fs = 26,
    /// Persistent memory, §5.19.
    Pmem = 27,
}

impl DeviceType {
    /// Returns the type's number.
    pub const fn id(self) -> u16 {
        self as u16
    }
}

/// A virtio device behind any transport.
///
/// The transport calls every method under its own lock, on the vCPU thread whose access caused it;
/// what pauses, saves and restores, on the thread that manages the machine, while no vCPU runs.
/// Requests are served on workers that the device starts in [`activate`](Self::activate) and joins
/// in [`reset`](Self::reset).
pub trait VirtioDevice: Send {
    /// Names the device type.
    fn device_type(&self) -> DeviceType;

    /// Lists the largest size of each queue: a power of two, at most 32768 (VIRTIO 1.3 §2.7).
    fn queue_max_sizes(&self) -> &[u16];

    /// Lists the device-type feature bits and ring features (event-idx, indirect descriptors) that
    /// the device offers. The transport adds `VIRTIO_F_VERSION_1`.
    fn offered_features(&self) -> u64;

    /// Reads the device-specific configuration at `offset`. Bytes past its end read as zero; `data`
    /// arrives zeroed.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device-specific configuration. A device without writable fields ignores it.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Starts serving: the driver has set DRIVER_OK and every enabled queue passed its checks.
    ///
    /// # Errors
    /// [`ActivateError`]; the transport then sets DEVICE_NEEDS_RESET.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops serving: joins every worker and waits until no I/O in flight can touch guest memory.
    ///
    /// Called on reset and before a device is dropped, also when it was never activated, and when
    /// it is paused.
    fn reset(&mut self);

    /// Returns the workers that serve the device's queues; none while it isn't active. By these, the
    /// methods below pause and resume the device.
    fn workers(&self) -> &[QueueWorker] {
        &[]
    }

    /// Asks every worker to finish what is in flight and to park; doesn't wait for it.
    fn request_pause(&mut self) {
        self.workers().iter().for_each(QueueWorker::request_pause);
    }

    /// Waits until every worker is parked, asking it first if nobody did. Then nothing of the device
    /// touches guest memory until [`resume`](Self::resume).
    fn pause(&mut self) {
        self.request_pause();
        self.workers().iter().for_each(QueueWorker::wait_paused);
    }

    /// Lets every worker go on where it was. Connections, budgets and cursors are what they were.
    fn resume(&mut self) {
        self.workers().iter().for_each(QueueWorker::resume);
    }

    /// Returns what the device knows beyond its transport, for [`restore`](Self::restore). Called
    /// while it's paused.
    ///
    /// # Errors
    /// [`SaveError`] when the device can't be saved.
    fn save(&self) -> Result<serde_json::Value, SaveError> {
        Ok(serde_json::Value::Null)
    }

    /// Takes over what [`save`](Self::save) returned for a device like this one. Called on a device
    /// that was never active, before it's activated for the driver that it was saved with; a reset
    /// makes it forget.
    ///
    /// The state is a file's: every value in it can be anything.
    ///
    /// # Errors
    /// [`RestoreError`] when the state isn't one of such a device.
    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let _ = state;
        Ok(())
    }
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// Guest memory.
    pub memory: GuestRam,
    /// The features that driver and device agreed on.
    pub features: u64,
    /// The queues that the driver enabled, in the order of their indices. A driver may leave
    /// queues out: look at [`DeviceQueue::index`].
    pub queues: Vec<DeviceQueue>,
    /// Raises interrupts and asks for a reset.
    pub notifier: Notifier,
}

/// Why a device couldn't start.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver left out a queue that the device can't work without.
    #[error("the driver set DRIVER_OK without enabling queue {0}")]
    MissingQueue(u16),
    /// A worker thread, an eventfd or an epoll instance couldn't be made.
    #[error("can't start the device's worker")]
    Worker(#[source] io::Error),
    /// The device's host side (a TAP, a file, a socket) refused.
    #[error("can't use the device's host side")]
    Backend(#[source] io::Error),
}

/// How a transport interrupts the driver.
pub trait TransportInterrupt: Send + Sync {
    /// Tells the driver that queue `index` has used buffers.
    fn signal_queue(&self, index: u16);

    /// Tells the driver that the configuration (or the status) changed.
    fn signal_config(&self);
}

/// What every transport and worker of one device share.
///
/// Lives from one activation to the next reset; after a reset, signals of a late worker go nowhere.
#[derive(Clone)]
pub struct Notifier {
    interrupt: Arc<dyn TransportInterrupt>,
    needs_reset: Arc<AtomicBool>,
    config_generation: Arc<AtomicU32>,
    workers_start_paused: bool,
}

impl Notifier {
    /// Creates a notifier over `interrupt`; the flag and the counter are the transport's.
    pub fn new(
        interrupt: Arc<dyn TransportInterrupt>,
        needs_reset: Arc<AtomicBool>,
        config_generation: Arc<AtomicU32>,
    ) -> Self {
        Self { interrupt, needs_reset, config_generation, workers_start_paused: false }
    }

    /// Makes the workers that are started with this notifier park first: the device is restored
    /// into a machine that doesn't run yet.
    #[must_use]
    pub fn with_paused_workers(mut self) -> Self {
        self.workers_start_paused = true;
        self
    }

    /// Tells whether workers wait for a resume before they serve anything.
    pub fn workers_start_paused(&self) -> bool {
        self.workers_start_paused
    }

    /// Interrupts the driver for queue `index`, without looking at its suppression fields:
    /// [`DeviceQueue::signal_used`] does that.
    pub fn signal_queue(&self, index: u16) {
        self.interrupt.signal_queue(index);
    }

    /// Announces a change of the device-specific configuration (VIRTIO 1.3 §2.5.1).
    pub fn config_changed(&self) {
        self.config_generation.fetch_add(1, Ordering::AcqRel);
        self.interrupt.signal_config();
    }

    /// Sets DEVICE_NEEDS_RESET (VIRTIO 1.3 §2.1.2): the driver broke the rules beyond one request.
    pub fn needs_reset(&self, reason: &dyn std::fmt::Display) {
        static LOG: LogLimit = LogLimit::new();
        if !self.needs_reset.swap(true, Ordering::AcqRel) {
            LOG.warn(format_args!("virtio device needs a reset: {reason}"));
            self.interrupt.signal_config();
        }
    }
}
