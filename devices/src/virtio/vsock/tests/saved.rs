//! Connections while their device is paused, and after it was made anew.

use super::*;
use crate::state::RestoreError;

const EVENT_RINGS: u64 = 0x10000;
const EVENT_BUFFER: u64 = 0x70_0000;

/// A device with a worker of its own, and its driver.
struct Live {
    memory: GuestRam,
    rx: TestQueue,
    tx: TestQueue,
    device: Vsock,
    directory: TempDir,
}

impl Live {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut device = Vsock::new(&config(&directory)).unwrap();
        let memory = guest_ram();
        let rx = TestQueue::at(memory.clone(), RX_BUFFER_COUNT, 0);
        let tx = TestQueue::at(memory.clone(), 256, TX_RINGS);
        let activation = Activation {
            memory: memory.clone(),
            features: 0,
            queues: vec![rx.device_queue(0), tx.device_queue(1)],
            notifier: rx.notifier(),
        };
        device.activate(activation).unwrap();
        let mut live = Self { memory, rx, tx, device, directory };
        (0..RX_BUFFER_COUNT).for_each(|_| live.post_buffer());
        live.rx.kick();
        live
    }

    fn post_buffer(&mut self) {
        let head = self.rx.add_chain(&[Buffer::writable(0, RX_BUFFER_SIZE)]);
        let address = RX_BUFFERS + u64::from(head) * u64::from(RX_BUFFER_SIZE);
        self.rx.write_descriptor(head, address, RX_BUFFER_SIZE, 2, 0);
    }

    fn receive(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        for (head, len) in self.rx.used() {
            let address = RX_BUFFERS + u64::from(head) * u64::from(RX_BUFFER_SIZE);
            let mut bytes = vec![0; len as usize];
            self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            let header = Header::read_from_bytes(&bytes[..44]).unwrap();
            packets.push(Packet { header, payload: bytes.split_off(44) });
            self.post_buffer();
        }
        self.rx.kick();
        packets
    }

    /// Sends a packet that lies where no other does, without waiting.
    fn send(&mut self, slot: u64, header: Header, payload: &[u8]) {
        let address = TX_BUFFERS + slot * 0x2000;
        self.memory.write_slice(header.as_bytes(), GuestAddress(address)).unwrap();
        self.memory.write_slice(payload, GuestAddress(address + 44)).unwrap();
        self.tx.add_chain(&[Buffer::readable(address, 44 + payload.len() as u32)]);
        self.tx.kick();
    }
}

#[test]
fn connection_loses_no_byte_to_pauses_while_data_goes_both_ways() {
    const SIZE: usize = 512 << 10;
    let mut live = Live::new();
    let mut program = UnixStream::connect(live.directory.path().join("v")).unwrap();
    program.write_all(b"CONNECT 7\n").unwrap();
    let mut packets = Vec::new();
    while packets.is_empty() {
        packets = live.receive();
    }
    assert_eq!(packets[0].op(), Some(Op::Request));
    let peer = Peer::new(packets[0].header.src_port.get(), 7);
    live.send(0, peer.header(Op::Response), &[]);
    assert_eq!(read_line(&program), format!("OK {}\n", peer.host));

    let mut writer = program.try_clone().unwrap();
    let host = std::thread::spawn(move || writer.write_all(&pattern(SIZE)).unwrap());
    let (mut received, mut sent) = (Vec::new(), Vec::new());
    let (mut packets, mut pauses) = (0, 0);
    while received.len() < SIZE {
        for packet in live.receive() {
            packets += 1;
            if packet.op() == Some(Op::Rw) {
                received.extend(packet.payload);
            }
        }
        if packets >= pauses * 8 && sent.len() < 32 << 10 {
            pauses += 1;
            live.device.request_pause();
            live.device.pause();
            let delivered = live.rx.cursor().next_used();
            let taken = live.tx.cursor().next_available();
            let part = pattern(1000 + pauses);
            live.send(pauses as u64, peer.data(part.len()), &part);
            sent.extend(part);
            let still = (live.rx.cursor().next_used(), live.tx.cursor().next_available());
            assert_eq!(still, (delivered, taken), "served while paused");
            live.device.resume();
        }
    }
    host.join().unwrap();
    assert!(pauses > 4);
    assert!(received == pattern(SIZE));
    let mut arrived = vec![0; sent.len()];
    program.read_exact(&mut arrived).unwrap();
    assert!(arrived == sent);
}

#[test]
fn time_in_which_the_guest_stood_still_counts_for_no_deadline() {
    let limits = Limits { connect: Duration::from_millis(300), ..Limits::default() };
    let mut guest = Guest::with_limits(limits);
    let program = guest.program(7);
    let request = guest.receive_op(Op::Request);
    let worker = guest.worker;
    guest.event_loop.subscriber_mut(worker).unwrap().resumed(Duration::from_secs(3600));
    // The timer that was set for the old deadline.
    assert_eq!(guest.event_loop.run_with_timeout(20_000).unwrap(), 1);
    guest.receive_nothing();
    let peer = Peer::new(request.header.src_port.get(), 7);
    guest.send(peer.header(Op::Response), &[]);
    guest.receive_nothing();
    assert_eq!(read_line(&program), format!("OK {}\n", peer.host));
}

/// A device at `cid` that was restored with a guest whose event queue is `event`.
fn restored(cid: u32, event: &TestQueue) -> Guest {
    let saved = Guest::new().device.save().unwrap();
    let mut guest = Guest::new();
    guest.device.cid = cid.into();
    guest.device.restore(saved).unwrap();
    let memory = event.memory().clone();
    guest.rx = TestQueue::at(memory.clone(), RX_BUFFER_COUNT, 0);
    guest.tx = TestQueue::at(memory.clone(), 256, TX_RINGS);
    guest.memory = memory.clone();
    let activation = Activation {
        memory,
        features: 0,
        queues: vec![guest.rx.device_queue(0), guest.tx.device_queue(1), event.device_queue(2)],
        notifier: guest.rx.notifier(),
    };
    let worker: Handler = Box::new(guest.device.make_worker(activation).unwrap());
    guest.event_loop = EventManager::<Handler>::new().unwrap();
    guest.worker = guest.event_loop.add_subscriber(worker);
    guest
}

#[test]
fn restored_device_has_the_driver_give_up_its_connections_once_it_can() {
    let memory = guest_ram();
    let mut event = TestQueue::at(memory.clone(), 8, EVENT_RINGS);
    let mut guest = restored(9, &event);
    guest.settle();
    assert_eq!(event.used(), [], "there is no buffer for it");
    memory.write_slice(&[0xff; 8], GuestAddress(EVENT_BUFFER)).unwrap();
    // One without room comes back unused, the next one has it.
    event.add_chain(&[Buffer::writable(EVENT_BUFFER, 3)]);
    event.add_chain(&[Buffer::writable(EVENT_BUFFER, 8)]);
    event.add_chain(&[Buffer::writable(EVENT_BUFFER + 0x100, 8)]);
    event.kick();
    guest.settle();
    assert_eq!(event.used(), [(0, 0), (1, 4)]);
    let mut written = [0; 8];
    memory.read_slice(&mut written, GuestAddress(EVENT_BUFFER)).unwrap();
    assert_eq!(written, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    event.kick();
    guest.settle();
    assert_eq!(event.used(), [], "it's told once");
    let mut cid = [0; 8];
    guest.device.read_config(0, &mut cid);
    assert_eq!(cid, 9u64.to_le_bytes(), "the new address is there to be read");

    // A driver that goes on with an old connection is told that there is none.
    let gone = Header { src_cid: 9.into(), ..Peer::new(5, 5).data(4) };
    guest.rx.add_chain(&[Buffer::writable(RX_BUFFERS, RX_BUFFER_SIZE)]);
    guest.send(gone, b"lost");
    let used = guest.rx.used();
    assert_eq!(used, [(0, 44)]);
    let mut op = [0; 2];
    memory.read_slice(&mut op, GuestAddress(RX_BUFFERS + 30)).unwrap();
    assert_eq!(u16::from_le_bytes(op), Op::Rst as u16);
}

#[test]
fn host_programs_wait_until_the_driver_has_given_up_its_old_connections() {
    let memory = guest_ram();
    let mut event = TestQueue::at(memory.clone(), 8, EVENT_RINGS);
    event.add_chain(&[Buffer::writable(EVENT_BUFFER, 8)]);
    event.add_chain(&[Buffer::writable(EVENT_BUFFER + 0x100, 8)]);
    let mut guest = restored(3, &event);
    guest.rx.add_chain(&[Buffer::writable(RX_BUFFERS, RX_BUFFER_SIZE)]);
    let program = guest.program(7);
    guest.settle();
    assert_eq!(event.used(), [(0, 4)]);
    guest.receive_nothing();
    // What else it does tells nothing.
    event.kick();
    guest.settle();
    guest.receive_nothing();
    event.add_chain(&[Buffer::writable(EVENT_BUFFER, 8)]);
    event.kick();
    guest.settle();
    let request = guest.receive_op(Op::Request);
    assert_eq!(request.header.dst_port.get(), 7);
    assert_eq!(event.used(), [], "the buffers stay for later events");
    drop(program);
}

#[test]
fn restored_device_takes_no_port_that_the_guest_may_remember() {
    let host_port = |saved: serde_json::Value| {
        let mut guest = Guest::new();
        guest.device.restore(saved).unwrap();
        let mut guest = Guest::of(guest.device, guest.directory);
        guest.post_buffer();
        let program = guest.program(7);
        let port = guest.receive_op(Op::Request).header.src_port.get();
        drop(program);
        (port, guest.device.save().unwrap())
    };
    let (first, saved) = host_port(Guest::new().device.save().unwrap());
    let (second, saved) = host_port(saved);
    let (third, mut saved) = host_port(saved);
    assert_eq!([second, third], [first + 1, first + 2]);
    // Those of before this was saved, and those that nobody saved.
    saved.as_object_mut().unwrap().remove("next_port");
    assert!(host_port(saved.clone()).0 > third + 1000);
    for wrong in [0, 1024, u32::MAX] {
        saved["next_port"] = wrong.into();
        assert!((third + 1000..u32::MAX).contains(&host_port(saved.clone()).0), "{wrong}");
    }
}

#[test]
fn driver_after_a_reset_has_no_connections_to_give_up() {
    let memory = guest_ram();
    let mut event = TestQueue::at(memory.clone(), 8, EVENT_RINGS);
    event.add_chain(&[Buffer::writable(EVENT_BUFFER, 8)]);
    let mut guest = restored(3, &event);
    guest.device.reset();
    let activation = Activation {
        memory,
        features: 0,
        queues: vec![guest.rx.device_queue(0), guest.tx.device_queue(1), event.device_queue(2)],
        notifier: guest.rx.notifier(),
    };
    let worker: Handler = Box::new(guest.device.make_worker(activation).unwrap());
    guest.event_loop = EventManager::<Handler>::new().unwrap();
    guest.event_loop.add_subscriber(worker);
    guest.settle();
    assert_eq!(event.used(), []);
    for wrong in [serde_json::json!(null), serde_json::json!({ "cid": "three" })] {
        assert!(matches!(guest.device.restore(wrong), Err(RestoreError::Format { .. })));
    }
}
