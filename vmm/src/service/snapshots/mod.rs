//! Snapshots: a paused machine into two files and back, and a running one into files.
//!
//! `create.rs` writes, `load.rs` reads, `fork.rs` captures a machine that runs on.

mod create;
mod fork;
mod load;

use api::config::VmSpec;
use snapshot::memory::{MemoryWriter, WrittenMemory};
use snapshot::publish;
use snapshot::{SnapshotError, SnapshotHeader, SnapshotId};
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
    state: Vec<u8>,
    header: SnapshotHeader,
}

impl Draft {
    /// Saves all of the paused `machine` but its memory; `change` adapts the configuration that
    /// the snapshot remembers.
    ///
    /// # Errors
    /// When KVM doesn't tell, or a device can't be saved.
    fn of(
        machine: &Machine,
        parent: Option<SnapshotId>,
        change: impl FnOnce(&mut VmSpec),
    ) -> Result<Self, VmmError> {
        let mut saved = machine.save()?;
        change(&mut saved.config);
        let id = SnapshotId::random().map_err(|source| VmmError::os("get random bytes", source))?;
        let mut header = SnapshotHeader::new(id, parent);
        header.cpu = machine.cpu_summary();
        header.vcpus = u32::try_from(saved.vcpus.len()).unwrap_or(u32::MAX);
        header.regions = memory::regions(machine.memory());
        header.tracks_dirty_pages = machine.config().machine.track_dirty_pages;
        let state = serde_json::to_vec(&saved)
            .map_err(|error| VmmError::snapshot("write the machine's state", error))?;
        Ok(Self { id, parent, state, header })
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
        let state = snapshot::state::write(path, &self.header, &self.state)?;
        publish::publish_pair(memory.file, state)
    }
}

/// Reads what [`Draft`] saved.
///
/// # Errors
/// When it isn't a machine's state.
fn parse_state(bytes: &[u8]) -> Result<MachineState, VmmError> {
    serde_json::from_slice(bytes)
        .map_err(|error| VmmError::snapshot("read the machine's state", error))
}
