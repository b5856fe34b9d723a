use super::*;
use crate::rate_limiter::TokenBucketConfig;

/// Puts `frame` at `address` and sends it in one descriptor.
fn send(card: &mut Card, address: u64, frame: &[u8]) {
    card.memory.write_slice(frame, GuestAddress(address)).unwrap();
    card.queues[1].add_chain(&[Buffer::readable(address, frame.len() as u32)]);
    card.kick(1);
}

#[test]
fn frame_goes_out_behind_its_header_however_it_is_cut() {
    let mut card = Card::active(16);
    let sent = frame(1, 1500);
    card.memory.write_slice(&sent, GuestAddress(BUFFERS)).unwrap();
    for cuts in [vec![1512], vec![12, 1500], vec![5, 7, 1500], vec![5, 20, 1487], vec![13, 1499]] {
        let mut at = BUFFERS;
        let buffers: Vec<_> = cuts
            .iter()
            .map(|&len| {
                at += u64::from(len);
                Buffer::readable(at - u64::from(len), len)
            })
            .collect();
        card.queues[1].add_chain(&buffers);
        card.kick(1);
        assert!(card.hosts[0].receive() == sent, "{cuts:?}");
        assert_eq!(card.used(1, 1)[0].1, 0);
    }
    assert_eq!(card.net.metrics().tx_bytes.get(), 5 * 1500);
}

#[test]
fn largest_frame_goes_out_and_one_byte_more_is_dropped() {
    let mut card = Card::active(16);
    send(&mut card, BUFFERS, &frame(1, MAX_FRAME_SIZE + 1));
    send(&mut card, BUFFERS, &frame(2, MAX_FRAME_SIZE));
    assert!(card.hosts[0].receive() == frame(2, MAX_FRAME_SIZE));
    assert_eq!(card.net.metrics().tx_malformed.get(), 1);
}

#[test]
fn frames_against_the_rules_are_dropped_alone() {
    let mut card = Card::active(16);
    card.memory.write_slice(&frame(1, 100), GuestAddress(BUFFERS)).unwrap();
    let mut gso = frame(1, 100);
    gso[1] = 1;
    card.memory.write_slice(&gso, GuestAddress(BUFFERS + 0x1000)).unwrap();
    let bad: [&[Buffer]; 7] = [
        &[Buffer::readable(BUFFERS, 11)],
        &[Buffer::readable(BUFFERS, 12)],
        &[Buffer::readable(BUFFERS, 0)],
        &[Buffer::readable(BUFFERS, 112), Buffer::writable(BUFFERS, 112)],
        &[Buffer::readable(BUFFERS, 12), Buffer::readable(0x4000_0000, 100)],
        &[Buffer::readable(BUFFERS, 12), Buffer::readable(BUFFERS, u32::MAX)],
        &[Buffer::readable(BUFFERS + 0x1000, 112)],
    ];
    for chain in bad {
        card.queues[1].add_chain(chain);
    }
    let looped = card.queues[1].add_chain(&[Buffer::readable(BUFFERS, 112)]);
    card.queues[1].link(looped, looped);
    send(&mut card, BUFFERS, &frame(2, 100));
    assert_eq!(card.hosts[0].receive(), frame(2, 100));
    card.used(1, 9);
    assert_eq!(card.net.metrics().tx_malformed.get(), 8);
    assert!(!card.queues[0].needs_reset());
}

#[test]
fn segmentation_header_reaches_the_host_when_negotiated() {
    let features = bits(&[VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4]);
    let mut card = Card::new(config(1), 16, features);
    card.activate();
    let mut sent = frame(1, 9000);
    sent[..12].copy_from_slice(&[1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 9, 9]);
    send(&mut card, BUFFERS, &sent);
    sent[10..12].fill(0);
    assert!(card.hosts[0].receive() == sent);
}

#[test]
fn sending_goes_on_when_a_full_host_has_room_again() {
    let mut card = Card::active(256);
    let chains = 200;
    for seed in 0..chains {
        let address = BUFFERS + u64::from(seed) * 0x4000;
        card.memory.write_slice(&frame(seed, 0x3000), GuestAddress(address)).unwrap();
        card.queues[1].add_chain(&[Buffer::readable(address, 0x300c)]);
    }
    card.kick(1);
    // More than a socket buffer takes: the device is stopped somewhere in the middle.
    for seed in 0..chains {
        assert!(card.hosts[0].receive() == frame(seed, 0x3000), "{seed}");
    }
    card.used(1, chains.into());
}

#[test]
fn rate_limit_delays_frames_and_loses_none() {
    let bytes = Some(TokenBucketConfig { size: 112, one_time_burst: 0, refill_time_ms: 5 });
    let tx_limit = RateLimiterConfig { bandwidth: bytes, ops: None };
    let mut card = Card::new(NetConfig { tx_limit, ..config(1) }, 16, 0);
    card.activate();
    let start = Instant::now();
    for seed in 0..6 {
        send(&mut card, BUFFERS + u64::from(seed) * 0x1000, &frame(seed, 100));
    }
    for seed in 0..6 {
        assert_eq!(card.hosts[0].receive(), frame(seed, 100));
    }
    assert!(start.elapsed() >= Duration::from_millis(20), "{:?}", start.elapsed());
    assert!(card.net.metrics().rate_limited.get() > 0);
}
