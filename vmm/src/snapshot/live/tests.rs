use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use snapshot::SnapshotId;
use snapshot::memory::MemoryFile;
use sys::guest_io::GuestIo;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::{Backing, allocate, allocate_shared, map_snapshot, regions};
use crate::snapshot::write_full;

const MIB: u64 = 1 << 20;
const RANGES: [(GuestAddress, u64); 2] =
    [(GuestAddress(0), 16 * MIB), (GuestAddress(1 << 32), 16 * MIB)];

fn writer(path: &Path, memory: &GuestRam) -> MemoryWriter {
    MemoryWriter::create(path, SnapshotId::random().unwrap(), None, &regions(memory)).unwrap()
}

/// Every second page of the first half of each region holds something.
fn fill(memory: &GuestRam) {
    for (start, size) in RANGES {
        for page in (0..size / 2 / PAGE).step_by(2) {
            memory.write_obj(page + 1, GuestAddress(start.0 + page * PAGE)).unwrap();
        }
    }
}

/// Starts a capture; `None` on a host that forbids it.
fn start(path: &Path, memory: &GuestRam) -> Option<LiveCapture> {
    match LiveCapture::start(memory, writer(path, memory)) {
        Err(CaptureError::Uffd(UffdError::Forbidden(error))) => {
            eprintln!("skipped: {error}");
            None
        }
        result => Some(result.unwrap()),
    }
}

fn finished(capture: LiveCapture, path: &Path) -> MemoryFile {
    let done = capture.done().try_clone().unwrap();
    let written = capture.finish().unwrap();
    assert_eq!(done.read().unwrap(), 1);
    written.file.publish().unwrap();
    let file = MemoryFile::open(path).unwrap();
    file.verify().unwrap();
    file
}

#[test]
fn capture_is_the_moment_of_its_start_whatever_is_written_then() {
    let directory = tempfile::tempdir().unwrap();
    let [still, live] = ["still", "live"].map(|name| directory.path().join(name));
    let backing = Backing::default();
    for memory in [allocate(&RANGES, &backing), allocate_shared(&RANGES, &backing)] {
        let memory = memory.unwrap();
        fill(&memory);
        write_full(&memory, writer(&still, &memory)).unwrap().file.publish().unwrap();
        let Some(capture) = start(&live, &memory) else { return };
        // Backwards, so that the copy in turn hasn't been there; pages that were zero, too.
        for (start, size) in RANGES {
            for page in (0..size / PAGE).rev() {
                memory.write_obj(!page, GuestAddress(start.0 + page * PAGE + 64)).unwrap();
            }
        }
        let expected = MemoryFile::open(&still).unwrap().info();
        assert_eq!(finished(capture, &live).info(), expected);
        for (start, size) in RANGES {
            let page = size / PAGE - 1;
            let last = GuestAddress(start.0 + page * PAGE + 64);
            assert_eq!(memory.read_obj::<u64>(last).unwrap(), !page);
        }
    }
}

#[test]
fn kernels_writes_on_a_devices_behalf_are_caught() {
    let directory = tempfile::tempdir().unwrap();
    let [still, live] = ["still", "live"].map(|name| directory.path().join(name));
    let memory = allocate(&RANGES, &Backing::default()).unwrap();
    fill(&memory);
    write_full(&memory, writer(&still, &memory)).unwrap().file.publish().unwrap();
    let disk: File = tempfile::tempfile().unwrap();
    disk.write_all_at(&vec![0x5a; 1 << 20], 0).unwrap();
    let Some(capture) = start(&live, &memory) else { return };
    let mut io = GuestIo::new(memory.clone());
    for mib in (0..8).rev() {
        io.read_at(&disk, 0, [((GuestAddress((1 << 32) + mib * MIB)), 1 << 20)]).unwrap();
    }
    let expected = MemoryFile::open(&still).unwrap().info();
    assert_eq!(finished(capture, &live).info(), expected);
    assert_eq!(memory.read_obj::<u8>(GuestAddress((1 << 32) + 4095)).unwrap(), 0x5a);
}

#[test]
fn balloon_gives_nothing_back_while_a_capture_runs() {
    let directory = tempfile::tempdir().unwrap();
    let memory = allocate(&RANGES, &Backing::default()).unwrap();
    fill(&memory);
    let Some(capture) = start(&directory.path().join("live"), &memory) else { return };
    assert!(memory.iter().all(|region| region.tracking().is_held()));
    drop(capture.finish());
    assert_eq!(sys::discard::discard(&memory, GuestAddress(0), MIB).unwrap(), MIB);
}

#[test]
fn capture_that_is_given_up_leaves_the_guest_running_and_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let memory = allocate(&RANGES, &Backing::default()).unwrap();
    fill(&memory);
    let Some(capture) = start(&directory.path().join("live"), &memory) else { return };
    drop(capture);
    fill(&memory);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    // And the next one can begin.
    let path = directory.path().join("next");
    let capture = start(&path, &memory).unwrap();
    finished(capture, &path);
}

#[test]
fn memory_that_cannot_be_protected_is_refused_and_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    let memory = allocate(&RANGES, &Backing::default()).unwrap();
    write_full(&memory, writer(&path, &memory)).unwrap().file.publish().unwrap();
    let mapped = map_snapshot(&MemoryFile::open(&path).unwrap(), &Backing::default()).unwrap();
    let live = directory.path().join("live");
    // On a tmpfs, the kernel can do it; elsewhere it can't.
    match LiveCapture::start(&mapped, writer(&live, &mapped)) {
        Ok(capture) => drop(finished(capture, &live)),
        Err(error) => assert!(matches!(error, CaptureError::Uffd(_)), "{error}"),
    }
    assert!(mapped.iter().all(|region| !region.tracking().is_held()));
    fill(&mapped);
}

#[test]
fn units_of_huge_pages_go_as_a_whole() {
    assert_eq!(whole_units(&[0, 1, 0, 0], 64 * PAGE), [0, u64::MAX, 0, 0]);
    assert_eq!(whole_units(&[0, 1, 0, 0], 128 * PAGE), [u64::MAX, u64::MAX, 0, 0]);
    assert_eq!(whole_units(&[0, 1, 0, 0], PAGE), [0, 1, 0, 0]);
    let mut bits = [u64::MAX, u64::MAX];
    assert!(take_bit(&mut bits, 63, 2));
    assert_eq!(bits, [u64::MAX >> 1, u64::MAX - 1]);
    assert!(!take_bit(&mut bits, 63, 2));
}

/// `cargo test -p vmm --lib -- --ignored --nocapture speed_of_live` says how long a guest stands still.
#[test]
#[ignore = "a measurement"]
fn speed_of_live_capture() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("live");
    let memory = allocate(&[(GuestAddress(0), 1024 * MIB)], &Backing::default()).unwrap();
    memory.write_slice(&vec![0x5a; 1 << 30], GuestAddress(0)).unwrap();
    let begun = std::time::Instant::now();
    let pages = populated(memory.iter().next().unwrap());
    println!("asking which of {} pages there are: {:?}", pages.len() * 64, begun.elapsed());
    let begun = std::time::Instant::now();
    let capture = start(&path, &memory).unwrap();
    println!("protecting 1 GiB: {:?}", begun.elapsed());
    let waited = std::time::Instant::now();
    memory.write_obj(1u8, GuestAddress(1023 * MIB)).unwrap();
    println!("a write that waits: {:?}", waited.elapsed());
    let written = capture.finish().unwrap();
    println!("copying 1 GiB: {:?}", begun.elapsed());
    drop(written);
    let begun = std::time::Instant::now();
    drop(write_full(&memory, writer(&path, &memory)).unwrap());
    println!("copying it paused: {:?}", begun.elapsed());
}
