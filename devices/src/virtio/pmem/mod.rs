//! Virtio persistent memory (VIRTIO 1.3 §5.19): a file that the guest sees as memory.
//!
//! The guest reads and writes the mapped file without the device. What the device does is to make it
//! durable when the driver asks (a flush). Mapping the file into the guest is for whoever makes the
//! device.

mod file;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use serde::{Deserialize, Serialize};
use sys::memory::GuestRam;
use vm_memory::{Bytes, GuestAddress};

pub use file::PmemFile;

use super::counter::Counter;
use super::device::{ActivateError, Activation, DeviceType, VirtioDevice};
use super::queue::ChainBuffers;
use super::serve::{RING_FEATURES, ServedQueue};
use super::worker::{QueueWorker, WorkerHandler};
use crate::bytes::read_at;
use crate::log_limit::LogLimit;
use crate::rate_limiter::{RateLimitControl, RateLimiter, RateLimiterConfig, RateLimiterState};
use crate::state::{RestoreError, SaveError, from_value, to_value};

const QUEUE_SIZES: [u16; 1] = [64];

/// The only type of request: `VIRTIO_PMEM_REQ_TYPE_FLUSH`.
const REQUEST_FLUSH: u32 = 0;
/// `ret` of a response.
const RESPONSE_OK: u32 = 0;
const RESPONSE_EIO: u32 = 1;

/// What the device has counted.
#[derive(Debug, Default)]
pub struct PmemMetrics {
    /// Flushes that succeeded.
    pub flushes: Counter,
    /// Flushes that failed.
    pub failed: Counter,
    /// Requests that were none.
    pub rejected: Counter,
    /// How often flushes had to wait for the limit.
    pub rate_limited: Counter,
}

/// What a device saves. It's of use only where the same memory is in the same place.
#[derive(Debug, Serialize, Deserialize)]
struct PmemState {
    start: u64,
    len: u64,
    file_len: u64,
    read_only: bool,
    #[serde(default)]
    limiter: RateLimiterState,
}

/// A persistent memory device.
pub struct Pmem {
    file: PmemFile,
    start: GuestAddress,
    limiter: RateLimiter,
    metrics: Arc<PmemMetrics>,
    worker: Option<QueueWorker>,
}

impl Pmem {
    /// Creates a device, not active, for `file`, which the guest finds mapped at `start`.
    ///
    /// # Errors
    /// When the limit's timer can't be made.
    pub fn new(file: PmemFile, start: GuestAddress, limit: &RateLimiterConfig) -> io::Result<Self> {
        let limiter = RateLimiter::new(limit)?;
        Ok(Self { file, start, limiter, metrics: Arc::default(), worker: None })
    }

    /// Returns what changes the limit while the device works.
    pub fn control(&self) -> RateLimitControl {
        self.limiter.control()
    }

    /// Returns the device's counters.
    pub fn metrics(&self) -> &Arc<PmemMetrics> {
        &self.metrics
    }
}

impl VirtioDevice for Pmem {
    fn device_type(&self) -> DeviceType {
        DeviceType::Pmem
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn offered_features(&self) -> u64 {
        RING_FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 16];
        for (to, from) in config.as_chunks_mut().0.iter_mut().zip([self.start.0, self.file.len()]) {
            *to = from.to_le_bytes();
        }
        read_at(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.queues.into_iter().next().ok_or(ActivateError::MissingQueue(0))?;
        let handler = PmemHandler {
            requests: ServedQueue::new(queue, activation.memory),
            flusher: Flusher::new(&self.file),
            limiter: self.limiter.share().map_err(ActivateError::Worker)?,
            metrics: Arc::clone(&self.metrics),
            owed: Cell::new(false),
        };
        let name = "virtio-pmem".to_owned();
        let worker = QueueWorker::spawn(name, Box::new(handler), &activation.notifier)
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
        to_value(&PmemState {
            start: self.start.0,
            len: self.file.len(),
            file_len: self.file.file_len(),
            read_only: self.file.is_read_only(),
            limiter: self.limiter.control().save(),
        })
    }

    /// A driver doesn't hear of another length or place: the file must be as long as it was.
    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let state: PmemState = from_value("persistent memory", state)?;
        RestoreError::expect("memory at", state.start, self.start.0)?;
        RestoreError::expect("memory of length", state.len, self.file.len())?;
        RestoreError::expect("a file of length", state.file_len, self.file.file_len())?;
        RestoreError::expect("a read-only flag of", state.read_only, self.file.is_read_only())?;
        self.limiter.control().restore(&state.limiter);
        Ok(())
    }
}

/// Makes what the guest wrote durable.
struct Flusher {
    /// None where the guest can't write.
    file: Option<Arc<File>>,
    /// What a flush counts for: it can take up to all of the file to the disk.
    cost_bytes: u64,
}

impl Flusher {
    fn new(file: &PmemFile) -> Self {
        let cost_bytes = file.file_len();
        Self { file: (!file.is_read_only()).then(|| Arc::clone(file.file())), cost_bytes }
    }

    /// `fsync` takes along what was written through any mapping of the file, by the guest, too: the
    /// host's kernel notes its writes as those of this process.
    fn flush(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync_data())
    }
}

struct PmemHandler {
    requests: ServedQueue,
    flusher: Flusher,
    limiter: RateLimiter,
    metrics: Arc<PmemMetrics>,
    /// The last request isn't paid for: whether there is another is known only afterwards.
    owed: Cell<bool>,
}

impl PmemHandler {
    fn serve(&mut self) {
        let Self { requests, flusher, limiter, metrics, owed } = self;
        let may_go_on = || {
            let paid = !owed.get() || limiter.consume(1, flusher.cost_bytes);
            if paid {
                owed.set(false);
            } else {
                metrics.rate_limited.add(1);
            }
            paid
        };
        requests.serve_while(may_go_on, |memory, buffers| {
            owed.set(true);
            answer(memory, buffers, flusher, metrics)
        });
    }
}

/// Carries a request out and returns how many bytes its response has (§5.19.6): none where there's
/// no room for it.
fn answer(
    memory: &GuestRam,
    buffers: &ChainBuffers,
    flusher: &Flusher,
    metrics: &PmemMetrics,
) -> u32 {
    static LOG: LogLimit = LogLimit::new();
    const RESPONSE_LEN: u32 = 4;
    let mut kind = [0; size_of::<u32>()];
    let response = buffers.writable.first().filter(|segment| segment.len >= RESPONSE_LEN);
    let valid = match (buffers.readable.first(), response) {
        (Some(request), Some(_)) => {
            usize::try_from(request.len).is_ok_and(|len| len >= kind.len())
                && memory.read_slice(&mut kind, request.address).is_ok()
                && u32::from_le_bytes(kind) == REQUEST_FLUSH
        }
        _ => false,
    };
    let code = match valid.then(|| flusher.flush()) {
        Some(Ok(())) => {
            metrics.flushes.add(1);
            RESPONSE_OK
        }
        Some(Err(error)) => {
            metrics.failed.add(1);
            LOG.warn(format_args!("persistent memory can't be flushed: {error}"));
            RESPONSE_EIO
        }
        None => {
            metrics.rejected.add(1);
            RESPONSE_EIO
        }
    };
    let Some(response) = response else { return 0 };
    match memory.write_slice(&code.to_le_bytes(), response.address) {
        Ok(()) => RESPONSE_LEN,
        Err(error) => {
            // The segment was checked: this can't fail.
            log::error!("a flush's answer can't be written: {error}");
            0
        }
    }
}

/// Between two events nothing is in flight.
impl WorkerHandler for PmemHandler {}

impl MutEventSubscriber for PmemHandler {
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
            log::error!("the limit of persistent memory can't end: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
