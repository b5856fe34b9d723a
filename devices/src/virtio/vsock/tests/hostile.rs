//! Guests that break the rules harm nobody but themselves.

use super::*;

#[test]
fn packets_that_belong_to_nothing_are_reset_or_ignored() {
    let mut guest = Guest::new();
    let (program, mut peer) = guest.connected_from_guest(7);
    let stranger = Peer::new(7, 99);
    let request = stranger.header(Op::Request);
    let reset: [Header; 9] = [
        Header { dst_cid: 1.into(), ..request },
        Header { dst_cid: u64::MAX.into(), ..request },
        Header { socket_type: 2.into(), ..request },
        Header { socket_type: 0.into(), ..request },
        Header { op: 0.into(), ..request },
        Header { op: 8.into(), ..request },
        stranger.header(Op::Response),
        stranger.header(Op::CreditUpdate),
        stranger.shutdown(SHUTDOWN_BOTH),
    ];
    for header in reset {
        guest.send(header, &[]);
        let answer = guest.receive_op(Op::Rst).header;
        assert_eq!(answer.src_cid, header.dst_cid);
        assert_eq!(answer.socket_type, header.socket_type);
        assert_eq!((answer.dst_port.get(), answer.src_port.get()), (99, 7));
        echo(&mut guest, &program, &mut peer);
    }
    guest.send(stranger.data(4), b"data");
    guest.receive_op(Op::Rst);
    let ignored: [Header; 4] = [
        stranger.header(Op::Rst),
        Header { dst_cid: 1.into(), ..stranger.header(Op::Rst) },
        Header { src_cid: 4.into(), ..request },
        Header { src_cid: (CID | 1 << 32).into(), ..request },
    ];
    for header in ignored {
        guest.send(header, &[]);
        guest.receive_nothing();
        echo(&mut guest, &program, &mut peer);
    }
}

#[test]
fn packets_out_of_place_reset_their_own_connection() {
    let mut guest = Guest::new();
    let (program, mut peer) = guest.connected_from_host(1);
    let mut port = 100;
    let mut check = |guest: &mut Guest, headers: &[fn(&Peer) -> Header]| {
        port += 1;
        let (victim, victim_peer) = guest.connected_from_guest(port);
        for header in headers {
            guest.send(header(&victim_peer), &[]);
        }
        let answer = guest.receive_op(Op::Rst).header;
        assert_eq!(answer.dst_port.get(), victim_peer.guest);
        assert_eq!(read_some(&victim), None);
        echo(guest, &program, &mut peer);
    };
    check(&mut guest, &[|peer| peer.header(Op::Request)]);
    check(&mut guest, &[|peer| peer.header(Op::Response)]);
    check(&mut guest, &[|peer| Header { op: 0.into(), ..peer.header(Op::Rw) }]);
    check(&mut guest, &[|peer| Header { op: u16::MAX.into(), ..peer.header(Op::Rw) }]);
    check(&mut guest, &[|peer| peer.shutdown(SHUTDOWN_SEND), |peer| peer.header(Op::Rw)]);
}

#[test]
fn only_an_answer_is_taken_for_one() {
    for op in [Op::Rw, Op::Shutdown, Op::CreditUpdate, Op::CreditRequest, Op::Request] {
        let mut guest = Guest::new();
        let program = guest.program(7);
        let request = guest.receive_op(Op::Request);
        guest.send(Peer::new(request.header.src_port.get(), 7).header(op), &[]);
        guest.receive_op(Op::Rst);
        assert_eq!(read_some(&program), None, "{op:?}");
    }
}

#[test]
fn shutdown_of_nothing_changes_nothing() {
    let mut guest = Guest::new();
    let (program, mut peer) = guest.connected_from_host(1);
    guest.send(peer.shutdown(0), &[]);
    guest.send(peer.shutdown(0xffff_fffc), &[]);
    echo(&mut guest, &program, &mut peer);
}

#[test]
fn chains_that_hold_no_packet_come_back_and_harm_nothing() {
    let mut guest = Guest::new();
    let (program, mut peer) = guest.connected_from_guest(7);
    let write = |guest: &Guest, header: Header| {
        guest.memory.write_slice(header.as_bytes(), GuestAddress(TX_BUFFERS)).unwrap();
    };
    let header = |len| Buffer::readable(TX_BUFFERS, len);
    let payload = |len| Buffer::readable(TX_BUFFERS + 0x1000, len);
    let cases: [(u32, &[Buffer]); 10] = [
        (0, &[header(43)]),
        (0, &[header(0)]),
        (1, &[header(44)]),
        (100, &[header(44), payload(99)]),
        (u32::MAX, &[header(44), payload(100)]),
        ((64 << 10) + 1, &[header(44), payload(0x20000)]),
        (4, &[header(44), Buffer::writable(TX_BUFFERS + 0x1000, 4)]),
        (4, &[header(44), Buffer::readable(0x4000_0000, 4)]),
        (4, &[Buffer::readable(u64::MAX - 20, 44), payload(4)]),
        (0, &[Buffer::writable(TX_BUFFERS, 44)]),
    ];
    for (len, chain) in cases {
        write(&guest, Header { len: len.into(), ..peer.header(Op::Rw) });
        guest.send_chain(chain);
        guest.receive_nothing();
    }
    assert_eq!(guest.device.metrics().bad_packets.get(), 10);
    let looped = guest.tx.add_chain(&[header(44), payload(4)]);
    guest.tx.link(looped + 1, looped);
    guest.kick_tx();
    guest.receive_nothing();
    assert_eq!(guest.tx.used().len(), 1);
    assert_eq!(read_some(&program), Some(Vec::new()));
    echo(&mut guest, &program, &mut peer);
}

#[test]
fn receive_buffers_against_the_rules_are_skipped() {
    let mut guest = Guest::without_buffers(Limits::default());
    let bad: [&[Buffer]; 7] = [
        &[Buffer::readable(RX_BUFFERS, 4096)],
        &[Buffer::writable(RX_BUFFERS, 43)],
        &[Buffer::writable(RX_BUFFERS, 44)],
        &[Buffer::writable(RX_BUFFERS, 44), Buffer::writable(RX_BUFFERS, 0)],
        &[Buffer::writable(RX_BUFFERS, 44), Buffer::readable(RX_BUFFERS, 100)],
        &[Buffer::writable(0x4000_0000, 4096)],
        &[Buffer::writable(RX_BUFFERS, u32::MAX)],
    ];
    for chain in bad {
        guest.rx.add_chain(chain);
    }
    let last = guest.rx.add_chain(&[Buffer::writable(RX_BUFFERS, 4096)]);
    let _program = guest.program(7);
    guest.settle();
    let used = guest.rx.used();
    assert_eq!(used.last(), Some(&(u32::from(last), 44)));
    assert!(used[..7].iter().all(|&(_, len)| len == 0), "{used:?}");
    assert_eq!(guest.device.metrics().bad_buffers.get(), 7);
}

#[test]
fn guest_that_takes_no_resets_loses_some_and_nothing_else() {
    let mut guest = Guest::without_buffers(Limits::default());
    for port in 0..1000 {
        guest.send(Peer::new(1, port).header(Op::Request), &[]);
    }
    for _ in 0..RX_BUFFER_COUNT {
        guest.post_buffer();
    }
    guest.kick_rx();
    let mut resets = 0;
    loop {
        let packets = guest.receive();
        if packets.is_empty() {
            break;
        }
        resets += packets.len();
    }
    assert_eq!(resets, 256);
    let (program, mut peer) = guest.connected_from_guest(7);
    echo(&mut guest, &program, &mut peer);
}

#[test]
fn broken_ring_closes_everything_and_asks_for_a_reset() {
    let mut guest = Guest::new();
    let (program, _) = guest.connected_from_host(7);
    let silent = UnixStream::connect(guest.directory.path().join("v")).unwrap();
    guest.settle();
    guest.tx.set_available_index(5000);
    guest.kick_tx();
    guest.settle();
    assert!(guest.rx.needs_reset());
    assert_eq!((read_some(&program), read_some(&silent)), (None, None));
    guest.kick_rx();
    guest.settle();
}

#[test]
fn random_packets_never_stop_the_device() {
    let mut guest = Guest::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let listeners = [1, 2].map(|port| guest.listen(port));
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    let mut programs = Vec::new();
    for _ in 0..5000 {
        let mut header = Header::new_zeroed();
        header.src_cid = CID.into();
        header.dst_cid = HOST_CID.into();
        header.socket_type = 1.into();
        header.src_port = ((random() % 3) as u32).into();
        header.dst_port = ((random() % 3) as u32).into();
        header.op = ((random() % 9) as u16).into();
        header.flags = ((random() % 4) as u32).into();
        header.buf_alloc = (random() as u32).into();
        header.fwd_cnt = ((random() % 100) as u32).into();
        let len = if random() % 4 == 0 { (random() % 70_000) as usize } else { 0 };
        header.len = (len as u32).into();
        guest.send(header, &vec![0; len]);
        programs.extend(listeners.iter().filter_map(|listener| listener.accept().ok()));
        if random() % 8 == 0 {
            guest.receive();
        }
        if programs.len() > 5 {
            programs.remove((random() % 5) as usize);
        }
    }
    while !guest.receive().is_empty() {}
    let (program, mut peer) = guest.connected_from_guest(7);
    echo(&mut guest, &program, &mut peer);
}
