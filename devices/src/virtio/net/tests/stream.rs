//! The card over a stream socket, whose other side is as nasty as it likes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustix::net::sockopt::set_socket_send_buffer_size;

use super::*;

/// An active card of one pair, and the other side of its socket.
fn card() -> (Card, UnixStream) {
    card_of(64)
}

fn card_of(queue_size: u16) -> (Card, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    // The kernel's least: large frames don't go out in one piece.
    set_socket_send_buffer_size(&theirs, 1).unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let backend = StreamBackend::over(theirs).unwrap();
    let net = Net::new(config(1), vec![Box::new(backend)]).unwrap();
    let mut card = Card::of(net, Vec::new(), queue_size, bits(&[VIRTIO_NET_F_MRG_RXBUF]));
    card.activate();
    (card, ours)
}

/// Posts receive buffers of 2 KiB, one after the other.
fn post(card: &mut Card, count: u64) {
    for index in 0..count {
        card.queues[0].add_chain(&[Buffer::writable(BUFFERS + index * 2048, 2048)]);
    }
    card.kick(0);
}

/// A frame of `len` bytes, and how it goes over the socket.
fn prefixed(seed: u8, len: usize) -> (Vec<u8>, Vec<u8>) {
    let frame = frame(seed, len)[12..].to_vec();
    let prefix = u32::try_from(len).unwrap().to_be_bytes();
    let sent = prefix.iter().chain(&frame).copied().collect();
    (frame, sent)
}

fn read_frame(mut socket: &UnixStream) -> Vec<u8> {
    let mut prefix = [0; 4];
    socket.read_exact(&mut prefix).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
    socket.read_exact(&mut frame).unwrap();
    frame
}

/// Waits until the card says that its cable is out.
fn assert_link_goes_down(card: &Card) {
    wait_until(|| card.queues[0].config_interrupts() > 0);
    let mut status = [0xff; 2];
    card.net.read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
}

#[test]
fn nothing_may_be_left_undone_in_frames() {
    let (card, _socket) = card();
    let offloads = [
        VIRTIO_NET_F_CSUM,
        VIRTIO_NET_F_GUEST_CSUM,
        VIRTIO_NET_F_HOST_TSO4,
        VIRTIO_NET_F_GUEST_TSO4,
        VIRTIO_NET_F_HOST_USO,
        VIRTIO_NET_F_GUEST_USO6,
    ];
    assert_eq!(card.net.offered_features() & bits(&offloads), 0);
}

#[test]
fn frames_arrive_whole_however_they_are_cut() {
    let (mut card, mut socket) = card();
    post(&mut card, 8);
    let (first, one) = prefixed(1, 60);
    let (second, two) = prefixed(2, 1514);
    let (third, three) = prefixed(3, 3000);
    let all = [one, two, three].concat();
    // Inside of prefixes and of frames, and across both.
    let mut at = 0;
    for end in [1, 4, 5, 63, 66, 1000, 1582, 1583, all.len()] {
        socket.write_all(&all[at..end]).unwrap();
        at = end;
    }
    let used = card.used(0, 4);
    let lens: Vec<_> = used.iter().map(|(_, len)| *len).collect();
    assert_eq!(lens, [72, 1526, 2048, 3012 - 2048]);
    assert_eq!(card.read(BUFFERS, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(card.read(BUFFERS + 12, 60), first);
    assert_eq!(card.read(BUFFERS + 2048 + 12, 1514), second);
    assert_eq!(card.read(BUFFERS + 4096 + 12, 3000), third);
}

#[test]
fn many_frames_in_one_read_all_arrive() {
    let (mut card, mut socket) = card_of(256);
    // More than one turn's worth: after the first read, nothing makes the socket readable again.
    let (_, sent) = prefixed(9, 20);
    socket.write_all(&sent.repeat(3 * BUDGET)).unwrap();
    for _ in 0..3 {
        post(&mut card, BUDGET as u64);
        card.used(0, BUDGET);
    }
    assert_eq!(card.net.metrics().rx_frames.get(), 3 * BUDGET as u64);
}

#[test]
fn frames_wait_in_the_socket_while_the_driver_has_no_buffers() {
    let (mut card, mut socket) = card();
    let (_, sent) = prefixed(1, 1000);
    socket.set_nonblocking(true).unwrap();
    let mut written = 0;
    while let Ok(len) = socket.write(&sent[written % sent.len()..]) {
        written += len;
        assert!(written < 16 << 20, "the card takes all that it gets");
    }
    post(&mut card, 1);
    assert_eq!(card.used(0, 1), [(0, 1012)]);
}

#[test]
fn sent_frames_lose_their_headers() {
    let (mut card, socket) = card();
    let sent = frame(5, 1514);
    card.memory.write_slice(&sent, GuestAddress(BUFFERS)).unwrap();
    card.queues[1]
        .add_chain(&[Buffer::readable(BUFFERS, 10), Buffer::readable(BUFFERS + 10, 1516)]);
    card.kick(1);
    assert_eq!(read_frame(&socket), sent[12..]);
    card.used(1, 1);
}

#[test]
fn large_frames_go_out_in_pieces_and_in_order() {
    let (mut card, socket) = card();
    let frames: Vec<_> = (0..8).map(|seed| frame(seed, MAX_FRAME_SIZE)).collect();
    for (index, frame) in frames.iter().enumerate() {
        let at = BUFFERS + index as u64 * 0x2_0000;
        card.memory.write_slice(frame, GuestAddress(at)).unwrap();
        card.queues[1].add_chain(&[Buffer::readable(at, frame.len() as u32)]);
    }
    card.kick(1);
    for frame in &frames {
        assert!(read_frame(&socket) == frame[12..]);
    }
    card.used(1, 8);
    assert_eq!(card.net.metrics().tx_dropped.get(), 0);
}

#[test]
fn lengths_that_no_frame_has_take_the_link_down() {
    for len in [0, 1, 13, MAX_FRAME_SIZE as u32 + 1, u32::MAX] {
        let (mut card, mut socket) = card();
        post(&mut card, 4);
        socket.write_all(&len.to_be_bytes()).unwrap();
        socket.write_all(&[0; 64]).unwrap();
        assert_link_goes_down(&card);
        assert_eq!(card.net.metrics().rx_frames.get(), 0, "{len}");
    }
}

#[test]
fn end_in_the_middle_of_a_frame_takes_the_link_down() {
    for len in [0, 3, 4, 50] {
        let (mut card, mut socket) = card();
        post(&mut card, 4);
        let (_, sent) = prefixed(1, 100);
        socket.write_all(&sent[..len]).unwrap();
        drop(socket);
        assert_link_goes_down(&card);
        // Sending goes on, to nowhere.
        card.queues[1].add_chain(&[Buffer::readable(BUFFERS, 100)]);
        card.kick(1);
        card.used(1, 1);
        assert_eq!(card.net.metrics().rx_frames.get(), 0, "{len}");
    }
}

#[test]
fn largest_frame_arrives() {
    let (mut card, mut socket) = card();
    post(&mut card, 40);
    let (frame, sent) = prefixed(4, MAX_FRAME_SIZE);
    let writer = std::thread::spawn(move || socket.write_all(&sent).map(|()| socket));
    let used = card.used(0, 33);
    assert_eq!(used.iter().map(|(_, len)| *len as usize).sum::<usize>(), frame.len() + 12);
    assert!(card.read(BUFFERS + 12, frame.len()) == frame);
    writer.join().unwrap().unwrap();
}

#[test]
fn restored_card_goes_on_over_a_new_connection() {
    let (mut old, mut socket) = card();
    post(&mut old, 4);
    // Half of a frame is lost with the connection that it came over.
    let (_, sent) = prefixed(1, 100);
    socket.write_all(&sent[..50]).unwrap();
    let state = old.net.save().unwrap();
    drop(old);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let backend = StreamBackend::over(theirs).unwrap();
    let mut net = Net::new(config(1), vec![Box::new(backend)]).unwrap();
    net.restore(state).unwrap();
    let mut card = Card::of(net, Vec::new(), 64, bits(&[VIRTIO_NET_F_MRG_RXBUF]));
    card.activate();
    post(&mut card, 4);
    let mut socket = ours;
    let (frame, sent) = prefixed(2, 60);
    socket.write_all(&sent).unwrap();
    assert_eq!(card.used(0, 1), [(0, 72)]);
    assert_eq!(card.read(BUFFERS + 12, 60), frame);
}
