//! The socket device (VIRTIO 1.3 §5.10): stream sockets between guest and host, without a network.
//!
//! On the host's side they are Unix sockets, as users of Firecracker know them. A program connects
//! to the device's socket and writes `CONNECT port` and a newline; once the guest has accepted, it
//! reads `OK hostport` and then the guest's data. A guest that connects to port `P` of the host
//! (CID 2) reaches the program that listens on the device's path with `_P` appended.
//!
//! ```text
//! Vsock ── VsockWorker ── Muxer ─┬─ Connection ── SendBuffer, UnixStream
//!                                ├─ Greeting: a program that hasn't said its line yet
//!                                ├─ HostSocket: the listening socket
//!                                └─ Deadlines: one timer for all
//! ```

mod buffer;
mod connection;
mod host;
mod metrics;
mod muxer;
mod packet;
mod worker;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

pub use metrics::VsockMetrics;

use self::connection::Limits;
use self::host::HostSocket;
use self::muxer::{FIRST_HOST_PORT, Muxer};
use self::packet::GuestPacket;
use self::worker::{TransportReset, VsockWorker};
use super::device::{ActivateError, Activation, DeviceType, VirtioDevice};
use super::queue::ChainBuffers;
use super::worker::QueueWorker;
use crate::bytes;
use crate::state::{RestoreError, SaveError, from_value, to_value};

/// The sizes of the receive, transmit and event queues.
const QUEUE_SIZES: [u16; 3] = [256; 3];
const RX_QUEUE: u16 = 0;
const TX_QUEUE: u16 = 1;
const EVENT_QUEUE: u16 = 2;
/// VIRTIO_VSOCK_F_STREAM, a bit's number.
const FEATURE_STREAM: u32 = 0;
/// The first address that a guest can have: those below are reserved (VIRTIO 1.3 §5.10.4).
const FIRST_GUEST_CID: u32 = 3;

/// Where the host's ports go on after a snapshot that doesn't say how far they were: farther than
/// any machine got.
const PORTS_APART: u32 = 1 << 31;

/// What a socket device is made of.
#[derive(Clone, Debug)]
pub struct VsockConfig {
    /// The guest's address: 3 to 4294967294.
    pub cid: u32,
    /// Where the host's programs connect to: a socket that is made there, and removed when the
    /// device is dropped.
    pub path: PathBuf,
}

/// Why a socket device can't be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The address is reserved.
    #[error("CID {0} is reserved: a guest's is 3 to 4294967294")]
    InvalidCid(u32),
    /// The path, with `_` and a port appended, is too long for a Unix socket.
    #[error("{} is too long for a socket: at most {longest} bytes", path.display())]
    PathTooLong {
        /// The path as given.
        path: PathBuf,
        /// The longest possible path, in bytes.
        longest: usize,
    },
    /// There is something at the path, perhaps the socket of another VM.
    #[error("{} exists already", path.display())]
    SocketExists {
        /// The path as given.
        path: PathBuf,
    },
    /// The socket can't be made.
    #[error("can't listen on {}", path.display())]
    Bind {
        /// The path as given.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
}

/// A socket device.
pub struct Vsock {
    cid: u64,
    host: Arc<HostSocket>,
    limits: Limits,
    next_port: Arc<AtomicU32>,
    metrics: Arc<VsockMetrics>,
    worker: Option<QueueWorker>,
    /// The driver has connections of which nobody here knows: it is to give them up.
    restored: bool,
}

/// What a socket device saves. Connections can't be saved: their other ends are the host's.
#[derive(Debug, Serialize, Deserialize)]
struct VsockState {
    /// The guest's address. After a restore it may be another.
    cid: u64,
    /// The host's port of the next connection to the guest; older snapshots don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_port: Option<u32>,
}

impl Vsock {
    /// Creates a device and its socket. Programs that connect before the guest's driver is ready
    /// wait for it.
    ///
    /// # Errors
    /// [`VsockError`].
    pub fn new(config: &VsockConfig) -> Result<Self, VsockError> {
        if !(FIRST_GUEST_CID..u32::MAX).contains(&config.cid) {
            return Err(VsockError::InvalidCid(config.cid));
        }
        Ok(Self {
            cid: config.cid.into(),
            host: Arc::new(HostSocket::bind(&config.path)?),
            limits: Limits::default(),
            next_port: Arc::new(AtomicU32::new(FIRST_HOST_PORT)),
            metrics: Arc::default(),
            worker: None,
            restored: false,
        })
    }

    /// Returns the device's counters.
    pub fn metrics(&self) -> &Arc<VsockMetrics> {
        &self.metrics
    }

    fn make_worker(&self, activation: Activation) -> Result<VsockWorker, ActivateError> {
        let mut queues = activation.queues.into_iter().peekable();
        let mut take = |index: u16| queues.next_if(|queue| queue.index() == index);
        let rx = take(RX_QUEUE).ok_or(ActivateError::MissingQueue(RX_QUEUE))?;
        let tx = take(TX_QUEUE).ok_or(ActivateError::MissingQueue(TX_QUEUE))?;
        let event = take(EVENT_QUEUE);
        // Without an event queue it can't be told, and nobody waits for it.
        let transport_reset = match self.restored && event.is_some() {
            true => TransportReset::Due,
            false => TransportReset::Done,
        };
        let (host, metrics) = (Arc::clone(&self.host), Arc::clone(&self.metrics));
        let next_port = Arc::clone(&self.next_port);
        let muxer = Muxer::new(self.cid, host, self.limits, next_port, metrics)
            .map_err(ActivateError::Backend)?;
        Ok(VsockWorker {
            memory: activation.memory,
            rx,
            tx,
            event,
            muxer,
            transport_reset,
            notifier: activation.notifier,
            chain: ChainBuffers::default(),
            packet: GuestPacket::default(),
        })
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn offered_features(&self) -> u64 {
        1 << FEATURE_STREAM | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        bytes::read_at(&self.cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let notifier = activation.notifier.clone();
        let worker = self.make_worker(activation)?;
        let worker = QueueWorker::spawn("vsock".to_owned(), Box::new(worker), &notifier);
        self.worker = Some(worker.map_err(ActivateError::Worker)?);
        Ok(())
    }

    fn reset(&mut self) {
        // The worker's connections close with it.
        self.worker = None;
        self.restored = false;
    }

    fn workers(&self) -> &[QueueWorker] {
        self.worker.as_slice()
    }

    fn save(&self) -> Result<serde_json::Value, SaveError> {
        let next_port = Some(self.next_port.load(Ordering::Relaxed));
        to_value(&VsockState { cid: self.cid, next_port })
    }

    /// The guest's address stays the configured one, whatever it was: a driver reads it again when
    /// it hears of the reset.
    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let VsockState { cid, next_port } = from_value("a socket device", state)?;
        if cid != self.cid {
            log::info!("the guest's CID was {cid} and is {} now", self.cid);
        }
        let known = next_port.filter(|port| (FIRST_HOST_PORT..u32::MAX).contains(port));
        self.next_port.store(known.unwrap_or(PORTS_APART), Ordering::Relaxed);
        self.restored = true;
        Ok(())
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.reset();
    }
}
