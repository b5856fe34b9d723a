use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use sys::discard::discard;
use sys::memory::GuestRam;
use sys::uffd::{Mode, Uffd, UffdError, feature};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::*;
use crate::error::SnapshotError;
use crate::header::MemoryRegion;
use crate::id::SnapshotId;
use crate::memory::{Extent, MemoryFile, MemoryWriter};

const PAGE: u64 = 4096;
const PAGES: u64 = 256;

/// Two regions of 128 pages; page n of the content holds n, each fourth is zero.
fn memory_file(path: &Path) -> MemoryFile {
    let size_bytes = PAGES / 2 * PAGE;
    let regions = [0, 1 << 30].map(|guest_address| MemoryRegion { guest_address, size_bytes });
    let id = SnapshotId::random().unwrap();
    let mut writer = MemoryWriter::create(path, id, None, &regions).unwrap();
    for page in 0..PAGES {
        writer.write(page * PAGE, &[content(page); 4096]).unwrap();
    }
    writer.finish().unwrap().file.publish().unwrap();
    MemoryFile::open(path).unwrap()
}

fn content(page: u64) -> u8 {
    if page.is_multiple_of(4) { 0 } else { u8::try_from(page).unwrap() }
}

fn address(page: u64) -> GuestAddress {
    let start = if page < PAGES / 2 { 0 } else { (1 << 30) - PAGES / 2 * PAGE };
    GuestAddress(start + page * PAGE)
}

struct Guest {
    memory: GuestRam,
    uffd: Uffd,
    mappings: Vec<GuestRegionUffdMapping>,
}

/// Guest memory whose pages are missing; `None` on a host that forbids userfaultfd.
fn guest() -> Option<Guest> {
    let uffd = match Uffd::new(feature::EVENT_REMOVE) {
        Err(UffdError::Forbidden(error)) => {
            eprintln!("skipped: {error}");
            return None;
        }
        result => result.unwrap(),
    };
    let size = usize::try_from(PAGES / 2 * PAGE).unwrap();
    let regions = [(GuestAddress(0), size), (GuestAddress(1 << 30), size)];
    let memory = GuestRam::from_ranges(&regions).unwrap();
    let mut offset = 0;
    let mut mappings = Vec::new();
    for region in memory.iter() {
        uffd.register(region, Mode::Missing).unwrap();
        let base = region.as_ptr() as u64;
        mappings.push(GuestRegionUffdMapping::new(base, region.len(), offset, PAGE));
        offset += region.len();
    }
    Some(Guest { memory, uffd, mappings })
}

/// Serves `guest` while `work` runs; returns the server afterwards.
fn served(
    guest: &Guest,
    file: MemoryFile,
    prepare: impl FnOnce(&mut PageServer) + Send,
    work: impl FnOnce(),
) -> PageServer {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (ready, prepared) = mpsc::channel();
    thread::scope(|scope| {
        let handler = scope.spawn(move || {
            let mut server = PageServer::accept(&theirs, file).unwrap();
            prepare(&mut server);
            ready.send(()).unwrap();
            server.run(&[theirs.as_fd()]).unwrap();
            server
        });
        handshake::send(&ours, &guest.mappings, guest.uffd.as_fd()).unwrap();
        prepared.recv().unwrap();
        work();
        drop(ours);
        handler.join().unwrap()
    })
}

#[test]
fn guest_sees_the_whole_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let Some(guest) = guest() else { return };
    let file = memory_file(&directory.path().join("mem"));
    served(
        &guest,
        file,
        |_| (),
        || {
            for page in (0..PAGES).rev() {
                let mut bytes = [0xaa; 4096];
                guest.memory.read_slice(&mut bytes, address(page)).unwrap();
                assert_eq!(bytes, [content(page); 4096], "page {page}");
            }
        },
    );
}

#[test]
fn threads_that_touch_pages_at_once_are_all_served() {
    let directory = tempfile::tempdir().unwrap();
    let Some(guest) = guest() else { return };
    let file = memory_file(&directory.path().join("mem"));
    served(
        &guest,
        file,
        |_| (),
        || {
            thread::scope(|scope| {
                for start in 0..4 {
                    let memory = &guest.memory;
                    scope.spawn(move || {
                        for step in 0..PAGES {
                            let page = (step * 37 + start * 64) % PAGES;
                            assert_eq!(
                                memory.read_obj::<u8>(address(page)).unwrap(),
                                content(page)
                            );
                        }
                    });
                }
            });
        },
    );
}

#[test]
fn page_that_was_given_back_is_zero_and_its_neighbours_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let Some(guest) = guest() else { return };
    let file = memory_file(&directory.path().join("mem"));
    let byte = |page| guest.memory.read_obj::<u8>(address(page)).unwrap();
    served(
        &guest,
        file,
        |_| (),
        || {
            // Once before anybody saw it, once after.
            discard(&guest.memory, address(5), PAGE).unwrap();
            assert_eq!([5, 6, 7].map(byte), [0, 6, 7]);
            discard(&guest.memory, address(6), PAGE).unwrap();
            assert_eq!([5, 6, 7].map(byte), [0, 0, 7]);
            guest.memory.write_obj(9u8, address(6)).unwrap();
            assert_eq!(byte(6), 9);
        },
    );
}

#[test]
fn giving_back_races_with_touching_and_nothing_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let Some(guest) = guest() else { return };
    let file = memory_file(&directory.path().join("mem"));
    served(
        &guest,
        file,
        |_| (),
        || {
            thread::scope(|scope| {
                scope.spawn(|| {
                    for page in 0..PAGES {
                        discard(&guest.memory, address(page), PAGE).unwrap();
                    }
                });
                scope.spawn(|| {
                    for page in (0..PAGES).chain(0..PAGES) {
                        let byte = guest.memory.read_obj::<u8>(address(page)).unwrap();
                        assert!([0, content(page)].contains(&byte), "page {page}: {byte}");
                    }
                });
            });
            for page in 0..PAGES {
                assert_eq!(guest.memory.read_obj::<u8>(address(page)).unwrap(), 0, "page {page}");
            }
        },
    );
}

#[test]
fn recorded_working_set_spares_the_next_restore_its_faults() {
    let directory = tempfile::tempdir().unwrap();
    let Some(first) = guest() else { return };
    let path = directory.path().join("mem");
    let touched = [200, 17, 18, 3];
    let touch = |guest: &Guest| {
        for page in touched {
            assert_eq!(guest.memory.read_obj::<u8>(address(page)).unwrap(), content(page));
        }
    };
    let mut server = served(&first, memory_file(&path), PageServer::record, || touch(&first));
    let set = server.take_recording().unwrap();
    assert_eq!(set.runs()[0].offset, 200 * PAGE);
    assert!(set.len_bytes() >= 3 * PAGE);
    let saved = directory.path().join("working-set");
    set.save(&saved).unwrap();

    let file = MemoryFile::open(&path).unwrap();
    let set = WorkingSet::load(&saved, &file).unwrap();
    set.read_ahead(&file).unwrap();
    let second = guest().unwrap();
    let prepare = |server: &mut PageServer| {
        assert_eq!(server.prefault(&set).unwrap(), set.len_bytes());
        server.record();
    };
    let mut server = served(&second, file, prepare, || {
        for run in set.runs() {
            for page in run.offset / PAGE..run.end() / PAGE {
                let byte = second.memory.read_obj::<u8>(address(page)).unwrap();
                assert_eq!(byte, content(page));
            }
        }
    });
    assert_eq!(server.take_recording().unwrap().runs(), [], "no fault is left");
}

#[test]
fn damaged_working_sets_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let memory = memory_file(&directory.path().join("mem"));
    let path = directory.path().join("set");
    let mut set = WorkingSet::new(memory.id());
    set.add(8 * PAGE, PAGE);
    set.add(9 * PAGE, PAGE);
    set.add(0, PAGE);
    assert_eq!(set.runs()[0], Extent { offset: 8 * PAGE, len: 2 * PAGE });
    set.save(&path).unwrap();
    assert_eq!(WorkingSet::load(&path, &memory).unwrap(), set);
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        assert!(WorkingSet::load(&path, &memory).is_err(), "byte {at}");
        std::fs::write(&path, &good[..at]).unwrap();
        assert!(WorkingSet::load(&path, &memory).is_err(), "{at} bytes");
    }
    for (offset, len) in [(1 << 63, PAGE), (0, 1 << 63), (PAGES * PAGE, PAGE), (1, PAGE), (0, 0)] {
        let mut wrong = WorkingSet::new(memory.id());
        wrong.add(offset, len);
        wrong.save(&path).unwrap();
        assert!(WorkingSet::load(&path, &memory).is_err(), "{len:#x} at {offset:#x}");
    }
    WorkingSet::new(SnapshotId::random().unwrap()).save(&path).unwrap();
    let error = WorkingSet::load(&path, &memory).unwrap_err();
    assert!(matches!(error, SnapshotError::OtherSnapshot { .. }), "{error}");
}

#[test]
fn tables_that_do_not_fit_the_file_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let good = GuestRegionUffdMapping::new(0x10_0000, 8 * PAGE, 0, PAGE);
    let wrong = [
        GuestRegionUffdMapping { size: (PAGES + 1) * PAGE, ..good },
        GuestRegionUffdMapping { size: 1 << 63, ..good },
        GuestRegionUffdMapping { offset: u64::MAX - PAGE + 1, ..good },
        GuestRegionUffdMapping { offset: 1, ..good },
        GuestRegionUffdMapping { base_host_virt_addr: u64::MAX - PAGE + 1, ..good },
        GuestRegionUffdMapping { base_host_virt_addr: 1, ..good },
        GuestRegionUffdMapping { page_size: 0, ..good },
        GuestRegionUffdMapping { page_size: 3, ..good },
        GuestRegionUffdMapping { page_size: 1 << 63, ..good },
        GuestRegionUffdMapping { page_size: 1 << 21, ..good },
    ];
    for mapping in wrong {
        let file = memory_file(&directory.path().join("mem"));
        let fd = rustix::pipe::pipe().unwrap().0;
        let error = PageServer::new(fd, vec![mapping], file).err().unwrap();
        assert!(matches!(error, LazyError::Mapping(_)), "{mapping:?}: {error}");
    }
}

#[test]
fn peers_that_say_something_else_are_refused() {
    for table in [&b""[..], b"[]", b"{}", b"[{\"size\":1}]", b"[{\"size\":-1}]", b"[", b"hello"] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &ours, table).unwrap();
        drop(ours);
        assert!(handshake::receive(&theirs).is_err(), "{table:?}");
    }
}

#[test]
fn table_is_what_other_handlers_expect() {
    let mapping = GuestRegionUffdMapping::new(4096, 8192, 0, 4096);
    let json = serde_json::to_value([mapping]).unwrap();
    let expected = serde_json::json!([{
        "base_host_virt_addr": 4096, "size": 8192, "offset": 0,
        "page_size": 4096, "page_size_kib": 4096,
    }]);
    assert_eq!(json, expected);
}
