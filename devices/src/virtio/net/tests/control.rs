use super::*;

const RESULT: u64 = BUFFERS + 0x1000;

fn card(pairs: u16, more: &[u32]) -> Card {
    let features = bits(&[VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_CTRL_VQ]) | bits(more);
    let mut card = Card::new(config(pairs), 16, features);
    card.activate();
    card
}

/// Sends a command on control queue `index`; returns the result's byte.
fn command(card: &mut Card, index: usize, command: &[u8]) -> u8 {
    card.memory.write_slice(command, GuestAddress(BUFFERS)).unwrap();
    card.memory.write_slice(&[0xee], GuestAddress(RESULT)).unwrap();
    let len = command.len() as u32;
    card.queues[index].add_chain(&[
        Buffer::readable(BUFFERS, len.min(2)),
        Buffer::readable(BUFFERS + 2, len.saturating_sub(2)),
        Buffer::writable(RESULT, 1),
    ]);
    card.kick(index);
    assert_eq!(card.used(index, 1)[0].1, 1);
    card.read(RESULT, 1)[0]
}

fn offloads_command(features: &[u32]) -> Vec<u8> {
    [5, 0].into_iter().chain(bits(features).to_le_bytes()).collect()
}

#[test]
fn pairs_come_into_use_when_asked_for() {
    let mut card = card(2, &[VIRTIO_NET_F_MQ]);
    card.queues[2].add_chain(&[Buffer::writable(BUFFERS + 0x2000, 2048)]);
    card.kick(2);
    card.hosts[1].send(&frame(1, 100));
    assert_eq!(command(&mut card, 4, &[4, 0, 2, 0]), 0);
    assert_eq!(card.used(2, 1), [(0, 112)]);
    assert_eq!(*card.hosts[1].calls.enabled.lock().unwrap(), [false, true]);

    // Nothing comes once the driver knows that the pair is out of use.
    assert_eq!(command(&mut card, 4, &[4, 0, 1, 0]), 0);
    card.queues[2].add_chain(&[Buffer::writable(BUFFERS + 0x2000, 2048)]);
    card.kick(2);
    card.hosts[1].send(&frame(2, 100));
    card.queues[0].add_chain(&[Buffer::writable(BUFFERS + 0x3000, 2048)]);
    card.kick(0);
    card.hosts[0].send(&frame(3, 100));
    card.used(0, 1);
    assert_eq!(card.queues[2].used(), []);
}

#[test]
fn impossible_numbers_of_pairs_are_refused() {
    let mut card = card(2, &[VIRTIO_NET_F_MQ]);
    for data in [&[0, 0][..], &[3, 0], &[0xff, 0xff], &[1], &[1, 0, 0], &[]] {
        let bytes: Vec<u8> = [4, 0].iter().chain(data).copied().collect();
        assert_eq!(command(&mut card, 4, &bytes), 1, "{data:?}");
    }
}

#[test]
fn control_queue_comes_third_without_multi_queue_and_knows_no_pairs() {
    let mut card = card(2, &[]);
    assert_eq!(command(&mut card, 2, &[4, 0, 1, 0]), 1);
}

#[test]
fn offloads_follow_the_driver_within_what_was_negotiated() {
    let negotiated = [
        VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
        VIRTIO_NET_F_GUEST_CSUM,
        VIRTIO_NET_F_GUEST_TSO4,
        VIRTIO_NET_F_GUEST_ECN,
    ];
    let mut card = card(1, &negotiated);
    let csum = offloads_command(&[VIRTIO_NET_F_GUEST_CSUM]);
    assert_eq!(command(&mut card, 2, &csum), 0);
    assert_eq!(command(&mut card, 2, &offloads_command(&[])), 0);
    assert_eq!(command(&mut card, 2, &offloads_command(&[VIRTIO_NET_F_GUEST_TSO6])), 1);
    assert_eq!(command(&mut card, 2, &offloads_command(&[VIRTIO_NET_F_MRG_RXBUF])), 1);
    assert_eq!(command(&mut card, 2, &csum[..9]), 1);
    let checksum = Offloads { checksum: true, ..Offloads::default() };
    let all = Offloads { tso4: true, ecn: true, ..checksum };
    assert_eq!(*card.hosts[0].calls.offloads.lock().unwrap(), [all, checksum, Offloads::default()]);
}

#[test]
fn commands_against_the_rules_come_back_and_harm_no_other() {
    let mut card = card(1, &[VIRTIO_NET_F_CTRL_GUEST_OFFLOADS]);
    for bytes in [&[][..], &[5], &[0, 0, 1], &[1, 1, 0, 0, 0, 0, 0, 0], &[0xff; 100]] {
        assert_eq!(command(&mut card, 2, bytes), 1, "{bytes:?}");
    }
    // No room for a result; a result outside memory.
    card.queues[2].add_chain(&[Buffer::readable(BUFFERS, 10)]);
    card.queues[2].add_chain(&[Buffer::readable(BUFFERS, 10), Buffer::writable(1 << 40, 1)]);
    card.kick(2);
    assert!(card.used(2, 2).iter().all(|&(_, len)| len == 0));
    assert_eq!(command(&mut card, 2, &offloads_command(&[])), 0);
}
