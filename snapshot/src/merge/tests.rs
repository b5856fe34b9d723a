use std::path::PathBuf;

use super::*;
use crate::id::SnapshotId;

struct Files {
    state: PathBuf,
    memory: PathBuf,
}

impl Files {
    fn paths(&self) -> SnapshotPaths<'_> {
        SnapshotPaths { state: &self.state, memory: &self.memory }
    }
}

fn region(guest_address: u64, pages: u64) -> MemoryRegion {
    MemoryRegion { guest_address, size_bytes: pages * PAGE }
}

fn files(directory: &Path, name: &str) -> Files {
    Files { state: directory.join(name), memory: directory.join(format!("{name}.mem")) }
}

/// Writes a snapshot of pages (number and fill).
fn take(
    files: &Files,
    parent: Option<SnapshotId>,
    regions: &[MemoryRegion],
    pages: &[(u64, u8)],
) -> SnapshotId {
    let mut header = SnapshotHeader::new(SnapshotId::random().unwrap(), parent);
    header.regions = regions.to_vec();
    let mut writer = MemoryWriter::create(&files.memory, header.id, parent, regions).unwrap();
    for &(number, fill) in pages {
        writer.write(number * PAGE, &[fill; PAGE_BYTES]).unwrap();
    }
    let written = writer.finish().unwrap();
    header.memory = written.info;
    let state = state::write(&files.state, &header, header.id.to_string().as_bytes()).unwrap();
    publish_pair(written.file, state).unwrap();
    header.id
}

/// Returns the pages of a full snapshot whose every checksum is right.
fn pages(files: &Files) -> Vec<(u64, u8)> {
    let file = state::open(&files.state).unwrap();
    assert_eq!(file.header.kind, Kind::Full);
    assert_eq!(file.state, file.header.id.to_string().as_bytes());
    let memory = MemoryFile::open_for(&files.memory, &file.header).unwrap();
    memory.verify().unwrap();
    let mut pages = Vec::new();
    memory.for_each_page(|offset, page| pages.push((offset / PAGE, page[0]))).unwrap();
    pages
}

#[test]
fn merged_snapshot_is_the_moment_of_the_diff() {
    let directory = tempfile::tempdir().unwrap();
    let [base, diff, out] = ["base", "diff", "out"].map(|name| files(directory.path(), name));
    let regions = [region(0, 100), region(1 << 32, 100)];
    let id = take(&base, None, &regions, &[(0, 1), (1, 2), (50, 3), (150, 4), (199, 5)]);
    // Changed, become zero, new, unchanged in fact.
    let changes = [(1, 9), (50, 0), (51, 0), (60, 7), (199, 5)];
    let diff_id = take(&diff, Some(id), &regions, &changes);
    let header = merge(base.paths(), diff.paths(), out.paths(), true).unwrap();
    assert_eq!((header.id, header.parent), (diff_id, None));
    let expected = [(0, 1), (1, 9), (60, 7), (150, 4), (199, 5)];
    assert_eq!(pages(&out), expected);
    // In place of the base, as a chain is worked off.
    merge(base.paths(), diff.paths(), base.paths(), false).unwrap();
    assert_eq!(pages(&base), expected);
    let next = take(&diff, Some(diff_id), &regions, &[(0, 0)]);
    assert_eq!(merge(base.paths(), diff.paths(), base.paths(), false).unwrap().id, next);
    assert_eq!(pages(&base), expected[1..]);
}

#[test]
fn memory_added_in_between_moves_what_lies_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let [base, diff, out] = ["base", "diff", "out"].map(|name| files(directory.path(), name));
    let before = [region(0, 10), region(1 << 32, 10)];
    let after = [region(0, 12), region(1 << 30, 5), region(1 << 32, 20)];
    let id = take(&base, None, &before, &[(9, 1), (10, 2), (19, 3)]);
    take(&diff, Some(id), &after, &[(11, 4), (14, 5), (17, 6), (36, 7)]);
    merge(base.paths(), diff.paths(), out.paths(), true).unwrap();
    assert_eq!(pages(&out), [(9, 1), (11, 4), (14, 5), (17, 6), (26, 3), (36, 7)]);
    // The other way round there's memory without a place.
    let id = take(&base, None, &after, &[]);
    take(&diff, Some(id), &before, &[]);
    let error = merge(base.paths(), diff.paths(), out.paths(), true).unwrap_err();
    assert!(matches!(error, SnapshotError::Unsuitable { .. }), "{error}");
}

#[test]
fn what_does_not_belong_together_is_refused_and_nothing_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let [base, diff, out] = ["base", "diff", "out"].map(|name| files(directory.path(), name));
    let regions = [region(0, 10)];
    let id = take(&base, None, &regions, &[(1, 1)]);
    take(&diff, Some(SnapshotId::random().unwrap()), &regions, &[(2, 2)]);
    let error = merge(base.paths(), diff.paths(), out.paths(), false).unwrap_err();
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    assert!(merge(diff.paths(), base.paths(), out.paths(), false).is_err());
    assert!(merge(base.paths(), base.paths(), base.paths(), false).is_err());
    assert_eq!(pages(&base), [(1, 1)]);
    assert!(!out.state.exists() && !out.memory.exists());
}

#[test]
fn damage_is_found_when_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let [base, diff, out] = ["base", "diff", "out"].map(|name| files(directory.path(), name));
    let regions = [region(0, 10)];
    let id = take(&base, None, &regions, &[(1, 1), (5, 1)]);
    take(&diff, Some(id), &regions, &[(2, 2)]);
    let file = std::fs::OpenOptions::new().write(true).open(&base.memory).unwrap();
    file.write_all_at(&[7], 5 * PAGE + 17).unwrap();
    let error = merge(base.paths(), diff.paths(), out.paths(), true).unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
    // Unasked, it's copied as it is, and the checksum still tells.
    let header = merge(base.paths(), diff.paths(), out.paths(), false).unwrap();
    assert!(MemoryFile::open_for(&out.memory, &header).unwrap().verify().is_err());
}

#[test]
fn copy_by_hand_is_the_same() {
    let source = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..=250).cycle().take(CHUNK_BYTES * 2 + 5).collect();
    source.write_all_at(&bytes, 100).unwrap();
    let target = tempfile::tempfile().unwrap();
    copy_by_hand(&source, 100, &target, 7, bytes.len() as u64).unwrap();
    let mut copied = vec![0; bytes.len()];
    target.read_exact_at(&mut copied, 7).unwrap();
    assert_eq!(copied, bytes);
}
