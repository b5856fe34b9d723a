//! The connection to a back end.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sys::memory::GuestRam;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{
    Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_MQ;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::super::device::Notifier;
use super::super::queue::DeviceQueue;
use super::super::serve::RING_FEATURES;
use crate::bytes::write_at;

/// How long a back end may take for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The size of `struct virtio_blk_config` (VIRTIO 1.3 §5.2.4), and where it has the number of queues.
const CONFIG_LEN: u32 = 60;
const NUM_QUEUES_OFFSET: usize = 34;
/// The features that are a block device's own: bits 0 to 23 (VIRTIO 1.3 §2.2).
const BLOCK_FEATURES: u64 = (1 << 24) - 1;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// Why a back end can't be used.
#[derive(Debug, thiserror::Error)]
pub enum VhostUserError {
    /// Nobody listens.
    #[error("can't connect to a vhost-user back end")]
    Connect(#[source] io::Error),
    /// It refuses or breaks the protocol.
    #[error("the vhost-user back end fails at {step}")]
    Protocol {
        /// What was asked of it.
        step: &'static str,
        /// What went wrong.
        source: vhost::Error,
    },
    /// It lacks what can't be done without.
    #[error("the vhost-user back end doesn't offer {0}")]
    Missing(&'static str),
    /// It has fewer queues.
    #[error("the vhost-user back end has {has} queues, not {wanted}")]
    Queues {
        /// How many it has.
        has: u64,
        /// How many were asked for.
        wanted: u16,
    },
    /// Guest memory can't be mapped by another process.
    #[error("guest memory isn't shared")]
    Private,
}

/// A back end, and what it said.
pub struct VhostUserControl {
    frontend: Frontend,
    offered: u64,
    num_queues: u16,
    state: Mutex<State>,
}

struct State {
    config: Vec<u8>,
    notifier: Option<Notifier>,
}

/// A queue as the back end gets it.
pub(super) struct Ring {
    pub(super) queue: DeviceQueue,
    pub(super) call: EventFd,
    addresses: VringConfigData,
    /// The next element of the available ring.
    base: u16,
    /// The back end works on it.
    running: bool,
}

fn at(step: &'static str) -> impl Fn(vhost::Error) -> VhostUserError {
    move |source| VhostUserError::Protocol { step, source }
}

impl VhostUserControl {
    pub(super) fn connect(path: &Path, num_queues: u16) -> Result<Self, VhostUserError> {
        let stream = UnixStream::connect(path).map_err(VhostUserError::Connect)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(VhostUserError::Connect)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(VhostUserError::Connect)?;
        let mut frontend = Frontend::from_stream(stream, num_queues.into());
        frontend.set_owner().map_err(at("SET_OWNER"))?;
        let features = frontend.get_features().map_err(at("GET_FEATURES"))?;
        if features & PROTOCOL_FEATURES == 0 || features & VERSION_1 == 0 {
            return Err(VhostUserError::Missing("protocol features and VIRTIO 1"));
        }
        agree(&mut frontend, num_queues)?;
        let mut offered = features & (BLOCK_FEATURES | RING_FEATURES);
        if num_queues == 1 {
            offered &= !(1 << VIRTIO_BLK_F_MQ);
        }
        let config = read_config(&frontend, num_queues)?;
        let state = Mutex::new(State { config, notifier: None });
        Ok(Self { frontend, offered, num_queues, state })
    }

    /// Reads the configuration anew: the back end has changed its disk. Returns whether it differs;
    /// the driver is told then.
    ///
    /// # Errors
    /// [`VhostUserError::Protocol`].
    pub fn reload(&self) -> Result<bool, VhostUserError> {
        let config = read_config(&self.frontend, self.num_queues)?;
        let mut state = self.lock();
        let changed = state.config != config;
        state.config = config;
        let notifier = state.notifier.clone().filter(|_| changed);
        drop(state);
        if let Some(notifier) = notifier {
            notifier.config_changed();
        }
        Ok(changed)
    }

    pub(super) fn config(&self) -> Vec<u8> {
        self.lock().config.clone()
    }

    pub(super) fn offered_features(&self) -> u64 {
        self.offered
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.frontend.as_raw_fd()
    }

    /// Hands guest memory and the rings over.
    pub(super) fn start(
        &self,
        memory: &GuestRam,
        features: u64,
        rings: &mut [Ring],
        notifier: Notifier,
    ) -> Result<(), VhostUserError> {
        let features = features & self.offered | VERSION_1 | PROTOCOL_FEATURES;
        self.frontend.set_features(features).map_err(at("SET_FEATURES"))?;
        let table = memory_table(memory)?;
        self.frontend.set_mem_table(&table).map_err(at("SET_MEM_TABLE"))?;
        for ring in rings {
            self.start_ring(ring)?;
        }
        self.lock().notifier = Some(notifier);
        Ok(())
    }

    fn start_ring(&self, ring: &mut Ring) -> Result<(), VhostUserError> {
        let index = usize::from(ring.queue.index());
        let frontend = &self.frontend;
        frontend.set_vring_num(index, ring.queue.size()).map_err(at("SET_VRING_NUM"))?;
        frontend.set_vring_addr(index, &ring.addresses).map_err(at("SET_VRING_ADDR"))?;
        frontend.set_vring_base(index, ring.base).map_err(at("SET_VRING_BASE"))?;
        frontend.set_vring_call(index, &ring.call).map_err(at("SET_VRING_CALL"))?;
        // From here on it may run.
        ring.running = true;
        frontend.set_vring_kick(index, ring.queue.kick()).map_err(at("SET_VRING_KICK"))?;
        let mut frontend = frontend.clone();
        frontend.set_vring_enable(index, true).map_err(at("SET_VRING_ENABLE"))?;
        // What the driver made available meanwhile was notified to nobody.
        let _ = ring.queue.kick().write(1);
        Ok(())
    }

    /// Has the back end finish what it has begun and stop, and notes where.
    pub(super) fn pause(&self, rings: &mut [Ring]) {
        for ring in rings.iter_mut().filter(|ring| ring.running) {
            match self.frontend.get_vring_base(ring.queue.index().into()) {
                Ok(base) => {
                    // Of a split queue, the lower half is the available ring's.
                    ring.base = u16::try_from(base & 0xffff).unwrap_or_default();
                    ring.running = false;
                }
                Err(error) => {
                    log::warn!("a vhost-user back end doesn't stop: {error}");
                    ring.queue.needs_reset(&"its vhost-user back end doesn't stop");
                }
            }
        }
    }

    /// Lets the back end go on.
    pub(super) fn resume(&self, rings: &mut [Ring]) {
        for ring in rings.iter_mut().filter(|ring| !ring.running) {
            if let Err(error) = self.start_ring(ring) {
                log::warn!("a vhost-user back end doesn't go on: {error}");
                ring.queue.needs_reset(&"its vhost-user back end doesn't go on");
            }
        }
    }

    /// Stops the rings for good.
    pub(super) fn stop(&self, rings: &mut [Ring]) {
        self.pause(rings);
        self.lock().notifier = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Agrees on the protocol's own features.
fn agree(frontend: &mut Frontend, num_queues: u16) -> Result<(), VhostUserError> {
    use VhostUserProtocolFeatures as Features;
    let has = frontend.get_protocol_features().map_err(at("GET_PROTOCOL_FEATURES"))?;
    if !has.contains(Features::CONFIG) {
        return Err(VhostUserError::Missing("its configuration"));
    }
    let agreed = has & (Features::CONFIG | Features::MQ | Features::REPLY_ACK);
    frontend.set_protocol_features(agreed).map_err(at("SET_PROTOCOL_FEATURES"))?;
    if agreed.contains(Features::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    let queues = match agreed.contains(Features::MQ) {
        true => frontend.get_queue_num().map_err(at("GET_QUEUE_NUM"))?,
        false => 1,
    };
    if queues < num_queues.into() {
        return Err(VhostUserError::Queues { has: queues, wanted: num_queues });
    }
    Ok(())
}

/// Reads the device's configuration, in which there are as many queues as we have.
fn read_config(frontend: &Frontend, num_queues: u16) -> Result<Vec<u8>, VhostUserError> {
    let mut frontend = frontend.clone();
    let zeros = [0; CONFIG_LEN as usize];
    let (_, mut config) = frontend
        .get_config(0, CONFIG_LEN, VhostUserConfigFlags::WRITABLE, &zeros)
        .map_err(at("GET_CONFIG"))?;
    write_at(&mut config, NUM_QUEUES_OFFSET, &num_queues.to_le_bytes());
    Ok(config)
}

/// Tells whether other processes can map guest memory.
pub fn is_shared(memory: &GuestRam) -> bool {
    let shared = rustix::mm::MapFlags::SHARED.bits().cast_signed();
    memory.iter().all(|region| region.flags() & shared != 0 && region.file_offset().is_some())
}

fn memory_table(memory: &GuestRam) -> Result<Vec<VhostUserMemoryRegionInfo>, VhostUserError> {
    if !is_shared(memory) {
        return Err(VhostUserError::Private);
    }
    memory
        .iter()
        .map(|region| {
            let file = region.file_offset().ok_or(VhostUserError::Private)?;
            Ok(VhostUserMemoryRegionInfo {
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
                mmap_offset: file.start(),
                mmap_handle: file.file().as_raw_fd(),
            })
        })
        .collect()
}

impl Ring {
    pub(super) fn new(queue: DeviceQueue, memory: &GuestRam) -> io::Result<Self> {
        let host = |address: u64| {
            let pointer = memory.get_host_address(GuestAddress(address));
            pointer.map(|pointer| pointer as u64).map_err(io::Error::other)
        };
        let rings = queue.rings();
        let addresses = VringConfigData {
            queue_max_size: queue.size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: host(rings.descriptors)?,
            used_ring_addr: host(rings.used)?,
            avail_ring_addr: host(rings.available)?,
            log_addr: None,
        };
        let call = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(Self { base: queue.next_available(), queue, call, addresses, running: false })
    }
}
