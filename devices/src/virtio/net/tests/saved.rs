//! A card that is paused, saved, and made anew.

use serde_json::json;

use super::*;
use crate::rate_limiter::TokenBucketConfig;

const FEATURES: [u32; 6] = [
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
];

impl Card {
    /// Takes over the memory and the queues of `old`, as a restored card does.
    fn restored(old: Self) -> Self {
        let state = old.net.save().unwrap();
        let Self { net, memory, queues, hosts, features } = old;
        drop((net, hosts));
        let mut new = Self { memory, queues, ..Self::new(config(2), 16, features) };
        new.net.restore(state).unwrap();
        let queues = new.queues.iter().enumerate();
        let activation = Activation {
            memory: new.memory.clone(),
            features: new.features,
            queues: queues.map(|(index, queue)| queue.restored_queue(index as u16)).collect(),
            notifier: new.queues[0].notifier(),
        };
        new.net.activate(activation).unwrap();
        new
    }
}

fn command(card: &mut Card, command: &[u8]) {
    card.memory.write_slice(command, GuestAddress(BUFFERS)).unwrap();
    card.queues[4].add_chain(&[
        Buffer::readable(BUFFERS, command.len() as u32),
        Buffer::writable(BUFFERS + 0x100, 1),
    ]);
    card.kick(4);
    card.used(4, 1);
    assert_eq!(card.read(BUFFERS + 0x100, 1), [0]);
}

#[test]
fn drivers_choices_are_made_again_on_the_new_host_side() {
    let mut card = Card::new(config(2), 16, bits(&FEATURES));
    card.activate();
    command(&mut card, &[4, 0, 2, 0]);
    let offloads = bits(&[VIRTIO_NET_F_GUEST_CSUM]).to_le_bytes();
    command(&mut card, &[&[5, 0][..], &offloads].concat());
    card.net.pause();
    let mut card = Card::restored(card);
    let wanted = Offloads { checksum: true, ..Features(0).receive_offloads() };
    assert_eq!(card.hosts[0].calls.offloads.lock().unwrap().last(), Some(&wanted));
    assert_eq!(card.hosts[1].calls.enabled.lock().unwrap().last(), Some(&true));
    card.queues[2].add_chain(&[Buffer::writable(BUFFERS, 2048)]);
    card.kick(2);
    card.hosts[1].send(&frame(1, 100));
    assert_eq!(card.used(2, 1), [(0, 112)]);

    card.net.reset();
    card.net
        .activate(Activation {
            memory: card.memory.clone(),
            features: 0,
            queues: [0, 1].map(|index| card.queues[usize::from(index)].device_queue(index)).into(),
            notifier: card.queues[0].notifier(),
        })
        .unwrap();
    assert_eq!(card.hosts[1].calls.enabled.lock().unwrap().last(), Some(&false), "a new driver");
}

#[test]
fn driver_that_was_not_ready_when_it_was_saved_starts_as_any_other() {
    let mut card = Card::new(config(2), 16, bits(&FEATURES));
    card.activate();
    command(&mut card, &[4, 0, 2, 0]);
    card.net.reset();
    let saved = card.net.save().unwrap();
    let mut card = Card::new(config(2), 16, bits(&FEATURES));
    card.net.restore(saved).unwrap();
    card.activate();
    let wanted = Features(bits(&FEATURES)).receive_offloads();
    assert_eq!(*card.hosts[0].calls.offloads.lock().unwrap(), [wanted]);
    assert_eq!(*card.hosts[1].calls.enabled.lock().unwrap(), [false]);
}

#[test]
fn buffers_that_wait_for_a_frame_are_taken_again_and_used_once() {
    let mut card = Card::new(config(2), 16, bits(&[VIRTIO_NET_F_MRG_RXBUF]));
    card.activate();
    for number in 0..6 {
        card.queues[0].add_chain(&[Buffer::writable(BUFFERS + number * 0x1000, 2048)]);
    }
    card.kick(0);
    card.hosts[0].send(&frame(1, 100));
    let mut used = card.used(0, 1);
    card.net.pause();
    let cursor = card.queues[0].cursor();
    assert_eq!((cursor.next_available(), cursor.next_used()), (1, 1), "the next is held only");
    card.hosts[0].send(&frame(2, 100));
    assert_eq!(card.queues[0].used(), [], "delivered while paused");
    card.net.resume();
    used.extend(card.used(0, 1));
    card.net.pause();
    let mut card = Card::restored(card);
    for seed in 3..7 {
        card.hosts[0].send(&frame(seed, 100));
    }
    used.extend(card.used(0, 4));
    assert_eq!(used, [0, 1, 2, 3, 4, 5].map(|head| (head, 112)));
    for number in 0..6 {
        let sent = frame(number as u8 + 1, 100);
        assert_eq!(card.read(BUFFERS + number * 0x1000 + 12, 100), sent[12..]);
    }
}

#[test]
fn frames_and_kicks_that_come_while_paused_are_served_afterwards() {
    let mut card = Card::active(16);
    card.net.pause();
    for _ in 0..3 {
        card.memory.write_slice(&frame(9, 60), GuestAddress(BUFFERS)).unwrap();
        card.queues[1].add_chain(&[Buffer::readable(BUFFERS, 72)]);
    }
    card.queues[1].kick();
    assert_eq!(card.queues[1].used(), []);
    assert!(card.hosts[0].try_receive().is_none());
    card.net.resume();
    card.used(1, 3);
    for _ in 0..3 {
        assert_eq!(card.hosts[0].receive(), frame(9, 60));
    }
}

#[test]
fn clones_card_has_an_address_of_its_own() {
    let mut card = Card::active(16);
    card.net.pause();
    let state = card.net.save().unwrap();
    let mac = [2, 0, 0, 0, 0, 9];
    let mut clone = Card::new(NetConfig { mac, ..config(2) }, 16, bits(&FEATURES));
    clone.net.restore(state).unwrap();
    let mut read = [0; 6];
    clone.net.read_config(0, &mut read);
    assert_eq!(read, mac);
}

#[test]
fn hostile_state_is_refused_or_brought_in_line() {
    let mac = json!([2, 0, 0, 0, 0, 1]);
    let restore = |state| {
        let mut card = Card::new(config(2), 16, bits(&FEATURES));
        card.net.restore(state).map(|()| card)
    };
    for refused in [
        json!(null),
        json!({}),
        json!({ "mac": [2, 0, 0, 0, 0] }),
        json!({ "mac": mac, "choices": { "pairs": 3 } }),
        json!({ "mac": mac, "choices": { "pairs": 65536 } }),
    ] {
        assert!(restore(refused.clone()).is_err(), "{refused}");
    }
    let state = json!({ "mac": mac, "choices": { "pairs": 0, "offloads": u64::MAX } });
    let mut card = restore(state).unwrap();
    card.activate();
    let wanted = Features(bits(&FEATURES)).receive_offloads();
    assert_eq!(*card.hosts[0].calls.offloads.lock().unwrap(), [wanted]);
    assert_eq!(*card.hosts[0].calls.enabled.lock().unwrap(), [true]);
    assert_eq!(*card.hosts[1].calls.enabled.lock().unwrap(), [false]);
}

#[test]
fn limits_change_while_the_card_works() {
    let mut card = Card::active(16);
    let ops = |size| {
        let bucket = TokenBucketConfig { size, one_time_burst: 0, refill_time_ms: 1 << 40 };
        RateLimiterConfig { bandwidth: None, ops: Some(bucket) }
    };
    let control = card.net.control();
    control.update_tx_limit(&ops(1));
    for _ in 0..3 {
        card.queues[1].add_chain(&[Buffer::readable(BUFFERS, 72)]);
    }
    card.queues[1].kick();
    card.used(1, 1);
    wait_until(|| card.net.metrics().rate_limited.get() > 0);
    control.update_tx_limit(&ops(0));
    card.used(1, 2);
}
