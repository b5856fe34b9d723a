#![allow(clippy::cast_possible_truncation, reason = "test patterns")]

use super::*;
use crate::memory::testing::{taken, tracked_memory};

use std::os::unix::fs::FileExt;

use rustix::pipe::{PipeFlags, pipe_with};
use vm_memory::Bytes;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

const NONE: [(GuestAddress, u32); 0] = [];

fn memory() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

fn file(bytes: &[u8]) -> Arc<File> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    Arc::new(file)
}

fn ring(file: &Arc<File>, memory: &GuestRam) -> FileRing {
    FileRing::new(Arc::clone(file), memory.clone(), 4).unwrap()
}

/// Waits until the eventfd is readable, and reads it.
fn await_completion(ring: &FileRing) {
    let (epoll, fd) = (Epoll::new().unwrap(), ring.completed().as_raw_fd());
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).unwrap();
    while epoll.wait(-1, &mut [EpollEvent::default()]).unwrap_or(0) == 0 {}
    ring.completed().read().unwrap();
}

/// Submits and waits on the eventfd until `count` requests are done; sorted by slot.
fn finish(ring: &mut FileRing, count: usize) -> Vec<(u16, Result<(), io::ErrorKind>)> {
    ring.submit().unwrap();
    let mut all = Vec::new();
    while all.len() < count {
        await_completion(ring);
        ring.reap(|token, outcome| all.push((token, outcome.map_err(|error| error.kind()))))
            .unwrap();
    }
    all.sort_by_key(|(token, _)| *token);
    all
}

#[test]
fn batch_of_reads_and_writes_completes_by_slot() {
    let (memory, file) = (memory(), file(&[7; 4096]));
    memory.write_slice(&[9; 1024], GuestAddress(0x8000)).unwrap();
    let mut ring = ring(&file, &memory);
    ring.push(0, RingOp::Read(0, [(GuestAddress(0), 100), (GuestAddress(200), 412)])).unwrap();
    ring.push(1, RingOp::Read(512, [(GuestAddress(0x1000), 512)])).unwrap();
    let buffers = [(GuestAddress(0x8000), 1024)];
    ring.push(3, RingOp::Write { offset: 4096, buffers, durable: true }).unwrap();
    assert_eq!(finish(&mut ring, 3), [(0, Ok(())), (1, Ok(())), (3, Ok(()))]);
    ring.push(3, RingOp::<[_; 0]>::SyncData).unwrap();
    assert_eq!(finish(&mut ring, 1), [(3, Ok(()))]);
    assert_eq!(memory.read_obj::<[u8; 3]>(GuestAddress(99)).unwrap(), [7, 0, 0]);
    assert_eq!(memory.read_obj::<[u8; 2]>(GuestAddress(611)).unwrap(), [7, 0]);
    let mut stored = [0; 1024];
    file.read_exact_at(&mut stored, 4096).unwrap();
    assert_eq!(stored, [9; 1024]);
}

#[test]
fn more_buffers_than_one_call_takes_are_all_transferred() {
    let pattern: Vec<u8> = (0..5000u32).map(|n| (n % 251) as u8).collect();
    let (memory, file) = (memory(), file(&pattern));
    let buffers = (0..2500).map(|n| (GuestAddress(n * 5), 2));
    let mut ring = ring(&file, &memory);
    ring.push(2, RingOp::Read(0, buffers.clone())).unwrap();
    assert_eq!(finish(&mut ring, 1), [(2, Ok(()))]);
    ring.push(2, RingOp::Write { offset: 8192, buffers, durable: false }).unwrap();
    assert_eq!(finish(&mut ring, 1), [(2, Ok(()))]);
    let mut stored = vec![0; pattern.len()];
    file.read_exact_at(&mut stored, 8192).unwrap();
    assert_eq!(stored, pattern);
}

#[test]
fn zeros_longer_than_one_call_are_all_written() {
    const LEN: usize = (64 << 20) + (64 << 10) + 512;
    let file = file(&vec![0xff; LEN + 512]);
    let mut ring = ring(&file, &memory());
    ring.push(0, RingOp::<[_; 0]>::WriteZeros { offset: 256, len: LEN as u64 }).unwrap();
    assert_eq!(finish(&mut ring, 1), [(0, Ok(()))]);
    let mut stored = vec![1; LEN + 512];
    file.read_exact_at(&mut stored, 0).unwrap();
    assert!(stored[..256].iter().all(|&byte| byte == 0xff));
    assert!(stored[256..LEN + 256].iter().all(|&byte| byte == 0));
    assert!(stored[LEN + 256..].iter().all(|&byte| byte == 0xff));
}

#[test]
fn hole_is_punched() {
    let file = file(&[7; 8192]);
    let mut ring = ring(&file, &memory());
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    ring.push(0, RingOp::<[_; 0]>::Fallocate { mode, offset: 0, len: 4096 }).unwrap();
    assert_eq!(finish(&mut ring, 1), [(0, Ok(()))]);
    let mut stored = [1; 8192];
    file.read_exact_at(&mut stored, 0).unwrap();
    assert_eq!((stored[0], stored[4095], stored[4096]), (0, 0, 7));
}

#[test]
fn read_past_the_end_fails_and_leaves_the_others_alone() {
    let (memory, file) = (memory(), file(&[7; 700]));
    let mut ring = ring(&file, &memory);
    ring.push(0, RingOp::Read(512, [(GuestAddress(0), 512)])).unwrap();
    ring.push(1, RingOp::Read(0, [(GuestAddress(0x1000), 512)])).unwrap();
    let expected = [(0, Err(io::ErrorKind::UnexpectedEof)), (1, Ok(()))];
    assert_eq!(finish(&mut ring, 2), expected);
}

#[test]
fn slot_that_is_busy_or_absent_and_buffer_outside_memory_are_refused() {
    let mut ring = ring(&file(&[7; 512]), &memory());
    ring.push(0, RingOp::<[_; 0]>::SyncData).unwrap();
    for token in [0, 4] {
        let error = ring.push(token, RingOp::<[_; 0]>::SyncData).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    }
    assert!(ring.push(1, RingOp::Read(0, [(GuestAddress((1 << 20) - 1), 2)])).is_err());
    assert!(ring.push(1, RingOp::Read(u64::MAX, NONE)).is_err());
    assert_eq!(finish(&mut ring, 1), [(0, Ok(()))], "refused requests were queued");
}

#[test]
fn drop_waits_for_what_the_kernel_has_and_forgets_what_it_has_not() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (memory, pipe) = (memory(), Arc::new(File::from(reader)));
    let mut ring = ring(&pipe, &memory);
    ring.push(0, RingOp::Read(0, [(GuestAddress(0), 4)])).unwrap();
    ring.submit().unwrap();
    ring.push(1, RingOp::Read(0, [(GuestAddress(0x1000), 4)])).unwrap();
    let (started, start) = std::sync::mpsc::channel();
    let dropper = std::thread::spawn(move || {
        started.send(()).unwrap();
        drop(ring);
    });
    start.recv().unwrap();
    for _ in 0..1000 {
        assert!(!dropper.is_finished(), "a request is in flight");
        std::thread::yield_now();
    }
    rustix::io::write(&writer, b"late").unwrap();
    dropper.join().unwrap();
    assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(0)).unwrap(), *b"late");
    rustix::io::write(&writer, b"lost").unwrap();
    assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(0x1000)).unwrap(), [0; 4]);
}

#[test]
fn transfer_in_parts_goes_on_until_all_is_there() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let memory = memory();
    let mut ring = ring(&Arc::new(File::from(reader)), &memory);
    rustix::io::write(&writer, b"ab").unwrap();
    ring.push(0, RingOp::Read(0, [(GuestAddress(0), 1), (GuestAddress(16), 3)])).unwrap();
    ring.submit().unwrap();
    await_completion(&ring);
    ring.reap(|_, _| panic!("not done yet")).unwrap();
    rustix::io::write(&writer, b"cd").unwrap();
    assert_eq!(finish(&mut ring, 1), [(0, Ok(()))]);
    assert_eq!(memory.read_obj::<[u8; 3]>(GuestAddress(16)).unwrap(), *b"bcd");
}

#[test]
fn probe_agrees_with_making_a_ring() {
    FileRing::probe().unwrap();
}

#[test]
fn pages_read_into_are_dirty_once_the_kernel_is_done() {
    let (memory, file) = (tracked_memory(&[0], 1 << 16), file(&[7; 4096]));
    let mut ring = ring(&file, &memory);
    ring.push(0, RingOp::Read(0, [(GuestAddress(0x1ff0), 0x20)])).unwrap();
    ring.push(1, RingOp::Read(0, [(GuestAddress(0x5000), 0x20)])).unwrap();
    let buffers = [(GuestAddress(0x8000), 1024)];
    ring.push(2, RingOp::Write { offset: 0, buffers, durable: false }).unwrap();
    assert!(taken(&memory).is_empty());
    finish(&mut ring, 3);
    assert_eq!(taken(&memory), [1, 2, 5]);
    // Done by the kernel, and dropped with the ring before anybody asked.
    ring.push(0, RingOp::Read(0, [(GuestAddress(0x9000), 0x20)])).unwrap();
    ring.submit().unwrap();
    drop(ring);
    assert_eq!(taken(&memory), [9]);
}

#[test]
fn ring_takes_no_operation_that_disks_don_t_need() {
    let file = file(&[0; 512]);
    let mut ring = ring(&file, &memory());
    for entry in [
        opcode::Nop::new().build(),
        opcode::Close::new(Fd(file.as_raw_fd())).build(),
        opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
    ] {
        // SAFETY: none of them refers to memory.
        unsafe { ring.ring.submission().push(&entry) }.unwrap();
        ring.ring.submit_and_wait(1).unwrap();
        assert_eq!(ring.ring.completion().next().unwrap().result(), -libc::EACCES);
    }
}
