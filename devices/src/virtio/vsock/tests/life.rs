//! Connections begin and end.

use super::*;

fn impatient() -> Limits {
    let soon = Duration::from_millis(20);
    Limits { connect: soon, linger: soon, ..Limits::default() }
}

#[test]
fn program_connects_to_the_guest_by_its_line() {
    let mut guest = Guest::new();
    let (program, mut peer) = guest.connected_from_host(52);
    assert!(peer.host >= 1 << 30);
    echo(&mut guest, &program, &mut peer);
    let (other, mut other_peer) = guest.connected_from_host(52);
    assert_ne!(peer.host, other_peer.host);
    echo(&mut guest, &other, &mut other_peer);
    echo(&mut guest, &program, &mut peer);
    assert_eq!(guest.device.metrics().opened.get(), 2);
}

#[test]
fn guest_connects_to_the_program_that_serves_the_port() {
    let mut guest = Guest::new();
    let (program, mut peer) = guest.connected_from_guest(1024);
    echo(&mut guest, &program, &mut peer);
}

#[test]
fn data_right_behind_the_line_reaches_the_guest() {
    let mut guest = Guest::new();
    let mut program = guest.program(7);
    program.write_all(b"early").unwrap();
    let request = guest.receive_op(Op::Request);
    let peer = Peer::new(request.header.src_port.get(), 7);
    guest.send(peer.header(Op::Response), &[]);
    assert_eq!(guest.receive_op(Op::Rw).payload, b"early");
}

#[test]
fn guest_is_reset_where_no_program_listens() {
    let mut guest = Guest::new();
    guest.send(Peer::new(9, 1).header(Op::Request), &[]);
    let reset = guest.receive_op(Op::Rst).header;
    assert_eq!((reset.src_port.get(), reset.dst_port.get(), reset.src_cid.get()), (9, 1, 2));
    assert_eq!(guest.device.metrics().refused.get(), 1);
}

#[test]
fn program_reads_the_end_when_the_guest_refuses() {
    let mut guest = Guest::new();
    let program = guest.program(7);
    let request = guest.receive_op(Op::Request);
    guest.send(Peer::new(request.header.src_port.get(), 7).header(Op::Rst), &[]);
    guest.receive_nothing();
    assert_eq!(read_some(&program), None);
}

#[test]
fn program_reads_the_end_when_the_guest_doesnt_answer() {
    let mut guest = Guest::with_limits(impatient());
    let program = guest.program(7);
    let first = guest.receive_op(Op::Request);
    let reset = guest.wait_for(Op::Rst);
    assert_eq!(reset.header.src_port, first.header.src_port);
    assert_eq!(read_some(&program), None);
}

#[test]
fn program_that_closes_before_the_answer_takes_its_request_back() {
    let mut guest = Guest::new();
    drop(guest.program(7));
    let packets = guest.receive();
    let ops: Vec<_> = packets.iter().map(|packet| packet.op().unwrap()).collect();
    assert_eq!(ops, [Op::Request, Op::Rst]);
}

#[test]
fn answered_connection_outlives_the_time_to_connect() {
    let mut guest = Guest::with_limits(impatient());
    let (program, mut peer) = guest.connected_from_host(7);
    let late = Instant::now() + impatient().connect * 2;
    guest.wait_until(|_| Instant::now() > late);
    echo(&mut guest, &program, &mut peer);
}

#[test]
fn line_that_asks_for_nothing_closes_the_connection() {
    let mut guest = Guest::new();
    for line in [&b"GET / HTTP/1.1\r\n"[..], b"CONNECT x\n", &[b'x'; 40]] {
        let mut program = UnixStream::connect(guest.directory.path().join("v")).unwrap();
        program.write_all(line).unwrap();
        guest.receive_nothing();
        assert_eq!(read_some(&program), None);
    }
    assert_eq!(guest.device.metrics().refused.get(), 3);
}

#[test]
fn programs_without_a_line_keep_no_other_out() {
    let mut guest = Guest::new();
    let silent: Vec<_> = (0..80)
        .map(|_| {
            let program = UnixStream::connect(guest.directory.path().join("v")).unwrap();
            program.set_nonblocking(true).unwrap();
            guest.settle();
            program
        })
        .collect();
    let (program, mut peer) = guest.connected_from_host(7);
    echo(&mut guest, &program, &mut peer);
    let refused = silent.iter().filter(|program| read_some(program).is_none()).count();
    assert_eq!(refused, 80 + 1 - muxer::MAX_GREETINGS);
    assert_eq!(read_some(&silent[0]), None, "the oldest has to go first");
}

#[test]
fn connections_beyond_the_limit_are_refused_and_possible_again_later() {
    let mut guest = Guest::with_limits(Limits { connections: 2, ..Limits::default() });
    let (program, mut peer) = guest.connected_from_guest(1);
    let (_other, other_peer) = guest.connected_from_host(2);
    let listener = guest.listen(3);
    guest.send(Peer::new(3, 3).header(Op::Request), &[]);
    guest.receive_op(Op::Rst);
    let refused = guest.program(4);
    guest.receive_nothing();
    assert_eq!(read_some(&refused), None);

    guest.send(other_peer.header(Op::Rst), &[]);
    guest.send(Peer::new(3, 3).header(Op::Request), &[]);
    guest.receive_op(Op::Response);
    let _third = listener.accept().unwrap();
    echo(&mut guest, &program, &mut peer);
}

#[test]
fn program_that_closes_ends_both_directions_behind_its_data() {
    let mut guest = Guest::new();
    let (mut program, peer) = guest.connected_from_host(7);
    program.write_all(&[7; 10_000]).unwrap();
    drop(program);
    let packets = guest.receive();
    let data: usize = packets.iter().map(|packet| packet.payload.len()).sum();
    assert_eq!(data, 10_000);
    let last = packets.last().unwrap();
    assert_eq!(last.op(), Some(Op::Shutdown));
    assert_eq!(last.header.flags.get(), SHUTDOWN_BOTH);
    guest.send(peer.header(Op::Rst), &[]);
    guest.receive_nothing();
    guest.send(peer.header(Op::CreditRequest), &[]);
    guest.receive_op(Op::Rst);
}

#[test]
fn guest_that_doesnt_confirm_the_end_is_reset() {
    let mut guest = Guest::with_limits(impatient());
    let (program, _) = guest.connected_from_guest(7);
    drop(program);
    guest.receive_op(Op::Shutdown);
    guest.wait_for(Op::Rst);
}

#[test]
fn program_may_end_its_direction_and_go_on_reading() {
    let mut guest = Guest::new();
    let (mut program, peer) = guest.connected_from_guest(7);
    program.write_all(b"all of it").unwrap();
    program.shutdown(std::net::Shutdown::Write).unwrap();
    let packets = guest.receive();
    assert_eq!(packets[0].payload, b"all of it");
    assert_eq!(packets[1].header.flags.get(), SHUTDOWN_SEND);
    guest.send(peer.data(6), b"answer");
    assert_eq!(read_some(&program).unwrap(), b"answer");
    drop(program);
    assert_eq!(guest.receive_op(Op::Shutdown).header.flags.get(), SHUTDOWN_BOTH);
}

#[test]
fn guest_may_end_its_direction_and_go_on_reading() {
    let mut guest = Guest::new();
    let (mut program, peer) = guest.connected_from_host(7);
    guest.send(peer.data(4), b"last");
    guest.send(peer.shutdown(SHUTDOWN_SEND), &[]);
    assert_eq!(read_some(&program).unwrap(), b"last");
    assert_eq!(read_some(&program), None);
    program.write_all(b"answer").unwrap();
    assert_eq!(guest.receive_op(Op::Rw).payload, b"answer");
    guest.send(peer.shutdown(SHUTDOWN_RECEIVE), &[]);
    guest.receive_op(Op::Rst);
    assert_eq!(program.write_all(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn guest_that_reads_no_more_still_hears_that_the_program_is_gone() {
    let mut guest = Guest::new();
    let (mut program, peer) = guest.connected_from_host(7);
    guest.send(peer.shutdown(SHUTDOWN_RECEIVE), &[]);
    assert_eq!(program.write_all(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.send(peer.data(4), b"last");
    assert_eq!(read_some(&program).unwrap(), b"last");
    drop(program);
    assert_eq!(guest.receive_op(Op::Shutdown).header.flags.get(), SHUTDOWN_BOTH);
}

#[test]
fn closed_program_resets_a_guest_that_goes_on_sending() {
    let mut guest = Guest::new();
    let (program, peer) = guest.connected_from_host(7);
    drop(program);
    guest.receive_op(Op::Shutdown);
    guest.send(peer.data(1), b"x");
    guest.receive_op(Op::Rst);
}

/// The guest fills all there is between it and a program that doesn't read, and ends the connection.
fn end_with_unread_data(guest: &mut Guest, how: Op) -> (UnixStream, usize) {
    let (program, peer) = guest.connected_from_guest(7);
    let mut stream = Stream::new(peer);
    stream.fill(guest);
    let end = if how == Op::Shutdown { peer.shutdown(SHUTDOWN_BOTH) } else { peer.header(how) };
    guest.send(end, &[]);
    (program, stream.sent as usize)
}

#[test]
fn program_gets_everything_that_was_sent_before_the_guest_ended() {
    for how in [Op::Shutdown, Op::Rst] {
        let mut guest = Guest::new();
        let (program, count) = end_with_unread_data(&mut guest, how);
        guest.receive_nothing();
        let mut read = Vec::new();
        while read.len() < count {
            read.extend(read_some(&program).unwrap());
            guest.settle();
        }
        assert!(read.chunks(CHUNK).all(|chunk| chunk == &pattern(CHUNK)[..chunk.len()]));
        assert_eq!(read_some(&program), None);
        match how {
            Op::Shutdown => drop(guest.receive_op(Op::Rst)),
            _ => guest.receive_nothing(),
        }
    }
}

#[test]
fn last_bytes_are_dropped_when_the_program_takes_none_of_them_in_time() {
    for how in [Op::Shutdown, Op::Rst] {
        let mut guest = Guest::with_limits(impatient());
        let (program, count) = end_with_unread_data(&mut guest, how);
        if how == Op::Shutdown {
            guest.wait_for(Op::Rst);
        } else {
            let late = Instant::now() + impatient().linger * 5;
            guest.wait_until(|_| Instant::now() > late);
            guest.receive_nothing();
        }
        let mut read = 0;
        while let Some(bytes) = read_some(&program) {
            assert!(!bytes.is_empty(), "{how:?}: neither data nor the end");
            read += bytes.len();
        }
        assert!(read < count);
    }
}

#[test]
fn guest_may_use_its_port_again_right_after_a_reset() {
    let mut guest = Guest::new();
    let listener = guest.listen(7);
    let peer = Peer::new(7, 7);
    for _ in 0..3 {
        guest.send(peer.header(Op::Request), &[]);
        guest.receive_op(Op::Response);
        Stream::new(peer).fill(&mut guest);
        guest.send(peer.header(Op::Rst), &[]);
        // What the program hasn't read of the old connection is lost with it.
    }
    let programs = [(); 3].map(|()| listener.accept().unwrap());
    assert_eq!(programs.len(), 3);
}

#[test]
fn reset_closes_connections_and_the_next_driver_starts_anew() {
    let directory = tempfile::tempdir().unwrap();
    let mut device = Vsock::new(&config(&directory)).unwrap();
    for _ in 0..3 {
        let memory = guest_ram();
        let queues = [0, 1, 2].map(|index| TestQueue::at(memory.clone(), 16, index * 0x8000));
        let mut rx = TestQueue::at(memory.clone(), 16, 0);
        rx.add_chain(&[Buffer::writable(RX_BUFFERS, RX_BUFFER_SIZE)]);
        let mut program = UnixStream::connect(directory.path().join("v")).unwrap();
        program.write_all(b"CONNECT 1\n").unwrap();
        device
            .activate(Activation {
                memory,
                features: 0,
                queues: (0..)
                    .zip(&queues)
                    .map(|(index, queue)| queue.device_queue(index))
                    .collect(),
                notifier: queues[0].notifier(),
            })
            .unwrap();
        // The request for the guest is there once the program was served.
        let deadline = Instant::now() + Duration::from_secs(20);
        while rx.used().is_empty() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        device.reset();
        assert_eq!(program.read(&mut [0]).unwrap(), 0, "closed by the reset");
    }
    assert!(directory.path().join("v").exists());
    drop(device);
    assert!(!directory.path().join("v").exists());
}

#[test]
fn driver_must_enable_the_queues_for_data() {
    let directory = tempfile::tempdir().unwrap();
    let mut device = Vsock::new(&config(&directory)).unwrap();
    let memory = guest_ram();
    let queue = TestQueue::new(memory.clone(), 16);
    for (present, missing) in [(1, 0), (0, 1)] {
        let activation = Activation {
            memory: memory.clone(),
            features: 0,
            queues: vec![queue.device_queue(present), queue.device_queue(2)],
            notifier: queue.notifier(),
        };
        let error = device.activate(activation).unwrap_err();
        assert!(matches!(error, ActivateError::MissingQueue(index) if index == missing));
    }
}

#[test]
fn configuration_shows_the_guests_address_and_reserved_ones_are_refused() {
    let guest = Guest::new();
    let mut space = [0; 10];
    guest.device.read_config(0, &mut space);
    assert_eq!(space, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for cid in [0, 1, 2, u32::MAX] {
        let config = VsockConfig { cid, ..config(&guest.directory) };
        assert!(matches!(Vsock::new(&config), Err(VsockError::InvalidCid(_))));
    }
    let taken = Vsock::new(&config(&guest.directory));
    assert!(matches!(taken, Err(VsockError::SocketExists { .. })));
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
#[ignore = "counts the process's files: run alone by no_file_descriptor_is_left_behind"]
fn count_files_over_many_connections() {
    let before = open_files();
    {
        let mut guest = Guest::with_limits(impatient());
        let mut idle = 0;
        for round in 0..20u32 {
            let (program, peer) = guest.connected_from_guest(100 + round);
            let (other, other_peer) = guest.connected_from_host(round);
            let refused = guest.program(5);
            let request = guest.receive_op(Op::Request).header;
            guest.send(Peer::new(request.src_port.get(), 5).header(Op::Rst), &[]);
            guest.send(peer.shutdown(SHUTDOWN_BOTH), &[]);
            guest.receive_op(Op::Rst);
            drop(other);
            guest.receive_op(Op::Shutdown);
            guest.send(other_peer.header(Op::Rst), &[]);
            drop((program, refused));
            guest.receive_nothing();
            if round == 0 {
                idle = open_files();
            }
        }
        assert_eq!(open_files(), idle, "connections leave files behind");
        let _open = guest.connected_from_host(1);
    }
    assert_eq!(open_files(), before, "a device leaves files behind");
}

#[test]
fn no_file_descriptor_is_left_behind() {
    let name = "virtio::vsock::tests::life::count_files_over_many_connections";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
