//! The device from its driver's side, and from that of real programs on the host.
//!
//! The worker runs on the test's own thread: when [`Guest::settle`] returns, everything that was
//! going to happen has happened.

mod flow;
mod hostile;
mod life;
mod saved;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use event_manager::{EventManager, SubscriberId, SubscriberOps};
use sys::memory::GuestRam;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::packet::{HOST_CID, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::*;
use crate::virtio::testing::{Buffer, TestQueue, guest_ram};
use crate::virtio::worker::Handler;

const CID: u64 = 3;
/// Where a driver puts receive buffers, and packets that it sends.
const RX_BUFFERS: u64 = 0x10_0000;
const TX_BUFFERS: u64 = 0x80_0000;
const RX_BUFFER_SIZE: u32 = 4096;
const RX_BUFFER_COUNT: u16 = 16;

const TX_RINGS: u64 = 0x8000;

/// What a guest received.
#[derive(Debug)]
struct Packet {
    header: Header,
    payload: Vec<u8>,
}

impl Packet {
    fn op(&self) -> Option<Op> {
        Op::from_number(self.header.op.get())
    }
}

/// A guest with its driver and its device, and the directory of the host's sockets.
struct Guest {
    memory: GuestRam,
    rx: TestQueue,
    tx: TestQueue,
    event_loop: EventManager<Handler>,
    worker: SubscriberId,
    device: Vsock,
    directory: TempDir,
}

fn config(directory: &TempDir) -> VsockConfig {
    VsockConfig { cid: 3, path: directory.path().join("v") }
}

impl Guest {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        let mut guest = Self::without_buffers(limits);
        for _ in 0..RX_BUFFER_COUNT {
            guest.post_buffer();
        }
        guest
    }

    fn without_buffers(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut device = Vsock::new(&config(&directory)).unwrap();
        device.limits = limits;
        Self::of(device, directory)
    }

    /// A guest whose driver uses this device, and has no buffers yet.
    fn of(device: Vsock, directory: TempDir) -> Self {
        let memory = guest_ram();
        let rx = TestQueue::at(memory.clone(), RX_BUFFER_COUNT, 0);
        let tx = TestQueue::at(memory.clone(), 256, TX_RINGS);
        let activation = Activation {
            memory: memory.clone(),
            features: 0,
            queues: vec![rx.device_queue(0), tx.device_queue(1)],
            notifier: rx.notifier(),
        };
        let worker: Handler = Box::new(device.make_worker(activation).unwrap());
        let mut event_loop = EventManager::<Handler>::new().unwrap();
        let worker = event_loop.add_subscriber(worker);
        Self { memory, rx, tx, event_loop, worker, device, directory }
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.event_loop.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the loop spins");
    }

    /// Handles events until `done`.
    fn wait_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "it never happened");
            self.event_loop.run_with_timeout(10).unwrap();
        }
    }

    /// Waits for a packet, which must be the only one.
    fn wait_for(&mut self, op: Op) -> Packet {
        let mut packets = Vec::new();
        self.wait_until(|guest| {
            packets = guest.receive();
            !packets.is_empty()
        });
        assert_eq!((packets.len(), packets[0].op()), (1, Some(op)));
        packets.remove(0)
    }

    fn kick_rx(&self) {
        kick(&self.memory, &self.rx, 0);
    }

    fn kick_tx(&self) {
        kick(&self.memory, &self.tx, TX_RINGS);
    }

    /// Posts the next receive buffer; the device returns them in order.
    fn post_buffer(&mut self) {
        let head = self.rx.add_chain(&[Buffer::writable(0, RX_BUFFER_SIZE)]);
        let address = RX_BUFFERS + u64::from(head) * u64::from(RX_BUFFER_SIZE);
        self.rx.write_descriptor(head, address, RX_BUFFER_SIZE, 2, 0);
    }

    /// Takes what came, and posts its buffers again.
    fn receive(&mut self) -> Vec<Packet> {
        self.settle();
        let mut packets = Vec::new();
        for (head, len) in self.rx.used() {
            let address = RX_BUFFERS + u64::from(head) * u64::from(RX_BUFFER_SIZE);
            let mut bytes = vec![0; len as usize];
            self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            let header = Header::read_from_bytes(&bytes[..44]).unwrap();
            assert_eq!(header.len.get() as usize, len as usize - 44);
            assert_eq!(header.dst_cid.get(), CID);
            packets.push(Packet { header, payload: bytes.split_off(44) });
            self.post_buffer();
        }
        if !packets.is_empty() {
            self.kick_rx();
        }
        packets
    }

    /// Takes the only packet that came.
    fn receive_one(&mut self) -> Packet {
        let mut packets = self.receive();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets.remove(0)
    }

    fn receive_op(&mut self, op: Op) -> Packet {
        let packet = self.receive_one();
        assert_eq!(packet.op(), Some(op));
        packet
    }

    fn receive_nothing(&mut self) {
        let packets = self.receive();
        assert!(packets.is_empty(), "{packets:?}");
    }

    /// Sends a packet with its payload in a descriptor of its own.
    fn send(&mut self, header: Header, payload: &[u8]) {
        self.memory.write_slice(header.as_bytes(), GuestAddress(TX_BUFFERS)).unwrap();
        self.memory.write_slice(payload, GuestAddress(TX_BUFFERS + 44)).unwrap();
        self.send_chain(&[
            Buffer::readable(TX_BUFFERS, 44),
            Buffer::readable(TX_BUFFERS + 44, payload.len() as u32),
        ]);
    }

    fn send_chain(&mut self, buffers: &[Buffer]) {
        self.tx.add_chain(buffers);
        self.kick_tx();
        self.settle();
        assert_eq!(self.tx.used().len(), 1, "the driver gets its chain back");
    }

    /// A program connects to the guest's port and is accepted.
    fn connected_from_host(&mut self, port: u32) -> (UnixStream, Peer) {
        let program = self.program(port);
        let request = self.receive_op(Op::Request);
        let peer = Peer { host: request.header.src_port.get(), guest: port, ..Peer::new(0, 0) };
        self.send(peer.header(Op::Response), &[]);
        self.receive_nothing();
        assert_eq!(read_line(&program), format!("OK {}\n", peer.host));
        (program, peer)
    }

    /// The guest connects to a program that listens on `port`, from the port of the same number.
    fn connected_from_guest(&mut self, port: u32) -> (UnixStream, Peer) {
        let listener = self.listen(port);
        let peer = Peer::new(port, port);
        self.send(peer.header(Op::Request), &[]);
        self.receive_op(Op::Response);
        let (program, _) = listener.accept().unwrap();
        program.set_nonblocking(true).unwrap();
        (program, peer)
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.directory.path().join(format!("v_{port}"))).unwrap()
    }

    /// A program connects to the device and asks for the guest's port.
    fn program(&self, port: u32) -> UnixStream {
        let mut program = UnixStream::connect(self.directory.path().join("v")).unwrap();
        program.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        program.set_nonblocking(true).unwrap();
        program
    }
}

/// A connection as its guest knows it.
#[derive(Clone, Copy, Debug)]
struct Peer {
    host: u32,
    guest: u32,
    buf_alloc: u32,
    fwd_cnt: u32,
}

impl Peer {
    fn new(host: u32, guest: u32) -> Self {
        Self { host, guest, buf_alloc: 1 << 20, fwd_cnt: 0 }
    }

    fn header(&self, op: Op) -> Header {
        Header {
            src_cid: CID.into(),
            dst_cid: HOST_CID.into(),
            src_port: self.guest.into(),
            dst_port: self.host.into(),
            len: 0.into(),
            socket_type: 1.into(),
            op: (op as u16).into(),
            flags: 0.into(),
            buf_alloc: self.buf_alloc.into(),
            fwd_cnt: self.fwd_cnt.into(),
        }
    }

    fn data(&self, len: usize) -> Header {
        Header { len: (len as u32).into(), ..self.header(Op::Rw) }
    }

    fn shutdown(&self, flags: u32) -> Header {
        Header { flags: flags.into(), ..self.header(Op::Shutdown) }
    }
}

/// The guest's end of a connection that obeys the rules, with a small receive buffer.
struct Stream {
    peer: Peer,
    sent: u32,
    credit: (u32, u32),
    received: Vec<u8>,
    announced: u32,
}

impl Stream {
    fn new(peer: Peer) -> Self {
        Self { peer, sent: 0, credit: (0, 0), received: Vec::new(), announced: 0 }
    }

    fn room(&self) -> usize {
        let (buf_alloc, fwd_cnt) = self.credit;
        (buf_alloc - (self.sent - fwd_cnt)) as usize
    }

    fn take(&mut self, packet: &Packet) {
        let header = &packet.header;
        self.credit = (header.buf_alloc.get(), header.fwd_cnt.get());
        self.received.extend(&packet.payload);
        self.peer.fwd_cnt = self.received.len() as u32;
        let unread = self.peer.fwd_cnt - self.announced;
        assert!(unread <= self.peer.buf_alloc, "more than the guest's credit");
    }

    /// Sends until there is no credit left, to a program that doesn't read.
    fn fill(&mut self, guest: &mut Guest) {
        guest.send(self.peer.header(Op::CreditRequest), &[]);
        self.take(&guest.receive_op(Op::CreditUpdate));
        let data = pattern(CHUNK);
        while self.room() > 0 {
            let part = &data[..CHUNK.min(self.room()).min(CHUNK - self.sent as usize % CHUNK)];
            guest.send(self.peer.data(part.len()), part);
            self.sent += part.len() as u32;
            guest.receive().iter().for_each(|packet| self.take(packet));
        }
    }
}

/// How many bytes [`Stream::fill`] repeats.
const CHUNK: usize = 32 << 10;

/// Notifies a queue, unless the device asked not to (VIRTIO 1.3 §2.7.10).
fn kick(memory: &GuestRam, queue: &TestQueue, rings: u64) {
    if memory.read_obj::<u16>(GuestAddress(rings + 0x6000)).unwrap() == 0 {
        queue.kick();
    }
}

fn read_line(mut program: &UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        program.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Reads what is there; none at the end.
fn read_some(mut program: &UnixStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1 << 20];
    match program.read(&mut bytes) {
        Ok(0) => None,
        Ok(len) => {
            bytes.truncate(len);
            Some(bytes)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(Vec::new()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("{error}"),
    }
}

/// Checks that data goes both ways.
fn echo(guest: &mut Guest, mut program: &UnixStream, peer: &mut Peer) {
    program.write_all(b"to the guest").unwrap();
    assert_eq!(guest.receive_op(Op::Rw).payload, b"to the guest");
    peer.fwd_cnt += 12;
    guest.send(peer.data(11), b"to the host");
    assert_eq!(read_some(program).unwrap(), b"to the host");
    guest.receive_nothing();
}

/// Bytes that differ at every offset that matters.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8) ^ ((at >> 8) as u8).wrapping_mul(7) ^ ((at >> 16) as u8)).collect()
}

#[test]
fn state_of_each_past_format_is_read_whole() {
    crate::state::kept::expect_read_whole::<super::VsockState>("vsock");
}
