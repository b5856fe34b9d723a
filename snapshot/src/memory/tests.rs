use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::*;
use crate::error::SnapshotError;
use crate::header::{Kind, MemoryRegion, SnapshotHeader};
use crate::id::SnapshotId;
use crate::publish::PendingFile;

const REGIONS: [MemoryRegion; 2] = [
    MemoryRegion { guest_address: 0, size_bytes: 16 * PAGE },
    MemoryRegion { guest_address: 1 << 32, size_bytes: 8 * PAGE },
];

fn page(fill: u8) -> Vec<u8> {
    vec![fill; PAGE_BYTES]
}

/// Writes pages (number and fill) and returns the header that goes with the file.
fn write(path: &Path, parent: Option<SnapshotId>, pages: &[(u64, u8)]) -> SnapshotHeader {
    let mut header = SnapshotHeader::new(SnapshotId::random().unwrap(), parent);
    header.regions = REGIONS.to_vec();
    let mut writer = MemoryWriter::create(path, header.id, parent, &REGIONS).unwrap();
    for &(number, fill) in pages {
        writer.write(number * PAGE, &page(fill)).unwrap();
    }
    let written = writer.finish().unwrap();
    written.file.publish().unwrap();
    header.memory = written.info;
    header
}

fn pages(file: &MemoryFile) -> Vec<(u64, u8)> {
    let mut pages = Vec::new();
    file.for_each_page(|offset, page| pages.push((offset / PAGE, page[0]))).unwrap();
    pages
}

#[test]
fn full_file_holds_what_was_written_and_nothing_for_zeros() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    let header = write(&path, None, &[(3, 7), (0, 0), (23, 9), (4, 8)]);
    let file = MemoryFile::open_for(&path, &header).unwrap();
    file.verify().unwrap();
    assert_eq!(pages(&file), [(3, 7), (4, 8), (23, 9)]);
    assert_eq!(
        (file.kind(), file.regions(), file.info().data_pages),
        (Kind::Full, &REGIONS[..], 3)
    );
    // Three pages of content and the trailer.
    assert_eq!(fs::metadata(&path).unwrap().blocks() * 512, 4 * PAGE);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn diff_lists_its_pages_those_that_became_zero_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    let parent = SnapshotId::random().unwrap();
    let header = write(&path, Some(parent), &[(1, 5), (2, 0), (3, 6), (20, 0)]);
    let file = MemoryFile::open_for(&path, &header).unwrap();
    file.verify().unwrap();
    let extents = [(PAGE, 3 * PAGE), (20 * PAGE, PAGE)];
    assert_eq!(file.extents(), extents.map(|(offset, len)| Extent { offset, len }));
    assert_eq!(pages(&file), [(1, 5), (3, 6)]);
    assert_eq!((file.kind(), file.parent()), (Kind::Diff, Some(parent)));
}

#[test]
fn checksum_minds_where_a_page_is_and_not_when_it_came() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    let hash = |pages: &[(u64, u8)]| write(&path, None, pages).memory.hash;
    assert_eq!(hash(&[(1, 5), (2, 6)]), hash(&[(2, 6), (1, 5)]));
    assert_ne!(hash(&[(1, 5), (2, 6)]), hash(&[(1, 6), (2, 5)]));
    assert_ne!(hash(&[(1, 5)]), hash(&[(2, 5)]));
}

#[test]
fn writes_that_have_no_place_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    let id = SnapshotId::random().unwrap();
    let mut writer = MemoryWriter::create(&path, id, Some(id), &REGIONS).unwrap();
    writer.write(4 * PAGE, &page(1)).unwrap();
    for (offset, len) in [
        (24 * PAGE, PAGE_BYTES),
        (23 * PAGE, 2 * PAGE_BYTES),
        (u64::MAX - PAGE + 1, PAGE_BYTES),
        (5 * PAGE + 1, PAGE_BYTES),
        (5 * PAGE, 100),
        (4 * PAGE, PAGE_BYTES),
        (PAGE, PAGE_BYTES),
    ] {
        assert!(writer.write(offset, &vec![1; len]).is_err(), "{len} bytes at {offset:#x}");
    }
    drop(writer);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn every_flipped_byte_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    for parent in [None, Some(SnapshotId::random().unwrap())] {
        let header = write(&path, parent, &[(3, 7), (20, 8)]);
        let bytes = fs::read(&path).unwrap();
        let content = usize::try_from(header.memory.content_bytes).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        // Holes, and each byte of what is no hole. A flip makes a hole a page; put back, one of zeros.
        let sampled = (0..content).filter(|at| at % 97 == 0).chain(content..bytes.len());
        for at in sampled {
            file.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
            let found = MemoryFile::open_for(&path, &header);
            // What isn't content is found without reading all of it.
            assert!(found.is_err() || at < content, "byte {at:#x}");
            assert!(found.and_then(|file| file.verify()).is_err(), "byte {at:#x}");
            file.write_all_at(&bytes[at..=at], at as u64).unwrap();
        }
        MemoryFile::open_for(&path, &header).unwrap().verify().unwrap();
    }
}

#[test]
fn every_truncation_is_called_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    let header = write(&path, Some(SnapshotId::random().unwrap()), &[(3, 7), (20, 8)]);
    let len = header.memory.file_bytes;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for shorter in (0..len).rev().filter(|at| at % 61 == 0 || at % PAGE < 2 || len - at < 200) {
        file.set_len(shorter).unwrap();
        let error = MemoryFile::open_for(&path, &header).unwrap_err();
        let SnapshotError::Truncated { actual_bytes, expected_bytes, .. } = error else {
            panic!("{shorter} bytes: {error}")
        };
        assert_eq!((actual_bytes, expected_bytes), (shorter, len));
    }
}

#[test]
fn foreign_files_are_called_foreign() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    fs::write(&path, b"").unwrap();
    assert!(matches!(MemoryFile::open(&path), Err(SnapshotError::Foreign { .. })));
    fs::write(&path, vec![0x5a; 1 << 20]).unwrap();
    assert!(matches!(MemoryFile::open(&path), Err(SnapshotError::Foreign { .. })));
    fs::remove_file(&path).unwrap();
    assert!(matches!(MemoryFile::open(&path), Err(SnapshotError::Io { .. })));
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    assert!(matches!(MemoryFile::open(&path), Err(SnapshotError::Foreign { .. })));
    assert!(matches!(MemoryFile::open(directory.path()), Err(SnapshotError::Foreign { .. })));
}

#[test]
fn memory_of_another_snapshot_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let [path, other] = ["mem", "other"].map(|name| directory.path().join(name));
    let header = write(&path, None, &[(3, 7)]);
    let theirs = write(&other, None, &[(3, 7)]);
    let error = MemoryFile::open_for(&other, &header).unwrap_err();
    assert!(matches!(&error, SnapshotError::OtherSnapshot { .. }), "{error}");
    assert!(error.to_string().contains(&theirs.id.to_string()), "{error}");
    let mut contradicts = header;
    contradicts.memory.data_pages += 1;
    assert!(matches!(
        MemoryFile::open_for(&path, &contradicts),
        Err(SnapshotError::Damaged { .. })
    ));
}

/// Right by its checksum, wrong by what it says.
#[test]
fn impossible_trailers_are_refused_before_anything_is_allocated() {
    use super::trailer::Trailer;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    let region = |guest_address, size_bytes| MemoryRegion { guest_address, size_bytes };
    let good = Trailer {
        kind: Kind::Diff,
        id: SnapshotId::random().unwrap(),
        parent: Some(SnapshotId::random().unwrap()),
        content_bytes: 2 * PAGE,
        extent_count: 0,
        hash: MemoryHash::default(),
        extents_checksum: hash::checksum(&[]),
        data_pages: 0,
        regions: vec![region(0, PAGE), region(PAGE, PAGE)],
    };
    let open = |trailer: &Trailer| {
        let pending = PendingFile::create(&path).unwrap();
        pending.file().write_all_at(&trailer.encode(), 2 * PAGE).unwrap();
        pending.publish().unwrap();
        MemoryFile::open(&path).map(drop)
    };
    open(&good).unwrap();
    let wrong: [fn(&mut Trailer); 14] = [
        |t| t.content_bytes = 1 << 63,
        |t| t.content_bytes = u64::MAX,
        |t| t.content_bytes = 3 * PAGE,
        |t| t.extent_count = u64::MAX,
        |t| t.extent_count = 1 << 60,
        |t| t.extent_count = 1,
        |t| (t.kind, t.extent_count) = (Kind::Full, 1),
        |t| t.data_pages = 3,
        |t| t.regions.clear(),
        |t| t.regions[0].size_bytes = 1 << 63,
        |t| t.regions.iter_mut().for_each(|region| region.size_bytes = (1 << 63) + PAGE),
        |t| t.regions[1].guest_address = u64::MAX - PAGE + 1,
        |t| t.regions[1].guest_address = 0,
        |t| t.regions[0].guest_address = 1,
    ];
    for (index, change) in wrong.iter().enumerate() {
        let mut trailer = good.clone();
        change(&mut trailer);
        assert!(open(&trailer).is_err(), "change {index}");
    }
    let mut many = good.clone();
    many.regions = vec![region(0, PAGE); MAX_REGIONS + 1];
    assert!(open(&many).is_err());
}

#[test]
fn impossible_extents_are_refused() {
    use super::trailer::decode_extents;
    let decode = |extents: &[(u64, u64)]| {
        let bytes: Vec<u8> = extents
            .iter()
            .flat_map(|(offset, len)| [offset.to_le_bytes(), len.to_le_bytes()].concat())
            .collect();
        decode_extents(&bytes, 8 * PAGE)
    };
    assert!(decode(&[(0, PAGE), (PAGE, PAGE), (7 * PAGE, PAGE)]).is_some());
    for wrong in [
        [(0, 0), (PAGE, PAGE)],
        [(0, PAGE), (0, PAGE)],
        [(PAGE, 2 * PAGE), (2 * PAGE, PAGE)],
        [(0, PAGE), (8 * PAGE, PAGE)],
        [(0, PAGE), (PAGE, 8 * PAGE)],
        [(0, PAGE), (PAGE, u64::MAX - PAGE + 1)],
        [(0, PAGE), (1 << 63, 1 << 63)],
        [(0, PAGE), (PAGE + 1, PAGE)],
        [(0, PAGE - 1), (PAGE, PAGE)],
    ] {
        assert!(decode(&wrong).is_none(), "{wrong:x?}");
    }
}

/// `cargo test --release -p snapshot -- --ignored --nocapture speed` says how fast.
#[test]
#[ignore = "a measurement"]
fn speed_of_writing_and_verifying() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mem");
    let bytes = 1u64 << 30;
    let regions = [MemoryRegion { guest_address: 0, size_bytes: bytes }];
    let id = SnapshotId::random().unwrap();
    let chunk: Vec<u8> =
        (0..256u32 << 10).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let mut writer = MemoryWriter::create(&path, id, None, &regions).unwrap();
    let start = std::time::Instant::now();
    for offset in (0..bytes).step_by(chunk.len()) {
        writer.write(offset, &chunk).unwrap();
    }
    let written = writer.finish().unwrap();
    println!("write: {:?} per GiB, without fsync", start.elapsed());
    written.file.publish().unwrap();
    let file = MemoryFile::open(&path).unwrap();
    let start = std::time::Instant::now();
    file.verify().unwrap();
    println!("verify: {:?} per GiB", start.elapsed());
    let mut hash = MemoryHash::default();
    let start = std::time::Instant::now();
    for offset in (0..bytes).step_by(chunk.len()) {
        for (index, page) in chunk.chunks_exact(PAGE_BYTES).enumerate() {
            hash.add(offset + index as u64 * PAGE, page);
        }
    }
    println!("checksum alone: {:?} per GiB ({hash})", start.elapsed());
}
