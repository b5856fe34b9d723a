//! The network card (VIRTIO 1.3 §5.1): frames between the driver's queues and a TAP,
//! or a process that is the guest's network.
//!
//! One worker serves each pair of queues. The first also serves the control queue.
//!
//! ```text
//! Net ── PairWorker ── Receiver ──┐
//!     │      │        Transmitter ┴─ Pair ── FrameBackend (TAP queue, stream)
//!     │      └── Control ─ all pairs ─┘
//!     └── PairWorker …
//! ```
//!
//! With the metadata service, an [`MmdsPort`] stands before each backend.

mod backend;
mod choices;
mod control;
mod features;
mod header;
mod metrics;
mod mmds;
mod pair;
mod rx;
mod tx;
mod worker;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use sys::memory::GuestRam;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MQ, VIRTIO_NET_S_LINK_UP};
use zerocopy::little_endian::U16;
use zerocopy::{Immutable, IntoBytes};

pub use backend::{FrameBackend, StreamBackend};
pub use metrics::NetMetrics;

use self::choices::{Choices, ChoicesState};
use self::control::Control;
use self::features::Features;
use self::mmds::MmdsPort;
use self::pair::Pair;
use self::rx::Receiver;
use self::tx::Transmitter;
use self::worker::{PairWorker, Waits};
use super::device::{ActivateError, Activation, DeviceType, Notifier, VirtioDevice};
use super::queue::DeviceQueue;
use super::worker::QueueWorker;
use crate::bytes;
use crate::mmds::Mmds;
use crate::rate_limiter::{RateLimitControl, RateLimiter, RateLimiterConfig, RateLimiterState};
use crate::state::{RestoreError, SaveError, from_value, to_value};

/// The largest frame without its header, in bytes (VIRTIO 1.3 §5.1.6.3.1).
pub const MAX_FRAME_SIZE: usize = 65550;
/// How many pairs of queues a card can have (VIRTIO 1.3 §5.1.6.5.5 allows more, TAPs don't).
pub const MAX_QUEUE_PAIRS: u16 = sys::tap::MAX_TAP_QUEUES;

/// How many frames one direction moves before the other has its turn.
const BUDGET: usize = 256;
const CONTROL_QUEUE_SIZE: u16 = 64;
const ETHERNET_MTU: u16 = 1500;

/// What a network card is made of.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The card's address.
    pub mac: [u8; 6],
    /// How many pairs of receive and transmit queues it has.
    pub queue_pairs: u16,
    /// The largest size of each of these queues: a power of two.
    pub queue_size: u16,
    /// The MTU that the driver is told to keep, in bytes.
    pub mtu: Option<u16>,
    /// Limits what the guest receives.
    pub rx_limit: RateLimiterConfig,
    /// Limits what the guest sends.
    pub tx_limit: RateLimiterConfig,
}

/// Why a network card can't be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// There is no such number of queue pairs, or not as many backends.
    #[error("a network card can't have {queue_pairs} queue pairs on {backends} host queues")]
    QueuePairs {
        /// How many pairs were wanted.
        queue_pairs: u16,
        /// How many backends were given.
        backends: usize,
    },
    /// The queue size isn't a power of two from 2 to 32768.
    #[error("a network card can't have queues of size {0}")]
    QueueSize(u16),
    /// A timer or an eventfd can't be made.
    #[error("can't make a network card's timers")]
    Host(#[source] io::Error),
}

/// The configuration space (VIRTIO 1.3 §5.1.4).
#[derive(Immutable, IntoBytes)]
#[repr(C)]
struct ConfigSpace {
    mac: [u8; 6],
    status: U16,
    max_virtqueue_pairs: U16,
    mtu: U16,
}

/// A network card.
pub struct Net {
    config: NetConfig,
    offered: Features,
    queue_sizes: Vec<u16>,
    pairs: Vec<Arc<Pair>>,
    rx_limiter: RateLimiter,
    tx_limiter: RateLimiter,
    link_up: Arc<AtomicBool>,
    metrics: Arc<NetMetrics>,
    workers: Vec<QueueWorker>,
    mmds: Option<Arc<MmdsPort>>,
    /// What the driver chose by the control queue.
    choices: Arc<Choices>,
    /// What it had chosen when it was saved, until it is in force again.
    restored: Option<ChoicesState>,
}

/// What a network card saves. The link's state isn't among it: it is that of the new host side.
#[derive(Debug, Serialize, Deserialize)]
struct NetState {
    mac: [u8; 6],
    #[serde(default)]
    choices: ChoicesState,
    #[serde(default)]
    rx_limiter: RateLimiterState,
    #[serde(default)]
    tx_limiter: RateLimiterState,
}

/// Changes a network card while it works.
#[derive(Clone)]
pub struct NetControl {
    rx: RateLimitControl,
    tx: RateLimitControl,
}

impl NetControl {
    /// Replaces those limits of what the guest receives that `config` mentions.
    pub fn update_rx_limit(&self, config: &RateLimiterConfig) {
        self.rx.update(config);
    }

    /// Replaces those limits of what the guest sends that `config` mentions.
    pub fn update_tx_limit(&self, config: &RateLimiterConfig) {
        self.tx.update(config);
    }
}

impl Net {
    /// Creates a card over one backend for each queue pair.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn new(config: NetConfig, backends: Vec<Box<dyn FrameBackend>>) -> Result<Self, NetError> {
        let (queue_pairs, count) = (config.queue_pairs, backends.len());
        let first = backends.first().filter(|_| {
            (1..=MAX_QUEUE_PAIRS).contains(&queue_pairs) && count == usize::from(queue_pairs)
        });
        let Some(first) = first else {
            return Err(NetError::QueuePairs { queue_pairs, backends: count });
        };
        let size = config.queue_size;
        if !size.is_power_of_two() || !(2..=32768).contains(&size) {
            return Err(NetError::QueueSize(size));
        }
        let offloads = first.supported_offloads();
        let offered = Features::offered(offloads, queue_pairs > 1, config.mtu.is_some());
        let mut queue_sizes = vec![size; usize::from(queue_pairs).saturating_mul(2)];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        let pairs = backends
            .into_iter()
            .map(Pair::new)
            .collect::<Result<_, _>>()
            .map_err(NetError::Host)?;
        Ok(Self {
            rx_limiter: RateLimiter::new(&config.rx_limit).map_err(NetError::Host)?,
            tx_limiter: RateLimiter::new(&config.tx_limit).map_err(NetError::Host)?,
            config,
            offered,
            queue_sizes,
            pairs,
            link_up: Arc::new(AtomicBool::new(true)),
            metrics: Arc::default(),
            workers: Vec::new(),
            mmds: None,
            choices: Arc::default(),
            restored: None,
        })
    }

    /// Returns what changes the card while it works.
    pub fn control(&self) -> NetControl {
        NetControl { rx: self.rx_limiter.control(), tx: self.tx_limiter.control() }
    }

    /// Creates a card on which the guest also reaches `mmds`, at the address that it is configured
    /// with now: frames for it don't come to the backends.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn with_mmds(
        config: NetConfig,
        backends: Vec<Box<dyn FrameBackend>>,
        mmds: Arc<Mmds>,
    ) -> Result<Self, NetError> {
        let port = MmdsPort::new(mmds).map_err(NetError::Host)?;
        let mut net = Self::new(config, port.before(backends))?;
        net.mmds = Some(port);
        Ok(net)
    }

    /// Returns the card's counters.
    pub fn metrics(&self) -> &Arc<NetMetrics> {
        &self.metrics
    }

    fn config_space(&self) -> ConfigSpace {
        let up = self.link_up.load(Ordering::Acquire);
        let link = if up { u16::try_from(VIRTIO_NET_S_LINK_UP).unwrap_or(1) } else { 0 };
        ConfigSpace {
            mac: self.config.mac,
            status: link.into(),
            max_virtqueue_pairs: self.config.queue_pairs.into(),
            mtu: self.config.mtu.unwrap_or(0).into(),
        }
    }

    /// Puts the first pairs in use (one of them, until the driver asks for more: VIRTIO 1.3
    /// §5.1.6.5.5) and, in the host's distribution of frames, the others out of it; and tells the
    /// host what the driver accepts undone.
    fn reset_host_side(&self, choices: &ChoicesState) -> io::Result<()> {
        let multi_queue = self.pairs.len() > 1;
        for (index, pair) in self.pairs.iter().enumerate() {
            pair.set_enabled(index < usize::from(choices.pairs), multi_queue)?;
        }
        self.choices.set(choices);
        match self.pairs.first() {
            Some(pair) => pair.backend().set_offloads(choices.receive_offloads()),
            None => Ok(()),
        }
    }

    /// Builds the worker of `pair` over its queues.
    fn pair_worker(
        &self,
        pair: &Arc<Pair>,
        queues: (DeviceQueue, DeviceQueue),
        control: Option<Control>,
        session: &Session,
    ) -> io::Result<PairWorker> {
        let (rx, tx) = queues;
        let mtu = usize::from(self.config.mtu.unwrap_or(ETHERNET_MTU));
        let (memory, features) = (&session.memory, session.features);
        Ok(PairWorker {
            pair: Arc::clone(pair),
            rx: Receiver::new(
                rx,
                memory.clone(),
                features,
                mtu,
                self.rx_limiter.share()?,
                Arc::clone(&self.metrics),
            ),
            tx: Transmitter::new(
                tx,
                memory.clone(),
                features,
                self.tx_limiter.share()?,
                Arc::clone(&self.metrics),
            ),
            control,
            notifier: session.notifier.clone(),
            link_up: Arc::clone(&self.link_up),
            waits: Waits::default(),
            mmds: None,
        })
    }

    fn start_workers(
        &mut self,
        queues: Vec<(DeviceQueue, DeviceQueue)>,
        mut control: Option<Control>,
        session: &Session,
    ) -> io::Result<()> {
        for (index, queues) in queues.into_iter().enumerate() {
            let Some(pair) = self.pairs.get(index) else { break };
            let mut worker = self.pair_worker(pair, queues, control.take(), session)?;
            worker.mmds = self.mmds.clone().filter(|_| index == 0);
            let name = format!("net-{index}");
            let worker = QueueWorker::spawn(name, Box::new(worker), &session.notifier)?;
            self.workers.push(worker);
        }
        Ok(())
    }
}

/// What all workers of one activation have in common.
struct Session {
    memory: GuestRam,
    features: Features,
    notifier: Notifier,
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn offered_features(&self) -> u64 {
        self.offered.0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        bytes::read_at(self.config_space().as_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let features = Features(activation.features);
        let multi_queue = features.has(VIRTIO_NET_F_MQ);
        let pairs = if multi_queue { self.pairs.len() } else { 1 };
        let (queues, control) = sort_queues(activation.queues, pairs)?;
        let choices = match self.restored.take() {
            Some(restored) if restored.are_made() => restored.limited_to(features, queues.len()),
            _ => ChoicesState::initial(features),
        };
        self.reset_host_side(&choices).map_err(ActivateError::Backend)?;
        self.link_up.store(true, Ordering::Release);
        let session =
            Session { memory: activation.memory, features, notifier: activation.notifier };
        let control = control.map(|queue| {
            let memory = session.memory.clone();
            let choices = Arc::clone(&self.choices);
            Control::new(queue, memory, features, self.pairs.clone(), queues.len(), choices)
        });
        self.start_workers(queues, control, &session).map_err(|error| {
            self.workers.clear();
            ActivateError::Worker(error)
        })
    }

    fn reset(&mut self) {
        self.workers.clear();
        self.restored = None;
        self.choices.set(&ChoicesState::default());
        if let Some(mmds) = &self.mmds {
            mmds.reset();
        }
    }

    fn save(&self) -> Result<serde_json::Value, SaveError> {
        to_value(&NetState {
            mac: self.config.mac,
            choices: self.choices.get(),
            rx_limiter: self.rx_limiter.control().save(),
            tx_limiter: self.tx_limiter.control().save(),
        })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        // The address is the configuration's: a clone has another than what it was saved of.
        let NetState { mac: _, choices, rx_limiter, tx_limiter } =
            from_value("a network card", state)?;
        if choices.pairs > self.config.queue_pairs {
            return Err(RestoreError::invalid("number of queue pairs", choices.pairs));
        }
        self.rx_limiter.control().restore(&rx_limiter);
        self.tx_limiter.control().restore(&tx_limiter);
        self.restored = Some(choices);
        Ok(())
    }

    fn workers(&self) -> &[QueueWorker] {
        &self.workers
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Queue pairs in the order of their indices, and the control queue behind them.
type SortedQueues = (Vec<(DeviceQueue, DeviceQueue)>, Option<DeviceQueue>);

/// Sorts queues by what they are for (VIRTIO 1.3 §5.1.2): `pairs` pairs, then the control queue.
/// The driver may leave out pairs at the end and the control queue.
fn sort_queues(queues: Vec<DeviceQueue>, pairs: usize) -> Result<SortedQueues, ActivateError> {
    let control_index = pairs.saturating_mul(2);
    let mut queues = queues.into_iter().peekable();
    let mut sorted = Vec::new();
    for pair in 0..pairs {
        let first = pair.saturating_mul(2);
        let mut take = |index: usize| queues.next_if(|queue| usize::from(queue.index()) == index);
        match (take(first), take(first.saturating_add(1))) {
            (Some(rx), Some(tx)) => sorted.push((rx, tx)),
            (None, _) if pair == 0 => return Err(ActivateError::MissingQueue(0)),
            (Some(_), None) if pair == 0 => return Err(ActivateError::MissingQueue(1)),
            _ => break,
        }
    }
    let control = queues.find(|queue| usize::from(queue.index()) == control_index);
    Ok((sorted, control))
}
