use snapshot::SnapshotId;
use snapshot::memory::{MemoryFile, MemoryWriter};
use vm_memory::{Bytes, GuestAddress};

use super::backing::host_memory_bytes;
use super::*;

#[test]
fn regions_are_mapped_where_they_were_asked_for() {
    let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(1 << 32), 2 << 20)];
    let backing = Backing::default();
    for memory in [allocate(&ranges, &backing), allocate_shared(&ranges, &backing)] {
        let memory = memory.unwrap();
        let found: Vec<_> = memory.iter().map(|r| (r.start_addr(), r.len())).collect();
        assert_eq!(found, ranges);
        memory.write_obj(7u64, GuestAddress((1 << 32) + (1 << 20))).unwrap();
    }
}

#[test]
fn more_memory_than_the_machine_has_is_refused_with_both_figures() {
    let error = allocate(&[(GuestAddress(0), 1 << 46)], &Backing::default()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&format!("{} MiB", 1 << 26)), "{message}");
    assert!(message.contains(&format!("{} MiB", host_memory_bytes() >> 20)), "{message}");
}

#[test]
fn mapping_touches_no_page() {
    let before = resident_kib();
    let memory = allocate(&[(GuestAddress(0), 512 << 20)], &Backing::default()).unwrap();
    let after = resident_kib();
    assert!(after < before + 8 * 1024, "{before} KiB before, {after} KiB after");
    drop(memory);
}

#[test]
fn shared_memory_is_one_file_that_keeps_its_length() {
    let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(1 << 32), 2 << 20)];
    let memory = allocate_shared(&ranges, &Backing::default()).unwrap();
    let offsets: Vec<_> = memory.iter().map(|r| r.file_offset().unwrap().start()).collect();
    assert_eq!(offsets, [0, 1 << 20]);
    let file = memory.iter().next().unwrap().file_offset().unwrap().file();
    assert_eq!(file.metadata().unwrap().len(), 3 << 20);
    assert!(file.set_len(0).is_err() && file.set_len(4 << 20).is_err());
}

#[test]
fn core_dumps_leave_guest_memory_out() {
    let memory = allocate(&[(GuestAddress(0), 4 << 20)], &Backing::default()).unwrap();
    let start = format!("{:x}-", memory.iter().next().unwrap().as_ptr() as usize);
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let flags = maps.lines().skip_while(|line| !line.starts_with(&start));
    let flags = flags.skip(1).find(|line| line.starts_with("VmFlags:")).unwrap();
    assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
}

/// A file of two regions of 8 pages, of which pages 1 and 9 hold their numbers.
fn snapshot_file(path: &std::path::Path) -> MemoryFile {
    let region = |guest_address| MemoryRegion { guest_address, size_bytes: 8 << 12 };
    let regions = [region(0), region(1 << 32)];
    let id = SnapshotId::random().unwrap();
    let mut writer = MemoryWriter::create(path, id, None, &regions).unwrap();
    for page in [1, 9] {
        writer.write(u64::from(page) << 12, &[page; 4096]).unwrap();
    }
    writer.finish().unwrap().file.publish().unwrap();
    MemoryFile::open(path).unwrap()
}

#[test]
fn restored_memory_has_the_snapshots_content_and_leaves_its_file_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = snapshot_file(&directory.path().join("mem"));
    let backing = Backing { tracked: true, ..Backing::default() };
    for memory in [map_snapshot(&file, &backing), load(&file, &backing)] {
        let memory = memory.unwrap();
        assert_eq!(regions(&memory), file.regions());
        let second = GuestAddress(1 << 32);
        for (address, expected) in [(GuestAddress(0), 0), (GuestAddress(0x1000), 1), (second, 0)] {
            assert_eq!(memory.read_obj::<u8>(address).unwrap(), expected);
        }
        assert_eq!(memory.read_obj::<u8>(GuestAddress((1 << 32) + 0x1fff)).unwrap(), 9);
        assert!(memory.iter().all(|r| r.tracking().take().unwrap() == [0]), "nothing is dirty");
        memory.write_slice(&[5; 4096], GuestAddress(0x1000)).unwrap();
        file.verify().unwrap();
    }
}

#[test]
fn file_that_replaces_the_mapped_one_is_not_seen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    let file = snapshot_file(&path);
    let memory = map_snapshot(&file, &Backing::default()).unwrap();
    drop(file);
    let id = SnapshotId::random().unwrap();
    let writer = MemoryWriter::create(&path, id, None, &regions(&memory)).unwrap();
    writer.finish().unwrap().file.publish().unwrap();
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1000)).unwrap(), 1);
}

#[test]
fn snapshot_cannot_be_mapped_in_huge_pages() {
    let directory = tempfile::tempdir().unwrap();
    let file = snapshot_file(&directory.path().join("mem"));
    let backing = Backing { pages: Pages::Huge2M, tracked: false };
    assert!(matches!(map_snapshot(&file, &backing), Err(VmmError::Snapshot { .. })));
}

#[test]
fn differential_snapshot_is_not_taken_for_the_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    let id = SnapshotId::random().unwrap();
    let regions = [MemoryRegion { guest_address: 0, size_bytes: 8 << 12 }];
    let writer = MemoryWriter::create(&path, id, Some(id), &regions).unwrap();
    writer.finish().unwrap().file.publish().unwrap();
    let file = MemoryFile::open(&path).unwrap();
    assert!(matches!(map_snapshot(&file, &Backing::default()), Err(VmmError::Snapshot { .. })));
    assert!(matches!(load(&file, &Backing::default()), Err(VmmError::Snapshot { .. })));
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
