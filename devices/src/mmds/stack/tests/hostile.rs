use super::*;
use crate::mmds::queues::MAX_QUEUED_FRAMES;

/// Numbers that look random and are the same in each run (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A number that is often a special one.
    fn odd(&mut self) -> u32 {
        match self.below(4) {
            0 => [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX][self.below(5)],
            _ => self.next() as u32,
        }
    }
}

fn drain(stack: &mut MmdsStack, now: Instant) -> usize {
    let mut buffer = [0; 1514];
    std::iter::from_fn(|| stack.next_frame_at(&mut buffer, now)).count()
}

/// Puts `segment` into IPv4 with a right checksum.
fn wrap(source: Ipv4Addr, segment: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 34];
    frame[..6].copy_from_slice(&MMDS_MAC);
    frame[6..12].copy_from_slice(&GUEST_MAC);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame.extend_from_slice(segment);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.set_version(4);
    packet.set_header_len(20);
    packet.set_total_len(20 + segment.len() as u16);
    packet.set_hop_limit(64);
    packet.set_next_header(IpProtocol::Tcp);
    packet.set_src_addr(source);
    packet.set_dst_addr(DEFAULT_IPV4_ADDRESS);
    packet.fill_checksum();
    frame
}

/// A segment with any numbers, any flags, any options.
fn segment(random: &mut Random, sequence: u32, acknowledgement: u32) -> Vec<u8> {
    let options = random.below(11) * 4;
    let mut bytes: Vec<u8> = (0..20 + options + random.below(100)).map(|_| 0).collect();
    bytes[20..].iter_mut().for_each(|byte| *byte = random.next() as u8);
    if options > 0 && random.below(2) == 0 {
        let sack = random.odd().to_be_bytes();
        bytes[20..24].copy_from_slice(
            [[2, 4, 0, 1], [3, 3, 255, 0], [5, 10, 0, 0], sack][random.below(4)].as_slice(),
        );
    }
    bytes[..2].copy_from_slice(&(40000 + random.below(4) as u16).to_be_bytes());
    bytes[2..4].copy_from_slice(&80u16.to_be_bytes());
    bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    bytes[12] = ((20 + options) as u8 / 4) << 4;
    bytes[13] = [2, 16, 24, 17, 4, random.next() as u8][random.below(6)];
    bytes[14..16].copy_from_slice(&(random.odd() as u16).to_be_bytes());
    bytes
}

#[test]
fn noise_changes_nothing() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let mut random = Random(0x1234_5678_9abc_def1);
    for round in 0..50_000 {
        let mut frame: Vec<u8> = (0..random.below(120)).map(|_| random.next() as u8).collect();
        if round % 2 == 0 && frame.len() > 42 {
            let arp = random.below(2) as u8 * 6;
            frame[12..14].copy_from_slice(&[8, arp]);
            frame[14] = 0x45;
            let at = if arp == 0 { 30 } else { 38 };
            frame[at..at + 4].copy_from_slice(&DEFAULT_IPV4_ADDRESS.octets());
        }
        bench.stack.is_for_me(&frame);
        bench.stack.receive_at(&frame, bench.now);
        drain(&mut bench.stack, bench.now);
    }
    let metrics = bench.metrics();
    assert!(metrics.rx_bad_eth.get() > 0 && metrics.rx_accepted_err.get() > 0);
    assert!(metrics.rx_accepted_unusual.get() > 0);
    let handle = bench.connect();
    assert!(bench.talk(handle, GET_ID).ends_with("i-1"));
}

#[test]
fn segments_in_any_state_with_any_numbers_do_no_harm() {
    for seed in 1..=20 {
        let mut bench = Bench::new(MmdsVersion::V1);
        let mut random = Random(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
        let mut buffer = [0; 1514];
        // What the service said last: numbers near those get further than any others.
        let (mut theirs, mut ours) = (0u32, 0u32);
        for _ in 0..3000 {
            let near = random.below(20) as u32;
            let (sequence, acknowledgement) = match random.below(4) {
                0 => (random.odd(), random.odd()),
                1 => (ours.wrapping_add(near), theirs.wrapping_sub(near)),
                _ => (ours, theirs),
            };
            let mut bytes = segment(&mut random, sequence, acknowledgement);
            if random.below(3) == 0 {
                let head = usize::from(bytes[12] >> 4) * 4;
                bytes.truncate(head);
                bytes.extend_from_slice(b"GET /latest/big HTTP/1.1\r\n\r\n");
            }
            let source = [GUEST_IP, DEFAULT_IPV4_ADDRESS, Ipv4Addr::from_bits(random.odd())]
                [[0, 0, 0, 0, 1, 2][random.below(6)]];
            bench.stack.receive_at(&wrap(source, &bytes), bench.now);
            while let Some(len) = bench.stack.next_frame_at(&mut buffer, bench.now) {
                if buffer[12..14] == [8, 0] {
                    let segment = TcpPacket::new_checked(&buffer[34..len]).unwrap();
                    let length = segment.segment_len() as i32;
                    theirs = (segment.seq_number().0).wrapping_add(length) as u32;
                    ours = segment.ack_number().0 as u32;
                }
            }
            if random.below(50) == 0 {
                bench.now += Duration::from_millis(random.below(40_000) as u64);
                bench.stack.poll_at(bench.now);
                bench.stack.next_deadline_at(bench.now);
            }
        }
        assert!(bench.metrics().connections_created.get() > 0);
        assert!(bench.stack.connections.len() <= MAX_CONNECTIONS);
        bench.wait(Duration::from_secs(200));
        let handle = bench.connect();
        assert!(bench.talk(handle, GET_ID).ends_with("i-1"));
    }
}

/// A frame that asks for a connection from `port`.
fn syn(port: u16) -> Vec<u8> {
    let mut bytes = [0; 20];
    bytes[..2].copy_from_slice(&port.to_be_bytes());
    bytes[2..4].copy_from_slice(&80u16.to_be_bytes());
    (bytes[12], bytes[13]) = (0x50, 2);
    wrap(GUEST_IP, &bytes)
}

#[test]
fn guest_that_takes_no_frames_fills_a_bounded_queue() {
    let mut bench = Bench::new(MmdsVersion::V1);
    for port in 0..500 {
        bench.stack.receive_at(&syn(port), bench.now);
        assert_eq!(bench.stack.next_deadline_at(bench.now), None);
    }
    assert_eq!(bench.stack.sockets.iter().count(), MAX_CONNECTIONS);
    assert!(bench.metrics().tx_errors.get() > 400);
    assert!(drain(&mut bench.stack, bench.now) <= MAX_QUEUED_FRAMES);
}

#[test]
fn queue_that_was_full_is_filled_again_while_it_is_taken() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handles: Vec<_> = (0..MAX_CONNECTIONS).map(|_| bench.connect()).collect();
    for handle in handles {
        bench.send(handle, "GET /latest/big HTTP/1.1\r\n\r\n");
    }
    bench.guest.poll(bench.now);
    while let Some(frame) = bench.guest.wire.from_guest.0.pop_front() {
        bench.stack.receive_at(&frame, bench.now);
    }
    assert!(drain(&mut bench.stack, bench.now) > 2 * MAX_QUEUED_FRAMES);
}

#[test]
fn call_repeated_by_a_known_connection_ends_no_other() {
    let mut bench = Bench::new(MmdsVersion::V1);
    for port in 1..=MAX_CONNECTIONS as u16 {
        bench.stack.receive_at(&syn(port), bench.now);
    }
    bench.now += EVICTABLE_AFTER;
    bench.stack.receive_at(&syn(7), bench.now);
    assert_eq!(bench.metrics().connections_destroyed.get(), 0);
    bench.stack.receive_at(&syn(1000), bench.now);
    assert_eq!(bench.metrics().connections_destroyed.get(), 1);
}

#[test]
fn fragments_and_other_protocols_are_swallowed() {
    let mut bench = Bench::new(MmdsVersion::V1);
    for (flags, protocol) in [(0x2000u16, 6), (1, 6), (0, 1), (0, 17), (0, 47)] {
        let mut frame = wrap(GUEST_IP, &[0; 40]);
        frame[20..22].copy_from_slice(&flags.to_be_bytes());
        frame[23] = protocol;
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
        assert!(bench.stack.is_for_me(&frame));
        bench.stack.receive_at(&frame, bench.now);
    }
    assert_eq!(bench.metrics().rx_accepted_unusual.get(), 5);
    assert!(!bench.stack.has_frames());
}

#[test]
fn request_that_never_ends_holds_a_bounded_buffer() {
    let mut bench = Bench::new(MmdsVersion::V1);
    let handle = bench.connect();
    for _ in 0..10 {
        bench.send(handle, &"G".repeat(6000));
        bench.run();
    }
    assert_eq!(answers(&bench.guest.read(handle), 431), 1);
}
