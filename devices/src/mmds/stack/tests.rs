//! The stack against a guest's, and against guests that don't keep to any rules.

mod hostile;

use std::fmt::Write;

use super::*;
use crate::mmds::testing::{GUEST_IP, GUEST_MAC, Guest};
use crate::mmds::{DEFAULT_IPV4_ADDRESS, DEFAULT_STORE_LIMIT, MmdsConfig, MmdsVersion};
use serde_json::json;

/// A guest and the service, and the time that both live in.
struct Bench {
    guest: Guest,
    stack: MmdsStack,
    now: Instant,
}

fn shared(version: MmdsVersion) -> Arc<Mmds> {
    let mmds = Mmds::new(DEFAULT_STORE_LIMIT).unwrap();
    let network_interfaces = vec!["eth0".to_owned()];
    mmds.set_config(MmdsConfig { version, network_interfaces, ..MmdsConfig::default() }).unwrap();
    mmds.put(json!({"latest": {"meta-data": {"id": "i-1"}, "big": "x".repeat(50000)}})).unwrap();
    Arc::new(mmds)
}

fn stack(version: MmdsVersion) -> MmdsStack {
    MmdsStack::new(shared(version), MMDS_MAC, DEFAULT_IPV4_ADDRESS)
}

impl Bench {
    fn new(version: MmdsVersion) -> Self {
        let stack = stack(version);
        let guest = Guest::new();
        let now = guest.start.max(stack.start);
        Self { guest, stack, now }
    }

    /// Lets frames go to and fro until nobody has one; returns how many did.
    fn run(&mut self) -> usize {
        let mut total = 0;
        loop {
            self.guest.poll(self.now);
            let before = total;
            while let Some(frame) = self.guest.wire.from_guest.0.pop_front() {
                assert!(self.stack.is_for_me(&frame));
                self.stack.receive_at(&frame, self.now);
                total += 1;
            }
            let mut buffer = [0; 1514];
            while let Some(len) = self.stack.next_frame_at(&mut buffer, self.now) {
                self.guest.wire.to_guest.push_back(buffer[..len].to_vec());
                total += 1;
            }
            if total == before {
                return total;
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.stack.poll_at(self.now);
        self.run();
    }

    fn connect(&mut self) -> SocketHandle {
        let handle = self.guest.connect();
        self.run();
        assert!(self.guest.socket(handle).may_send());
        handle
    }

    fn send(&mut self, handle: SocketHandle, text: &str) {
        assert_eq!(self.guest.socket(handle).send_slice(text.as_bytes()), Ok(text.len()));
    }

    /// Sends `text` on `handle` and returns everything that is answered.
    fn talk(&mut self, handle: SocketHandle, text: &str) -> String {
        self.send(handle, text);
        self.run();
        self.guest.read(handle)
    }

    fn metrics(&self) -> &MmdsMetrics {
        self.stack.mmds.metrics()
    }
}

/// Counts the answers in `text` by their status lines.
fn answers(text: &str, status: u16) -> usize {
    text.matches(&format!("HTTP/1.1 {status} ")).count()
}

const GET_ID: &str = "GET /latest/meta-data/id HTTP/1.1\r\n\r\n";

#[test]
fn guest_resolves_connects_and_reads() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handle = bench.connect();
    let answer = bench.talk(handle, GET_ID);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\ni-1"));
    // The connection stays.
    assert!(bench.talk(handle, GET_ID).ends_with("i-1"));
    assert_eq!(bench.metrics().connections_created.get(), 1);
    assert_eq!(bench.metrics().connections_destroyed.get(), 0);
    assert_eq!(bench.metrics().rx_accepted.get(), bench.metrics().rx_count.get());
    assert!(bench.metrics().tx_frames.get() >= 4);
}

#[test]
fn guest_of_version_2_fetches_a_token_first() {
    let mut bench = Bench::new(MmdsVersion::V2);
    let handle = bench.connect();
    assert_eq!(answers(&bench.talk(handle, GET_ID), 401), 1);
    let put = "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\
               Content-Length: 0\r\n\r\n";
    let answer = bench.talk(handle, put);
    let token = answer.rsplit("\r\n").next().unwrap().to_owned();
    let get = format!("GET /latest/meta-data HTTP/1.1\r\nX-metadata-token: {token}\r\n\r\n");
    assert!(bench.talk(handle, &get).ends_with("\r\n\r\nid"));
}

#[test]
fn answer_larger_than_every_buffer_arrives_whole() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handle = bench.connect();
    bench.send(handle, "GET /latest/big HTTP/1.1\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    while bench.run() > 0 {
        answer += &bench.guest.read(handle);
    }
    assert_eq!(answer.rsplit("\r\n").next().unwrap(), "x".repeat(50000));
    assert!(!bench.guest.socket(handle).may_recv(), "the connection was to end");
}

#[test]
fn requests_in_one_segment_are_answered_in_turn() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handle = bench.connect();
    let mut requests = String::new();
    for index in 0..40 {
        write!(requests, "GET /latest/{index} HTTP/1.1\r\nContent-Length: 2\r\n\r\nab").unwrap();
    }
    let text = bench.talk(handle, &requests);
    let order: Vec<_> = text.matches("Resource not found: /latest/").collect();
    assert_eq!((order.len(), answers(&text, 404)), (40, 40));
    let positions: Vec<_> =
        (0..40).map(|index| text.find(&format!("/latest/{index}.")).unwrap()).collect();
    assert!(positions.is_sorted());
}

#[test]
fn request_may_come_byte_by_byte() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handle = bench.connect();
    let text = "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /latest HTTP/1.1\r\n\r\n";
    let answer: String =
        text.chars().map(|character| bench.talk(handle, &character.to_string())).collect();
    assert_eq!((answers(&answer, 404), answers(&answer, 200)), (1, 1));
}

#[test]
fn bad_request_is_answered_and_ends_the_connection() {
    for (text, status) in [
        ("\0\0\0\0".to_owned(), 400),
        ("PUT / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n".to_owned() + &"x".repeat(5000), 413),
        ("G".repeat(20000), 431),
    ] {
        let mut bench = Bench::new(MmdsVersion::V1);
        let handle = bench.connect();
        let answer = bench.talk(handle, &text);
        assert_eq!(answers(&answer, status), 1, "{answer}");
        assert!(!bench.guest.socket(handle).may_recv());
        bench.guest.socket(handle).close();
        bench.run();
        assert_eq!(bench.metrics().connections_destroyed.get(), 1);
    }
}

#[test]
fn guest_that_closes_gets_its_answer_first() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handle = bench.connect();
    bench.send(handle, GET_ID);
    bench.guest.socket(handle).close();
    bench.run();
    assert!(bench.guest.read(handle).ends_with("i-1"));
    // The guest acknowledges the end after a while.
    bench.wait(Duration::from_millis(20));
    assert_eq!(bench.metrics().connections_destroyed.get(), 1);
    assert!(bench.stack.connections.is_empty());
}

#[test]
fn connections_come_and_go_by_the_hundred() {
    let mut bench = Bench::new(MmdsVersion::V1);
    for _ in 0..200 {
        let handle = bench.connect();
        let answer = bench.talk(handle, "GET /latest/meta-data/id HTTP/1.0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        bench.guest.socket(handle).close();
        bench.run();
    }
    assert_eq!(bench.metrics().connections_destroyed.get(), 200);
    assert_eq!(bench.stack.sockets.iter().count(), 1);
}

#[test]
fn connection_too_many_is_refused_until_one_was_idle_for_long() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handles: Vec<_> = (0..MAX_CONNECTIONS).map(|_| bench.connect()).collect();
    let refused = bench.guest.connect();
    bench.run();
    assert_eq!(bench.guest.socket(refused).state(), State::Closed);
    // All but one say something.
    bench.now += EVICTABLE_AFTER - Duration::from_secs(1);
    for handle in &handles[..MAX_CONNECTIONS - 1] {
        bench.talk(*handle, GET_ID);
    }
    bench.now += Duration::from_secs(1);
    let accepted = bench.connect();
    assert!(bench.talk(accepted, GET_ID).ends_with("i-1"));
    assert!(bench.talk(handles[0], GET_ID).ends_with("i-1"));
    bench.talk(handles[MAX_CONNECTIONS - 1], GET_ID);
    assert_eq!(bench.guest.socket(handles[MAX_CONNECTIONS - 1]).state(), State::Closed);
    assert_eq!(bench.stack.sockets.iter().count(), MAX_CONNECTIONS);
}

#[test]
fn silent_connection_is_reset_by_its_deadline() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handle = bench.connect();
    let deadline = bench.stack.next_deadline_at(bench.now).unwrap();
    assert!(deadline <= bench.now + Duration::from_secs(61));
    bench.wait(Duration::from_secs(61));
    assert_eq!(bench.guest.socket(handle).state(), State::Closed);
    assert_eq!(bench.stack.next_deadline_at(bench.now), None);
    assert_eq!(bench.metrics().connections_destroyed.get(), 1);
}

#[test]
fn lost_answer_is_sent_again_at_its_deadline() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handle = bench.connect();
    bench.send(handle, GET_ID);
    bench.guest.poll(bench.now);
    let request = bench.guest.wire.from_guest.0.pop_front().unwrap();
    bench.stack.receive_at(&request, bench.now);
    // While the answer waits to be taken, time does not count.
    assert_eq!(bench.stack.next_deadline_at(bench.now), None);
    while bench.stack.next_frame_at(&mut [0; 1514], bench.now).is_some() {}
    let deadline = bench.stack.next_deadline_at(bench.now).unwrap();
    assert!(deadline > bench.now && deadline < bench.now + Duration::from_secs(5));
    bench.now = deadline;
    bench.wait(Duration::ZERO);
    assert!(bench.guest.read(handle).ends_with("i-1"));
}

#[test]
fn frames_for_others_are_left_alone() {
    let stack = stack(MmdsVersion::V1);
    let mut ip = [0; 42];
    ip[12..14].copy_from_slice(&[8, 0]);
    ip[30..34].copy_from_slice(&[169, 254, 169, 254]);
    assert!(stack.is_for_me(&ip) && stack.is_for_me(&ip[..34]));
    assert!(!stack.is_for_me(&ip[..33]));
    ip[33] = 253;
    assert!(!stack.is_for_me(&ip));
    let mut arp = [0; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    arp[38..42].copy_from_slice(&[169, 254, 169, 254]);
    assert!(stack.is_for_me(&arp) && !stack.is_for_me(&arp[..41]));
    arp[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert!(!stack.is_for_me(&arp) && !stack.is_for_me(&[]));
}

#[test]
fn answers_go_where_requests_came_from_without_asking_for_the_address() {
    let mut bench = Bench::new(MmdsVersion::V1);
    bench.connect();
    let second = bench.guest.connect();
    bench.guest.poll(bench.now);
    // A guest that knows only its gateway sends to that.
    let mut syn = bench.guest.wire.from_guest.0.pop_front().unwrap();
    syn[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    let mut stack = stack(MmdsVersion::V1);
    stack.receive_at(&syn, bench.now);
    let mut buffer = [0; 1514];
    let len = stack.next_frame_at(&mut buffer, bench.now).unwrap();
    assert_eq!(buffer[..6], GUEST_MAC);
    assert_eq!(buffer[6..12], MMDS_MAC);
    assert_eq!(buffer[30..34], GUEST_IP.octets());
    bench.guest.wire.to_guest.push_back(buffer[..len].to_vec());
    bench.guest.poll(bench.now);
    assert!(bench.guest.socket(second).may_send());
}

#[test]
fn large_segment_without_its_checksum_is_taken() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handle = bench.connect();
    let head = "GET /latest/meta-data/id HTTP/1.1\r\n";
    let text = format!("{head}A: {}\r\n\r\n", "a".repeat(1000));
    let requests = text.repeat(3);
    bench.send(handle, &requests);
    bench.guest.poll(bench.now);
    let frames: Vec<_> = bench.guest.wire.from_guest.0.drain(..).collect();
    assert!(frames.len() > 1);
    // The guest's card would have cut up what is one segment here.
    let mut large = frames[0].clone();
    large.truncate(54);
    frames.iter().for_each(|frame| large.extend_from_slice(&frame[54..]));
    let total = (large.len() - 14) as u16;
    large[16..18].copy_from_slice(&total.to_be_bytes());
    Ipv4Packet::new_unchecked(&mut large[14..]).fill_checksum();
    large[50..52].fill(0xee);
    bench.stack.receive_at(&large, bench.now);
    bench.run();
    assert_eq!(answers(&bench.guest.read(handle), 200), 3);
}
