//! The block device (VIRTIO 1.3 §5.2): requests between the driver's queues and a disk.
//!
//! Each queue has a worker of its own, and an [`IoEngine`](crate::disk::IoEngine) on the shared
//! disk.
//!
//! ```text
//! Block ── QueueWorker ── QueueHandler ── Request::parse
//!   │          ⋮               │
//!   └── DiskBackend ─ start ─ IoEngine (sync, io_uring, qcow2)
//! ```

mod config;
mod handler;
mod media;
mod metrics;
mod request;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use zerocopy::IntoBytes;

pub use self::media::{BlockControl, DiskChange, DiskChangeError};
pub use self::metrics::BlockMetrics;
pub use self::request::ID_BYTES;

use self::handler::{Parts, QueueHandler};
use self::media::Medium;
use self::request::Limits;
use super::device::{ActivateError, Activation, DeviceType, VirtioDevice};
use super::worker::QueueWorker;
use crate::bytes;
use crate::disk::DiskBackend;
use crate::rate_limiter::{RateLimiter, RateLimiterConfig, RateLimiterState};
use crate::state::{RestoreError, SaveError, from_value, to_value};

/// How many queues a block device can have.
pub const MAX_QUEUES: u16 = 64;

/// What a block device is made of, apart from its disk.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// What the driver gets as the device's serial; only its first [`ID_BYTES`] bytes fit.
    pub serial: String,
    /// How many queues it has, each with a worker: 1 to [`MAX_QUEUES`].
    pub num_queues: u16,
    /// The largest size of each queue: a power of two from 4 to 32768.
    pub queue_size: u16,
    /// Limits all requests together. Discards and write-zeroes count as operations without bytes.
    pub rate_limit: RateLimiterConfig,
}

impl Default for BlockConfig {
    /// One queue of 256 descriptors, no serial and no limits.
    fn default() -> Self {
        Self {
            serial: String::new(),
            num_queues: 1,
            queue_size: 256,
            rate_limit: RateLimiterConfig::default(),
        }
    }
}

/// Why a block device can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// There is no such number of queues.
    #[error("a block device can't have {0} queues: 1 to {MAX_QUEUES} are possible")]
    Queues(u16),
    /// The queue size isn't a power of two from 4 to 32768.
    #[error("a block device can't have queues of size {0}")]
    QueueSize(u16),
    /// The rate limit's timer can't be made.
    #[error("can't make a block device's timer")]
    Host(#[source] io::Error),
}

/// What a block device saves.
#[derive(Debug, Serialize, Deserialize)]
struct BlockState {
    len_bytes: u64,
    block_size: u32,
    read_only: bool,
    #[serde(default)]
    limiter: RateLimiterState,
}

/// A block device.
pub struct Block {
    control: Arc<BlockControl>,
    offered: u64,
    queue_sizes: Vec<u16>,
    serial: [u8; ID_BYTES],
    limiter: RateLimiter,
    metrics: Arc<BlockMetrics>,
    workers: Vec<QueueWorker>,
}

impl Block {
    /// Creates a device on `disk`.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn new(config: &BlockConfig, disk: impl DiskBackend + 'static) -> Result<Self, BlockError> {
        let limiter = RateLimiter::new(&config.rate_limit).map_err(BlockError::Host)?;
        Self::with_limiter(config, Arc::new(disk), limiter)
    }

    fn with_limiter(
        config: &BlockConfig,
        disk: Arc<dyn DiskBackend>,
        limiter: RateLimiter,
    ) -> Result<Self, BlockError> {
        let &BlockConfig { num_queues, queue_size, .. } = config;
        if !(1..=MAX_QUEUES).contains(&num_queues) {
            return Err(BlockError::Queues(num_queues));
        }
        if !queue_size.is_power_of_two() || !(4..=32768).contains(&queue_size) {
            return Err(BlockError::QueueSize(queue_size));
        }
        let mut serial = [0; ID_BYTES];
        bytes::read_at(config.serial.as_bytes(), 0, &mut serial);
        Ok(Self {
            offered: config::offered_features(&*disk, num_queues),
            queue_sizes: vec![queue_size; usize::from(num_queues)],
            control: Arc::new(BlockControl::new(disk, num_queues, queue_size, limiter.control())),
            serial,
            limiter,
            metrics: Arc::default(),
            workers: Vec::new(),
        })
    }

    /// Returns the device's counters.
    pub fn metrics(&self) -> &Arc<BlockMetrics> {
        &self.metrics
    }

    /// Returns what changes the device while it works.
    pub fn control(&self) -> &Arc<BlockControl> {
        &self.control
    }

    /// Makes what serves each queue of `activation`.
    fn handlers(&self, activation: Activation) -> Result<Vec<QueueHandler>, ActivateError> {
        let Activation { memory, features, queues, notifier } = activation;
        // Without flushes, a driver takes a completed write for a durable one
        // (VIRTIO 1.3 §5.2.6.2).
        let write_through = features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        let depths: Vec<u16> = queues.iter().map(super::DeviceQueue::size).collect();
        let started = self
            .control
            .start_session(&memory, write_through, notifier, &depths)
            .map_err(ActivateError::Backend)?;
        let handler = |(queue, (medium, slot))| {
            let Medium { engine, disk, .. } = medium;
            Ok(QueueHandler::new(Parts {
                queue,
                memory: memory.clone(),
                engine,
                limits: Limits { len: disk.len_bytes(), read_only: disk.read_only(), features },
                disk,
                slot,
                limiter: self.limiter.share().map_err(ActivateError::Worker)?,
                serial: self.serial,
                metrics: Arc::clone(&self.metrics),
            }))
        };
        queues.into_iter().zip(started).map(handler).collect()
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn offered_features(&self) -> u64 {
        self.offered
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        bytes::read_at(self.control.config().as_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.is_empty() {
            return Err(ActivateError::MissingQueue(0));
        }
        let notifier = activation.notifier.clone();
        let indices: Vec<u16> = activation.queues.iter().map(super::DeviceQueue::index).collect();
        let handlers = self.handlers(activation)?;
        for (index, handler) in indices.into_iter().zip(handlers) {
            let name = format!("block-q{index}");
            let worker = QueueWorker::spawn(name, Box::new(handler), &notifier);
            match worker {
                Ok(worker) => self.workers.push(worker),
                Err(error) => {
                    self.reset();
                    return Err(ActivateError::Worker(error));
                }
            }
        }
        Ok(())
    }

    /// Joins the workers. Each drops its engine, which waits for the requests in flight.
    fn reset(&mut self) {
        self.workers.clear();
        self.control.end_session();
    }

    fn save(&self) -> Result<serde_json::Value, SaveError> {
        let disk = self.control.disk();
        to_value(&BlockState {
            len_bytes: disk.len_bytes(),
            block_size: disk.block_size(),
            read_only: disk.read_only(),
            limiter: self.control.limiter().save(),
        })
    }

    /// A disk of another length is one that was resized meanwhile: the driver reads its capacity
    /// anew, as the transport announces a change after every restore.
    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let BlockState { len_bytes, block_size, read_only, limiter } =
            from_value("a block device", state)?;
        let disk = self.control.disk();
        RestoreError::expect("disk's read-only flag", read_only, disk.read_only())?;
        RestoreError::expect("disk's block size", block_size, disk.block_size())?;
        if len_bytes != disk.len_bytes() {
            log::info!("a disk had {len_bytes} bytes and has {} now", disk.len_bytes());
        }
        self.control.limiter().restore(&limiter);
        Ok(())
    }

    fn workers(&self) -> &[QueueWorker] {
        &self.workers
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.reset();
    }
}
