//! Data flows, as far as there is credit.

use super::*;

#[test]
fn a_mebibyte_goes_each_way_through_small_buffers() {
    let mut guest = Guest::new();
    let (mut program, mut peer) = guest.connected_from_host(7);
    peer.buf_alloc = 5000;
    guest.send(peer.header(Op::CreditUpdate), &[]);
    guest.send(peer.header(Op::CreditRequest), &[]);
    let mut stream = Stream::new(peer);
    stream.take(&guest.receive_op(Op::CreditUpdate));

    let (to_guest, to_host) = (pattern(1 << 20), pattern((1 << 20) + 1)[1..].to_vec());
    let (mut written, mut read) = (0, Vec::new());
    while stream.received.len() < to_guest.len() || read.len() < to_host.len() {
        match program.write(&to_guest[written..]) {
            Ok(len) => written += len,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let left = &to_host[stream.sent as usize..];
        let part = &left[..left.len().min(stream.room()).min(3000)];
        if !part.is_empty() {
            stream.announced = stream.peer.fwd_cnt;
            guest.send(stream.peer.data(part.len()), part);
            stream.sent += part.len() as u32;
        }
        for packet in guest.receive() {
            assert!(matches!(packet.op(), Some(Op::Rw | Op::CreditUpdate | Op::CreditRequest)));
            stream.take(&packet);
        }
        stream.announced = stream.peer.fwd_cnt;
        guest.send(stream.peer.header(Op::CreditUpdate), &[]);
        read.extend(read_some(&program).unwrap());
    }
    assert!(stream.received == to_guest);
    assert!(read == to_host);
    let metrics = guest.device.metrics();
    assert_eq!((metrics.guest_bytes.get(), metrics.host_bytes.get()), (1 << 20, 1 << 20));
}

#[test]
fn guest_gets_no_more_than_its_credit_and_is_asked_once_for_more() {
    let mut guest = Guest::new();
    let (mut program, mut peer) = guest.connected_from_host(7);
    peer.buf_alloc = 1000;
    guest.send(peer.header(Op::CreditUpdate), &[]);
    program.write_all(&pattern(2500)).unwrap();
    let packets = guest.receive();
    assert_eq!(packets[0].payload, pattern(1000));
    assert_eq!(packets[1].op(), Some(Op::CreditRequest));
    assert_eq!(packets.len(), 2);
    program.write_all(b"still none").unwrap();
    guest.receive_nothing();

    peer.fwd_cnt = 300;
    guest.send(peer.header(Op::CreditUpdate), &[]);
    let packets = guest.receive();
    assert_eq!(packets[0].payload, pattern(1300)[1000..]);
    assert_eq!(packets[1].op(), Some(Op::CreditRequest));
}

#[test]
fn guest_that_contradicts_itself_about_credit_gets_nothing() {
    let mut guest = Guest::new();
    let (mut program, mut peer) = guest.connected_from_host(7);
    for (buf_alloc, fwd_cnt) in [(1000, 1), (1000, u32::MAX), (0, 0), (5, 1 << 31)] {
        peer.buf_alloc = buf_alloc;
        peer.fwd_cnt = fwd_cnt;
        guest.send(peer.header(Op::CreditUpdate), &[]);
        guest.receive();
        program.write_all(b"data").unwrap();
        assert!(guest.receive().iter().all(|packet| packet.op() != Some(Op::Rw)));
        // Consistent again: everything comes.
        (peer.buf_alloc, peer.fwd_cnt) = (1 << 20, 0);
        if fwd_cnt == 1 {
            guest.send(peer.header(Op::CreditUpdate), &[]);
            assert_eq!(guest.receive_op(Op::Rw).payload, b"data");
            return;
        }
    }
}

#[test]
fn credit_request_is_answered_with_what_the_program_took() {
    let mut guest = Guest::new();
    let (_program, peer) = guest.connected_from_guest(7);
    guest.send(peer.data(100), &[1; 100]);
    guest.receive_nothing();
    guest.send(peer.header(Op::CreditRequest), &[]);
    let header = guest.receive_op(Op::CreditUpdate).header;
    assert_eq!((header.buf_alloc.get(), header.fwd_cnt.get()), (128 << 10, 100));
}

#[test]
fn program_that_reads_nothing_stops_its_own_guest_only() {
    let mut guest = Guest::new();
    let (stuck, stuck_peer) = guest.connected_from_guest(1);
    let (program, mut peer) = guest.connected_from_host(2);
    let mut stream = Stream::new(stuck_peer);
    stream.fill(&mut guest);
    // The program's socket and the device's buffer are full.
    assert!(stream.sent > 128 << 10);
    echo(&mut guest, &program, &mut peer);

    // The program reads again: credit comes without being asked for.
    let mut read = Vec::new();
    while read.len() < stream.sent as usize {
        read.extend(read_some(&stuck).unwrap());
        guest.receive().iter().for_each(|packet| stream.take(packet));
    }
    assert!(read.chunks(CHUNK).all(|chunk| chunk == &pattern(CHUNK)[..chunk.len()]));
    assert!(stream.room() > 64 << 10);
    echo(&mut guest, &program, &mut peer);
}

#[test]
fn guest_that_sends_beyond_its_credit_is_reset_alone() {
    let mut guest = Guest::new();
    let (_stuck, stuck_peer) = guest.connected_from_guest(1);
    let (program, mut peer) = guest.connected_from_host(2);
    let mut resets = 0;
    for _ in 0..20 {
        guest.send(stuck_peer.data(64 << 10), &pattern(64 << 10));
        resets += guest.receive().iter().filter(|packet| packet.op() == Some(Op::Rst)).count();
    }
    assert!(resets > 0);
    echo(&mut guest, &program, &mut peer);
}

#[test]
fn connections_take_turns() {
    let mut guest = Guest::new();
    let mut all = [1, 2, 3].map(|port| guest.connected_from_host(port));
    for (program, _) in &mut all {
        program.write_all(&[0; 100_000]).unwrap();
    }
    // The first that was served has filled all buffers; now all three want to.
    guest.receive();
    let ports: Vec<_> =
        guest.receive().iter().map(|packet| packet.header.dst_port.get()).take(6).collect();
    assert_eq!(ports[..3], ports[3..], "{ports:?}");
    assert_ne!(ports[0], ports[1]);
}

#[test]
fn data_waits_for_receive_buffers() {
    let mut guest = Guest::without_buffers(Limits::default());
    let program = guest.program(7);
    guest.receive_nothing();
    guest.post_buffer();
    guest.kick_rx();
    let request = guest.receive_op(Op::Request);
    let peer = Peer::new(request.header.src_port.get(), 7);
    guest.send(peer.header(Op::Response), &[]);
    (&program).write_all(&pattern(10_000)).unwrap();
    let mut received = Vec::new();
    while received.len() < 10_000 {
        received.extend(guest.receive_op(Op::Rw).payload);
    }
    assert!(received == pattern(10_000));
}

#[test]
fn payload_may_be_scattered_or_share_its_headers_descriptor() {
    let mut guest = Guest::new();
    let (program, peer) = guest.connected_from_guest(7);
    let data = pattern(9000);
    let bytes = [peer.data(9000).as_bytes(), &data].concat();
    guest.memory.write_slice(&bytes, GuestAddress(TX_BUFFERS)).unwrap();
    for cuts in [vec![9044], vec![44, 4000, 4000, 1000], vec![10, 34, 9000], vec![50, 8994, 500]] {
        let mut at = TX_BUFFERS;
        let buffers: Vec<_> = cuts
            .iter()
            .map(|&len| {
                at += u64::from(len);
                Buffer::readable(at - u64::from(len), len)
            })
            .collect();
        guest.send_chain(&buffers);
        assert!(read_some(&program).unwrap() == data, "{cuts:?}");
    }
}

#[test]
fn header_and_payload_may_have_receive_descriptors_of_their_own() {
    let mut guest = Guest::without_buffers(Limits::default());
    guest.rx.add_chain(&[
        Buffer::writable(RX_BUFFERS, 44),
        Buffer::writable(RX_BUFFERS + 0x1000, 1000),
    ]);
    let _program = guest.program(7);
    guest.settle();
    assert_eq!(guest.rx.used(), [(0, 44)]);
}
