//! The card from its driver's side, a socket pair in place of the TAP.

mod control;
mod mmds;
mod receive;
mod saved;
mod stream;
mod transmit;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use sys::tap::Offloads;
use virtio_bindings::virtio_net::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{Buffer, TestQueue, guest_ram};

/// Bytes that a queue's rings take, at most.
const RINGS: u64 = 0x8000;
/// Where buffers start.
const BUFFERS: u64 = 0x10_0000;

/// A stand-in for one queue of a TAP: packets are frames.
struct SocketBackend {
    socket: OwnedFd,
    calls: Arc<HostCalls>,
}

/// What the device asked of its host side.
#[derive(Default)]
struct HostCalls {
    offloads: Mutex<Vec<Offloads>>,
    enabled: Mutex<Vec<bool>>,
}

impl AsFd for SocketBackend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl FrameBackend for SocketBackend {
    fn supported_offloads(&self) -> Offloads {
        Offloads { uso: true, ..Offloads::CLASSIC }
    }
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.calls.offloads.lock().unwrap().push(offloads);
        Ok(())
    }
    fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        self.calls.enabled.lock().unwrap().push(enabled);
        Ok(())
    }
}

/// The host's end of a backend.
struct Host {
    socket: OwnedFd,
    calls: Arc<HostCalls>,
}

impl Host {
    fn new() -> (Self, Box<dyn FrameBackend>) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        let calls = Arc::<HostCalls>::default();
        let backend = SocketBackend { socket: theirs, calls: Arc::clone(&calls) };
        (Self { socket: ours, calls }, Box::new(backend))
    }

    /// Sends a frame to the guest, unless there is no room for it.
    fn try_send(&self, frame: &[u8]) -> bool {
        rustix::net::send(&self.socket, frame, SendFlags::empty()).is_ok()
    }

    fn send(&self, frame: &[u8]) {
        wait_until(|| self.try_send(frame));
    }

    fn try_receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 0x20000];
        let (len, _) = rustix::net::recv(&self.socket, &mut frame[..], RecvFlags::empty()).ok()?;
        frame.truncate(len);
        Some(frame)
    }

    fn receive(&self) -> Vec<u8> {
        let mut frame = None;
        wait_until(|| {
            frame = self.try_receive();
            frame.is_some()
        });
        frame.unwrap()
    }
}

/// A card, its driver's queues and its host's sockets.
struct Card {
    net: Net,
    memory: GuestRam,
    queues: Vec<TestQueue>,
    hosts: Vec<Host>,
    features: u64,
}

fn bits(features: &[u32]) -> u64 {
    features.iter().fold(0, |set, bit| set | 1 << bit)
}

fn config(queue_pairs: u16) -> NetConfig {
    NetConfig {
        mac: [2, 0, 0, 0, 0, 1],
        queue_pairs,
        queue_size: 256,
        mtu: None,
        rx_limit: RateLimiterConfig::default(),
        tx_limit: RateLimiterConfig::default(),
    }
}

impl Card {
    fn new(config: NetConfig, queue_size: u16, features: u64) -> Self {
        let (hosts, backends) = (0..config.queue_pairs).map(|_| Host::new()).unzip();
        Self::of(Net::new(config, backends).unwrap(), hosts, queue_size, features)
    }

    fn of(net: Net, hosts: Vec<Host>, queue_size: u16, features: u64) -> Self {
        let memory = guest_ram();
        let queues = (0..net.queue_max_sizes().len() as u64)
            .map(|index| TestQueue::at(memory.clone(), queue_size, index * RINGS))
            .collect();
        Self { net, memory, queues, hosts, features }
    }

    /// One pair that merges receive buffers, activated.
    fn active(queue_size: u16) -> Self {
        let mut card = Self::new(config(1), queue_size, bits(&[VIRTIO_NET_F_MRG_RXBUF]));
        card.activate();
        card
    }

    fn activate(&mut self) {
        self.try_activate(|_| true).unwrap();
    }

    fn try_activate(&mut self, enabled: impl Fn(usize) -> bool) -> Result<(), ActivateError> {
        let queues = self.queues.iter().enumerate().filter(|(index, _)| enabled(*index));
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.features,
            queues: queues.map(|(index, queue)| queue.device_queue(index as u16)).collect(),
            notifier: self.queues[0].notifier(),
        };
        self.net.activate(activation)
    }

    /// Notifies queue `index`, unless the device asked not to (VIRTIO 1.3 §2.7.10).
    fn kick(&self, index: usize) {
        fence(Ordering::SeqCst);
        let flags = GuestAddress(index as u64 * RINGS + 0x6000);
        if self.memory.read_obj::<u16>(flags).unwrap() == 0 {
            self.queues[index].kick();
        }
    }

    /// Waits until queue `index` got `count` chains back.
    fn used(&mut self, index: usize, count: usize) -> Vec<(u32, u32)> {
        let mut used = Vec::new();
        wait_until(|| {
            used.extend(self.queues[index].used());
            used.len() >= count
        });
        assert_eq!(used.len(), count);
        used
    }

    fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "it never happened");
        std::thread::yield_now();
    }
}

/// A frame of `len` bytes behind an empty header, each different by `seed`.
fn frame(seed: u8, len: usize) -> Vec<u8> {
    let body = (0..len).map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed));
    [0; 12].into_iter().chain(body).collect()
}

#[test]
fn configuration_shows_address_link_pairs_and_mtu() {
    let card = Card::new(NetConfig { mtu: Some(9000), ..config(3) }, 16, 0);
    let mut space = [0xff; 14];
    space[12..].fill(0);
    card.net.read_config(0, &mut space);
    assert_eq!(space, [2, 0, 0, 0, 0, 1, 1, 0, 3, 0, 0x28, 0x23, 0, 0]);
    assert_eq!(card.net.queue_max_sizes(), [256, 256, 256, 256, 256, 256, 64]);
    let wanted = bits(&[VIRTIO_NET_F_MQ, VIRTIO_NET_F_MTU, VIRTIO_NET_F_HOST_USO]);
    assert_eq!(card.net.offered_features() & wanted, wanted);
    let plain = Card::new(config(1), 16, 0).net.offered_features();
    assert_eq!(plain & bits(&[VIRTIO_NET_F_MQ, VIRTIO_NET_F_MTU]), 0);
}

#[test]
fn card_needs_one_backend_for_each_pair_and_a_real_queue_size() {
    for pairs in [0, 1, 3, u16::MAX] {
        let backends = vec![Host::new().1, Host::new().1];
        assert!(matches!(Net::new(config(pairs), backends), Err(NetError::QueuePairs { .. })));
    }
    for queue_size in [0, 1, 100, 65535] {
        let config = NetConfig { queue_size, ..config(1) };
        assert!(matches!(Net::new(config, vec![Host::new().1]), Err(NetError::QueueSize(_))));
    }
}

#[test]
fn driver_must_enable_both_queues_of_the_first_pair_only() {
    let mut card = Card::new(config(2), 16, bits(&[VIRTIO_NET_F_MQ]));
    assert!(matches!(card.try_activate(|index| index != 0), Err(ActivateError::MissingQueue(0))));
    assert!(matches!(card.try_activate(|index| index != 1), Err(ActivateError::MissingQueue(1))));
    card.try_activate(|index| index < 2).unwrap();
}

#[test]
fn broken_ring_asks_for_a_reset_after_which_the_card_works_again() {
    let mut card = Card::active(16);
    card.queues[1].set_available_index(500);
    card.kick(1);
    wait_until(|| card.queues[0].needs_reset());
    card.net.reset();

    card.queues =
        [0, 1, 2].map(|index| TestQueue::at(card.memory.clone(), 16, index * RINGS)).into();
    for index in 0..3 {
        // The driver clears its rings before it hands them over.
        let rings = vec![0; RINGS as usize - 0x1000];
        card.memory.write_slice(&rings, GuestAddress(index * RINGS + 0x1000)).unwrap();
    }
    card.activate();
    card.queues[0].add_chain(&[Buffer::writable(BUFFERS, 2048)]);
    card.kick(0);
    card.hosts[0].send(&frame(1, 100));
    assert_eq!(card.used(0, 1), [(0, 112)]);
}

#[test]
fn lost_host_side_takes_the_link_down_until_reset() {
    let mut card = Card::active(16);
    card.queues[0].add_chain(&[Buffer::writable(BUFFERS, 2048)]);
    card.kick(0);
    card.hosts.clear();
    wait_until(|| card.queues[0].config_interrupts() > 0);
    let mut status = [0; 2];
    card.net.read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
    // Sending goes on, to nowhere.
    card.queues[1].add_chain(&[Buffer::readable(BUFFERS, 100)]);
    card.kick(1);
    card.used(1, 1);
    assert_eq!(card.net.metrics().tx_dropped.get(), 1);
}

#[test]
fn state_of_each_past_format_is_read_whole() {
    crate::state::kept::expect_read_whole::<super::NetState>("net");
}
