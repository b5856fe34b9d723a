use std::collections::HashMap;

use super::*;
use crate::mmds::testing::Guest;
use crate::mmds::{DEFAULT_STORE_LIMIT, Mmds, MmdsConfig};
use smoltcp::iface::SocketHandle;

const BUFFER_SIZE: u64 = 2048;
const TX_BUFFER: u64 = 0x80_0000;
const GET: &str = "GET /latest/meta-data HTTP/1.1\r\n\r\n";

/// A card with the metadata service, and a guest with a TCP stack on its queues.
struct Machine {
    card: Card,
    guest: Guest,
    mmds: Arc<Mmds>,
    /// The queue that it sends on.
    tx: usize,
    /// Where the receive buffers are, by their chains' heads.
    posted: HashMap<u32, u64>,
}

impl Machine {
    fn new(queue_pairs: u16, features: &[u32]) -> Self {
        let mmds = Arc::new(Mmds::new(DEFAULT_STORE_LIMIT).unwrap());
        let network_interfaces = vec!["eth0".to_owned()];
        mmds.set_config(MmdsConfig { network_interfaces, ..MmdsConfig::default() }).unwrap();
        let data = serde_json::json!({"latest": {"meta-data": "here", "big": "x".repeat(50000)}});
        mmds.put(data).unwrap();
        let (hosts, backends) = (0..queue_pairs).map(|_| Host::new()).unzip();
        let net = Net::with_mmds(config(queue_pairs), backends, Arc::clone(&mmds)).unwrap();
        let mut card = Card::of(net, hosts, 256, bits(features));
        card.activate();
        Self { card, guest: Guest::new(), mmds, tx: 1, posted: HashMap::new() }
    }

    fn post(&mut self, address: u64) {
        let buffer = Buffer::writable(address, BUFFER_SIZE as u32);
        let head = self.card.queues[0].add_chain(&[buffer]);
        self.posted.insert(head.into(), address);
    }

    fn post_many(&mut self) {
        (0..64).for_each(|index| self.post(BUFFERS + index * BUFFER_SIZE));
        self.card.kick(0);
    }

    fn send(&mut self, frame: &[u8]) {
        self.card.memory.write_slice(&[0; 12], GuestAddress(TX_BUFFER)).unwrap();
        self.card.memory.write_slice(frame, GuestAddress(TX_BUFFER + 12)).unwrap();
        let buffer = Buffer::readable(TX_BUFFER, frame.len() as u32 + 12);
        self.card.queues[self.tx].add_chain(&[buffer]);
        self.card.kick(self.tx);
        self.card.used(self.tx, 1);
    }

    /// Moves frames between the guest's stack and the queues, once each way.
    fn step(&mut self) {
        self.guest.poll(Instant::now());
        while let Some(frame) = self.guest.wire.from_guest.0.pop_front() {
            self.send(&frame);
        }
        for (head, len) in self.card.queues[0].used() {
            let address = self.posted.remove(&head).unwrap();
            let frame = self.card.read(address, len as usize);
            assert_eq!(frame[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            self.guest.wire.to_guest.push_back(frame[12..].to_vec());
            self.post(address);
            self.card.kick(0);
        }
    }

    fn connect(&mut self) -> SocketHandle {
        let handle = self.guest.connect();
        wait_until(|| {
            self.step();
            self.guest.socket(handle).may_send()
        });
        handle
    }

    /// Sends `text` and waits for an answer that ends in `end`.
    fn talk(&mut self, handle: SocketHandle, text: &str, end: &str) -> String {
        self.guest.socket(handle).send_slice(text.as_bytes()).unwrap();
        let mut answer = String::new();
        wait_until(|| {
            self.step();
            answer += &self.guest.read(handle);
            answer.ends_with(end)
        });
        answer
    }
}

#[test]
fn guest_reads_its_metadata_and_the_tap_sees_nothing_of_it() {
    for features in [&[VIRTIO_NET_F_MRG_RXBUF][..], &[]] {
        let mut machine = Machine::new(1, features);
        machine.post_many();
        let handle = machine.connect();
        machine.talk(handle, GET, "\r\n\r\nhere");
        assert_eq!(machine.card.hosts[0].try_receive(), None);
        assert_eq!(machine.mmds.metrics().connections_created.get(), 1);

        // Other frames go where they went before, both ways.
        machine.send(&[0x77; 60]);
        assert_eq!(machine.card.hosts[0].receive()[12..], [0x77; 60]);
        machine.card.hosts[0].send(&frame(1, 100));
        machine.card.used(0, 1);
    }
}

#[test]
fn answer_of_many_frames_comes_whole() {
    let mut machine = Machine::new(1, &[VIRTIO_NET_F_MRG_RXBUF]);
    machine.post_many();
    let handle = machine.connect();
    let end = "x".repeat(50000);
    let answer = machine.talk(handle, "GET /latest/big HTTP/1.1\r\n\r\n", &end);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn request_on_any_pair_is_answered_on_the_first() {
    let mut machine = Machine::new(2, &[VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MQ]);
    machine.post_many();
    let handle = machine.connect();
    machine.tx = 3;
    machine.talk(handle, GET, "\r\n\r\nhere");
    machine.tx = 1;
    machine.talk(handle, GET, "\r\n\r\nhere");
}

#[test]
fn answers_wait_for_the_guests_buffers() {
    let mut machine = Machine::new(1, &[VIRTIO_NET_F_MRG_RXBUF]);
    let handle = machine.guest.connect();
    machine.step();
    wait_until(|| machine.mmds.metrics().rx_accepted.get() > 0);
    assert_eq!(machine.mmds.metrics().tx_frames.get(), 0);
    machine.post_many();
    wait_until(|| {
        machine.step();
        machine.guest.socket(handle).may_send()
    });
}

#[test]
fn connections_end_with_a_reset() {
    let mut machine = Machine::new(1, &[VIRTIO_NET_F_MRG_RXBUF]);
    machine.post_many();
    let handle = machine.connect();
    machine.card.net.reset();
    assert_eq!(machine.mmds.metrics().connections_destroyed.get(), 1);
    let mut again = Machine { posted: HashMap::new(), ..machine };
    again.card.queues =
        [0, 1, 2].map(|index| TestQueue::at(again.card.memory.clone(), 256, index * RINGS)).into();
    for index in 0..3 {
        let rings = vec![0; RINGS as usize - 0x1000];
        again.card.memory.write_slice(&rings, GuestAddress(index * RINGS + 0x1000)).unwrap();
    }
    again.card.activate();
    again.post_many();
    again.guest.socket(handle).send_slice(GET.as_bytes()).unwrap();
    wait_until(|| {
        again.step();
        !again.guest.socket(handle).is_open()
    });
    let handle = again.connect();
    again.talk(handle, GET, "\r\n\r\nhere");
}
