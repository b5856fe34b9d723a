use super::*;
use crate::rate_limiter::TokenBucketConfig;

/// Posts `count` receive buffers of `len` bytes one after the other, from the `first`.
fn post(card: &mut Card, first: u64, count: u64, len: u32) {
    for index in first..first + count {
        card.queues[0].add_chain(&[Buffer::writable(BUFFERS + index * u64::from(len), len)]);
    }
    card.kick(0);
}

#[test]
fn frame_that_fits_takes_one_buffer() {
    let mut card = Card::active(16);
    post(&mut card, 0, 4, 2048);
    let mut sent = frame(7, 1000);
    sent[..10].copy_from_slice(&[1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0]);
    card.hosts[0].send(&sent);
    assert_eq!(card.used(0, 1), [(0, 1012)]);
    sent[10] = 1;
    assert_eq!(card.read(BUFFERS, 1012), sent);
    assert_eq!(card.net.metrics().rx_bytes.get(), 1000);
}

#[test]
fn large_frame_spreads_over_as_many_buffers_as_it_says() {
    let mut card = Card::active(64);
    post(&mut card, 0, 64, 1536);
    let mut sent = frame(3, MAX_FRAME_SIZE);
    card.hosts[0].send(&sent);
    let used = card.used(0, 43);
    assert!(used[..42].iter().all(|&(_, len)| len == 1536));
    assert_eq!(used[42].1 as usize, sent.len() - 42 * 1536);
    sent[10] = 43;
    assert!(card.read(BUFFERS, sent.len()) == sent);
}

#[test]
fn header_may_lie_across_descriptors() {
    let mut card = Card::active(16);
    let buffers = [11, 1, 100].map(|len| Buffer::writable(BUFFERS + u64::from(len) * 0x100, len));
    card.queues[0].add_chain(&buffers);
    card.kick(0);
    let sent = frame(3, 50);
    card.hosts[0].send(&sent);
    card.used(0, 1);
    assert_eq!((card.read(BUFFERS + 0xb0a, 1), card.read(BUFFERS + 0x100, 1)), (vec![1], vec![0]));
    assert_eq!(card.read(BUFFERS + 0x6400, 50), sent[12..]);
}

#[test]
fn without_merging_a_frame_too_large_for_its_buffer_is_dropped_alone() {
    let mut card = Card::new(config(1), 16, 0);
    card.activate();
    post(&mut card, 0, 2, 2048);
    card.hosts[0].send(&frame(1, 3000));
    card.hosts[0].send(&frame(2, 1000));
    assert_eq!(card.used(0, 1), [(0, 1012)]);
    assert_eq!(card.read(BUFFERS + 10, 2), [1, 0], "num_buffers");
    assert_eq!(card.net.metrics().rx_dropped.get(), 1);
}

#[test]
fn receiving_goes_on_after_host_and_ring_were_both_full() {
    let mut card = Card::active(8);
    let (mut sent, mut received) = (0u64, 0);
    for _ in 0..3 {
        while card.hosts[0].try_send(&frame(sent as u8, 1000)) {
            sent += 1;
        }
        // Nobody takes frames now: the ring is empty and the host's queue is full.
        while received < sent {
            let count = (sent - received).min(8);
            post(&mut card, 0, count, 2048);
            for (index, (_, len)) in card.used(0, count as usize).into_iter().enumerate() {
                assert_eq!(len, 1012);
                let body = card.read(BUFFERS + index as u64 * 2048 + 12, 1000);
                assert!(body == frame(received as u8, 1000)[12..]);
                received += 1;
            }
        }
    }
    assert!(sent > 24, "the ring has to run out several times");
    assert_eq!(card.net.metrics().rx_frames.get(), sent);
}

#[test]
fn frame_waits_for_the_buffers_it_lacks() {
    let mut card = Card::active(64);
    post(&mut card, 0, 10, 1024);
    card.hosts[0].send(&frame(1, 100));
    let mut large = frame(9, 20_000);
    card.hosts[0].send(&large);
    assert_eq!(card.used(0, 1), [(0, 112)]);
    // Too few still, then enough.
    post(&mut card, 10, 5, 1024);
    post(&mut card, 15, 10, 1024);
    let used = card.used(0, 20);
    assert_eq!(used[0], (1, 1024));
    large[10] = 20;
    assert!(card.read(BUFFERS + 1024, large.len()) == large);
}

#[test]
fn frame_larger_than_a_ring_of_small_buffers_is_dropped_and_the_next_arrives() {
    let mut card = Card::active(4);
    post(&mut card, 0, 4, 512);
    card.hosts[0].send(&frame(1, 30_000));
    card.hosts[0].send(&frame(2, 100));
    assert_eq!(card.used(0, 1), [(0, 112)]);
    assert_eq!(card.net.metrics().rx_dropped.get(), 1);
}

#[test]
fn frame_over_more_descriptors_than_one_read_takes_arrives_whole() {
    let mut card = Card::active(512);
    // Indirect tables aren't needed for it: 512 descriptors of 4 bytes and a large one behind.
    for index in 0..511 {
        card.queues[0].write_descriptor(index, BUFFERS + u64::from(index) * 4, 4, 3, index + 1);
    }
    card.queues[0].write_descriptor(511, BUFFERS + 511 * 4, 4096, 2, 0);
    card.queues[0].make_available(0);
    card.kick(0);
    let sent = frame(5, 5000);
    card.hosts[0].send(&sent);
    assert_eq!(card.used(0, 1), [(0, 5012)]);
    assert!(card.read(BUFFERS + 12, 5000) == sent[12..]);
}

#[test]
fn runt_is_dropped() {
    let mut card = Card::active(16);
    post(&mut card, 0, 4, 2048);
    card.hosts[0].send(&[0; 12]);
    card.hosts[0].send(&[0; 3]);
    card.hosts[0].send(&frame(1, 60));
    assert_eq!(card.used(0, 1), [(0, 72)]);
    assert_eq!(card.net.metrics().rx_dropped.get(), 2);
}

#[test]
fn receive_buffers_against_the_rules_come_back_empty_and_harm_no_other() {
    let mut card = Card::active(16);
    let bad: [&[Buffer]; 5] = [
        &[Buffer::readable(BUFFERS, 2048)],
        &[Buffer::writable(BUFFERS, 11)],
        &[Buffer::writable(u64::MAX - 100, 2048)],
        &[Buffer::writable(BUFFERS, 64), Buffer::writable(0x4000_0000, 2048)],
        &[Buffer::writable(BUFFERS, 0)],
    ];
    for chain in bad {
        card.queues[0].add_chain(chain);
    }
    let looped = card.queues[0].add_chain(&[Buffer::writable(BUFFERS, 2048)]);
    card.queues[0].link(looped, looped);
    post(&mut card, 4, 1, 2048);
    card.hosts[0].send(&frame(1, 100));
    let used = card.used(0, 7);
    assert!(used[..6].iter().all(|&(_, len)| len == 0), "{used:?}");
    assert_eq!(used[6].1, 112);
    assert_eq!(card.net.metrics().rx_bad_buffers.get(), 6);
}

#[test]
fn rate_limit_delays_frames_and_loses_none() {
    let ops = Some(TokenBucketConfig { size: 1, one_time_burst: 0, refill_time_ms: 5 });
    let rx_limit = RateLimiterConfig { bandwidth: None, ops };
    let mut card =
        Card::new(NetConfig { rx_limit, ..config(1) }, 16, bits(&[VIRTIO_NET_F_MRG_RXBUF]));
    card.activate();
    post(&mut card, 0, 16, 2048);
    let start = Instant::now();
    for seed in 0..8 {
        card.hosts[0].send(&frame(seed, 100));
    }
    card.used(0, 8);
    // The first is free until the second comes, and the bucket starts full.
    assert!(start.elapsed() >= Duration::from_millis(25), "{:?}", start.elapsed());
    assert!(card.net.metrics().rate_limited.get() > 0);
}

#[test]
fn driver_hears_of_a_burst_a_few_times_only() {
    let mut card = Card::active(256);
    // All of them wait when the first buffer comes.
    for seed in 0..64 {
        card.hosts[0].send(&frame(seed, 100));
    }
    post(&mut card, 0, 64, 2048);
    card.used(0, 64);
    wait_until(|| card.queues[0].interrupts() > 0);
    assert!(card.queues[0].interrupts() <= 8, "{}", card.queues[0].interrupts());
}
