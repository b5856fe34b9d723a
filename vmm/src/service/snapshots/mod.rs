//! Snapshots: a paused machine into two files and back, and a running one into files.
//!
//! `create.rs` writes, `load.rs` reads, `fork.rs` captures a machine that runs on.

mod create;
mod fork;
mod load;

use api::ApiError;
use api::config::VmSpec;
use snapshot::memory::{MemoryWriter, WrittenMemory};
use snapshot::publish;
use snapshot::{SnapshotError, SnapshotHeader, SnapshotId};
use std::collections::BTreeSet;
use std::path::Path;

use crate::error::VmmError;
use crate::machine::{Machine, MachineState};
use crate::memory;

pub(super) use fork::Capture;
pub(super) use load::Pager;

/// What a machine's next differential snapshot builds upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastSnapshot(SnapshotId);

/// A snapshot's files, of which memory isn't written yet.
struct Draft {
    id: SnapshotId,
    parent: Option<SnapshotId>,
    state: MachineState,
    header: SnapshotHeader,
}

impl Draft {
    /// Saves all of the paused `machine` but its memory.
    ///
    /// # Errors
    /// When KVM doesn't tell, or a device can't be saved.
    fn of(machine: &Machine, parent: Option<SnapshotId>) -> Result<Self, VmmError> {
        let state = machine.save()?;
        let id = SnapshotId::random().map_err(|source| VmmError::os("get random bytes", source))?;
        let mut header = SnapshotHeader::new(id, parent);
        header.cpu = machine.cpu_summary();
        header.vcpus = u32::try_from(state.vcpus.len()).unwrap_or(u32::MAX);
        header.regions = memory::regions(machine.memory());
        header.tracks_dirty_pages = machine.config().machine.track_dirty_pages;
        Ok(Self { id, parent, state, header })
    }

    /// Returns the configuration that the snapshot remembers.
    fn config_mut(&mut self) -> &mut VmSpec {
        &mut self.state.config
    }

    /// Begins the memory file at `path`.
    ///
    /// # Errors
    /// When it can't be created.
    fn memory_writer(&self, path: &Path) -> Result<MemoryWriter, SnapshotError> {
        MemoryWriter::create(path, self.id, self.parent, &self.header.regions)
    }

    /// Puts both files in their places: the older snapshot of the same names is valid until the new
    /// one is.
    ///
    /// # Errors
    /// When the file system refuses.
    fn publish(mut self, memory: WrittenMemory, path: &Path) -> Result<(), SnapshotError> {
        self.header.memory = memory.info;
        let fail = |error: serde_json::Error| SnapshotError::Io {
            action: "write",
            path: path.to_owned(),
            source: error.into(),
        };
        let state = serde_json::to_vec(&self.state).map_err(fail)?;
        let state = snapshot::state::write(path, &self.header, &state)?;
        publish::publish_pair(memory.file, state)
    }
}

/// Checks that each file of a snapshot is one of its own.
///
/// # Errors
/// What the client is told (status 400).
fn check_paths<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Result<(), ApiError> {
    let mut seen = BTreeSet::new();
    for path in paths {
        if !seen.insert(std::path::absolute(path).unwrap_or_else(|_| path.to_owned())) {
            return Err(ApiError::bad_request(format!(
                "two files of a snapshot can't both be {}: state, memory and images are a file each",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Reads what [`Draft`] saved.
///
/// # Errors
/// When it isn't a machine's state.
fn parse_state(bytes: &[u8]) -> Result<MachineState, VmmError> {
    serde_json::from_slice(bytes)
        .map_err(|error| VmmError::snapshot("read the machine's state", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_snapshot_must_differ_however_they_are_named() {
        let check = |paths: &[&str]| check_paths(paths.iter().map(Path::new));
        check(&["/a/state", "/a/memory", "/a/disk"]).unwrap();
        check(&["state", "/state"]).unwrap();
        for same in [&["/a", "/a"][..], &["a", "./a"], &["/a", "/b", "/a/"], &["/a//b", "/a/b"]] {
            check(same).unwrap_err();
        }
    }
}
