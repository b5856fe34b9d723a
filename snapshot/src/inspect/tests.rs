use std::os::unix::fs::FileExt;

use super::*;
use crate::header::MemoryRegion;
use crate::id::SnapshotId;
use crate::memory::MemoryWriter;
use crate::publish::publish_pair;

fn take(directory: &Path, parent: Option<SnapshotId>) -> (PathBuf, PathBuf) {
    let (path, memory) = (directory.join("state"), directory.join("mem"));
    let mut header = SnapshotHeader::new(SnapshotId::random().unwrap(), parent);
    header.vcpus = 2;
    header.regions = vec![MemoryRegion { guest_address: 0, size_bytes: 4 << 20 }];
    let mut writer = MemoryWriter::create(&memory, header.id, parent, &header.regions).unwrap();
    writer.write(0, &[1; 8192]).unwrap();
    let written = writer.finish().unwrap();
    header.memory = written.info;
    let state = state::write(&path, &header, b"{}").unwrap();
    publish_pair(written.file, state).unwrap();
    (path, memory)
}

#[test]
fn whole_snapshot_has_no_problem() {
    let directory = tempfile::tempdir().unwrap();
    let (state, memory) = take(directory.path(), None);
    let report = inspect(&state, Some(&memory), Verify::Content).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.memory.as_ref().unwrap().content_verified);
    let text = report.to_string();
    for part in [&report.header.id.to_string(), "full", "4 MiB", "checksum right", "2 vCPUs"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["header"]["vcpus"], 2);
}

#[test]
fn damaged_memory_is_a_problem_and_the_header_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let (state, memory) = take(directory.path(), None);
    let file = std::fs::OpenOptions::new().write(true).open(&memory).unwrap();
    file.write_all_at(&[9], 100).unwrap();
    let quick = inspect(&state, Some(&memory), Verify::Quick).unwrap();
    assert!(quick.problems.is_empty());
    let whole = inspect(&state, Some(&memory), Verify::Content).unwrap();
    assert_eq!(whole.problems.len(), 1, "{:?}", whole.problems);
    file.set_len(5000).unwrap();
    let cut = inspect(&state, Some(&memory), Verify::Quick).unwrap();
    assert!(cut.problems[0].contains("cut off"), "{:?}", cut.problems);
}

#[test]
fn diff_and_damaged_state_are_problems() {
    let directory = tempfile::tempdir().unwrap();
    let (state, _) = take(directory.path(), Some(SnapshotId::random().unwrap()));
    assert_eq!(inspect(&state, None, Verify::Quick).unwrap().problems.len(), 1);
    let len = std::fs::metadata(&state).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&state).unwrap();
    file.set_len(len - 1).unwrap();
    let report = inspect(&state, None, Verify::Quick).unwrap();
    assert_eq!((report.problems.len(), report.state_bytes), (2, None));
}

#[test]
fn moments_are_written_as_dates() {
    assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
    assert_eq!(utc(951_782_399_000), "2000-02-28 23:59:59 UTC");
    assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
    assert_eq!(utc(1_764_000_000_999), "2025-11-24 16:00:00 UTC");
    assert!(utc(u64::MAX).contains("ms"));
}
