use super::*;
use crate::memory::testing::{taken, tracked_memory};

use std::os::unix::net::UnixDatagram;
use std::thread;

use rustix::thread::UnshareFlags;
use vm_memory::Bytes;

fn ram() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), 0x10000), (GuestAddress(0x10000), 0x10000)]).unwrap()
}

fn error(name: &str, queues: u16) -> TapError {
    Tap::open(name, queues).unwrap_err()
}

#[test]
fn names_that_linux_refuses_are_refused_before_it_is_asked() {
    for name in ["", ".", "..", "a/b", "a b", "tap%d", "eth0:1", "sixteen-bytes-xx", "a\n"] {
        assert!(matches!(error(name, 1), TapError::InvalidName { .. }), "{name:?}");
    }
}

#[test]
fn absent_tap_is_an_error_and_isnt_created() {
    for _ in 0..2 {
        assert!(matches!(error("vmctl-no-tap", 1), TapError::Absent { .. }));
    }
}

#[test]
fn loopback_isnt_a_tap_with_a_possible_number_of_queues() {
    assert!(matches!(error("lo", 0), TapError::InvalidQueues { .. }));
    assert!(matches!(error("lo", 257), TapError::InvalidQueues { .. }));
}

#[test]
fn segmentation_is_asked_for_only_with_checksums() {
    let tso = Offloads { tso4: true, ecn: true, ..Offloads::default() };
    assert_eq!(tso.flags(), 0);
    let ecn = Offloads { checksum: true, ecn: true, ..Offloads::default() };
    assert_eq!(ecn.flags(), libc::TUN_F_CSUM);
}

#[test]
fn frame_goes_across_regions_and_spills_where_the_buffers_end() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let mut vectors = GuestVectors::new(ram());
    vectors.push(GuestAddress(0xfffe), 4).unwrap();
    vectors.push(GuestAddress(0x100), 2).unwrap();
    assert_eq!(vectors.len(), 3);
    theirs.send(b"abcdefgh").unwrap();
    let mut spill = [0; 16];
    let received = vectors.read_frame(ours.as_fd(), 3, &mut spill).unwrap();
    assert_eq!(received, Received { len: 8, in_guest: 6 });
    assert_eq!(&spill[..2], b"gh");
    let mut guest = [0; 4];
    vectors.memory().read_slice(&mut guest, GuestAddress(0xfffe)).unwrap();
    assert_eq!(&guest, b"abcd");

    // The same bytes back, behind a header.
    vectors.write_frame(ours.as_fd(), b"HEAD").unwrap();
    let mut frame = [0; 32];
    let len = theirs.recv(&mut frame).unwrap();
    assert_eq!(&frame[..len], b"HEADabcdef");
}

#[test]
fn bytes_are_placed_and_read_at_an_offset_until_the_buffers_end() {
    let mut vectors = GuestVectors::new(ram());
    vectors.push(GuestAddress(0), 4).unwrap();
    vectors.push(GuestAddress(0x10), 4).unwrap();
    assert_eq!(vectors.write_at(3, b"xyz"), 3);
    assert_eq!(vectors.write_at(6, b"1234"), 2);
    assert_eq!(vectors.write_at(8, b"1"), 0);
    let mut guest = [0; 0x14];
    vectors.memory().read_slice(&mut guest, GuestAddress(0)).unwrap();
    assert_eq!((guest[3], &guest[0x10..]), (b'x', b"yz12".as_slice()));

    let mut read = [0; 6];
    assert_eq!(vectors.read_at(3, &mut read), 5);
    assert_eq!(&read, b"xyz12\0");
    assert_eq!((vectors.read_at(5, &mut read[..2]), &read[..2]), (2, b"z1".as_slice()));
    assert_eq!((vectors.read_at(8, &mut read), vectors.byte_len()), (0, 8));
}

#[test]
fn pages_of_received_bytes_are_dirty_and_no_others() {
    let memory = tracked_memory(&[0, 0x10000], 0x10000);
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let mut vectors = GuestVectors::new(memory.clone());
    vectors.push(GuestAddress(0x3000), 4).unwrap();
    vectors.push(GuestAddress(0xfffe), 0x2000).unwrap();
    vectors.write_frame(ours.as_fd(), b"HEAD").unwrap();
    assert!(taken(&memory).is_empty());
    theirs.send(b"abcdefgh").unwrap();
    vectors.drop_front(1);
    vectors.read_frame(ours.as_fd(), 2, &mut []).unwrap();
    assert_eq!(taken(&memory), [0xf, 0x10]);
    vectors.write_at(0x1002, b"x");
    assert_eq!(taken(&memory), [0x11]);
    vectors.clear();
    vectors.push(GuestAddress(0x7000), 4).unwrap();
    vectors.write_at(0, b"x");
    assert_eq!(taken(&memory), [7]);
}

#[test]
fn buffer_outside_memory_is_refused() {
    let mut vectors = GuestVectors::new(ram());
    for address in [0x1_ffff, 0x2_0000, u64::MAX] {
        assert!(vectors.push(GuestAddress(address), 2).is_err(), "{address:#x}");
    }
}

/// Runs `test` in a network namespace of its own, where TAPs can be made and end with it.
fn in_network_namespace(test: impl FnOnce() + Send + 'static) {
    thread::spawn(move || {
        // SAFETY: a network namespace of this thread's own changes nothing that memory safety
        // rests on; file descriptors stay shared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        test();
    })
    .join()
    .unwrap();
}

fn make_interface(name: &str, flags: c_int) {
    let file = OpenOptions::new().read(true).write(true).open(TUN_DEVICE).unwrap();
    let mut request = interface_request(name, flags | libc::IFF_NO_PI);
    // SAFETY: TUNSETIFF reads and writes one `ifreq`.
    check(unsafe { ioctl_with_mut_ref(&file, libc::TUNSETIFF, &mut request) }).unwrap();
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { ioctl_with_val(&file, libc::TUNSETPERSIST, 1) }).unwrap();
}

fn bring_up(name: &str) {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    let request = interface_request(name, libc::IFF_UP);
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`.
    check(unsafe { ioctl_with_ref(&socket, libc::SIOCSIFFLAGS, &request) }).unwrap();
}

#[test]
#[ignore = "needs root: makes TAPs in a network namespace"]
fn each_wrong_interface_has_an_error_of_its_own() {
    in_network_namespace(|| {
        make_interface("tun0", libc::IFF_TUN);
        make_interface("one", libc::IFF_TAP);
        assert!(matches!(error("tun0", 1), TapError::NotTap { .. }));
        assert!(matches!(error("lo", 1), TapError::NotTap { .. }));
        assert!(matches!(error("one", 2), TapError::SingleQueue { queues: 2, .. }));
        let held = Tap::open("one", 1).unwrap();
        assert!(matches!(error("one", 1), TapError::Busy { .. }));
        assert!(matches!(error("one", 2), TapError::SingleQueue { .. }));
        drop(held);
        Tap::open("one", 1).unwrap();
    });
}

#[test]
#[ignore = "needs root: makes TAPs in a network namespace"]
fn frames_come_from_a_tap_that_is_up_with_their_header() {
    in_network_namespace(|| {
        make_interface("tap0", libc::IFF_TAP);
        let tap = Tap::open("tap0", 1).unwrap().remove(0);
        tap.set_offloads(tap.supported_offloads()).unwrap();
        let mut vectors = GuestVectors::new(ram());
        vectors.push(GuestAddress(0), 2048).unwrap();
        let blocked = vectors.read_frame(tap.as_fd(), 1, &mut []).unwrap_err();
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);

        bring_up("tap0");
        // Linux announces itself over IPv6 on a link that comes up.
        let mut poll = [rustix::event::PollFd::new(&tap, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, None).unwrap();
        let received = vectors.read_frame(tap.as_fd(), 1, &mut []).unwrap();
        let mut ethertype = [0; 2];
        vectors.memory().read_slice(&mut ethertype, GuestAddress(12 + 12)).unwrap();
        assert_eq!(ethertype, [0x86, 0xdd]);

        vectors.clear();
        vectors.push(GuestAddress(12), received.len - 12).unwrap();
        assert_eq!(vectors.write_frame(tap.as_fd(), &[0; 12]).unwrap(), received.len);
    });
}

#[test]
#[ignore = "needs root: makes TAPs in a network namespace"]
fn queues_of_a_multi_queue_tap_come_and_go() {
    in_network_namespace(|| {
        make_interface("many", libc::IFF_TAP | libc::IFF_MULTI_QUEUE);
        assert_eq!(Tap::open("many", 1).unwrap().len(), 1);
        let taps = Tap::open("many", 4).unwrap();
        for enabled in [false, false, true, true] {
            taps[3].set_enabled(enabled).unwrap();
        }
    });
}
