use std::path::Path;

use super::*;
use crate::header::{MemoryRegion, SnapshotHeader};
use crate::memory::{MemoryFile, MemoryWriter};
use crate::state;

const REGIONS: [MemoryRegion; 1] = [MemoryRegion { guest_address: 0, size_bytes: 8192 }];

fn pair(directory: &Path) -> (SnapshotId, PendingFile, PendingFile) {
    let mut header = SnapshotHeader::new(SnapshotId::random().unwrap(), None);
    header.regions = REGIONS.to_vec();
    let writer = MemoryWriter::create(&directory.join("mem"), header.id, None, &REGIONS).unwrap();
    let written = writer.finish().unwrap();
    header.memory = written.info;
    let state = state::write(&directory.join("state"), &header, b"{}").unwrap();
    (header.id, written.file, state)
}

/// Leaves the files as a killed process would.
fn kill_at(directory: &Path, step: Step) -> SnapshotId {
    let (id, memory, state) = pair(directory);
    publish_pair_until(memory, state, |reached| reached != step).unwrap();
    id
}

fn valid(directory: &Path) -> SnapshotId {
    let header = state::open(&directory.join("state")).unwrap().header;
    let memory = MemoryFile::open_for(&directory.join("mem"), &header).unwrap();
    memory.verify().unwrap();
    header.id
}

#[test]
fn writer_killed_at_any_step_leaves_one_valid_snapshot() {
    for step in [Step::Written, Step::Kept, Step::Memory, Step::State, Step::Done] {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let old = kill_at(directory, Step::Done);
        let new = kill_at(directory, step);
        let expected = if step >= Step::State { new } else { old };
        assert_eq!(valid(directory), expected, "killed at {step:?}");
        // And killed again at every step of the next attempt.
        for again in [Step::Written, Step::Kept, Step::Memory] {
            kill_at(directory, again);
            assert_eq!(valid(directory), expected, "killed at {step:?}, then at {again:?}");
        }
        let last = kill_at(directory, Step::Done);
        assert_eq!(valid(directory), last);
        let names = fs::read_dir(directory).unwrap().count();
        assert_eq!(names, 2, "something is left in {directory:?}");
    }
}

#[test]
fn first_snapshot_needs_nothing_to_replace() {
    let directory = tempfile::tempdir().unwrap();
    let id = kill_at(directory.path(), Step::Done);
    assert_eq!(valid(directory.path()), id);
}

#[test]
fn dropped_file_is_gone_and_the_old_one_stays() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("file");
    fs::write(&target, "old").unwrap();
    drop(PendingFile::create(&target).unwrap());
    assert_eq!(fs::read(&target).unwrap(), b"old");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn abandoned_files_are_removed_and_those_being_written_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let name = |id: &str| directory.path().join(format!(".file.{id}.partial"));
    let abandoned = name(&SnapshotId::random().unwrap().to_string());
    let (not_ours, others) = (name("notes"), directory.path().join(".file2.partial"));
    for path in [&abandoned, &not_ours, &others] {
        fs::write(path, "x").unwrap();
    }
    let target = directory.path().join("file");
    let first = PendingFile::create(&target).unwrap();
    let second = PendingFile::create(&target).unwrap();
    assert!(!abandoned.exists() && not_ours.exists() && others.exists());
    second.publish().unwrap();
    first.publish().unwrap();
}

#[test]
fn reader_of_the_old_file_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let old = kill_at(directory.path(), Step::Done);
    let memory = MemoryFile::open(&directory.path().join("mem")).unwrap();
    kill_at(directory.path(), Step::Done);
    assert_eq!(memory.id(), old);
    memory.verify().unwrap();
}

#[test]
fn target_without_a_name_or_a_directory_is_an_error() {
    assert!(PendingFile::create(Path::new("/")).is_err());
    assert!(PendingFile::create(Path::new("/nonexistent/file")).is_err());
}
