//! Writes a paused machine to files.

use std::path::Path;
use std::time::Instant;

use api::ApiError;
use api::event::Event;
use api::v1::{CreateSnapshotParams, SnapshotType};
use snapshot::memory::{MemoryFile, WrittenMemory};
use snapshot::{SnapshotError, merge};

use super::{Draft, LastSnapshot, check_paths};
use crate::error::VmmError;
use crate::machine::Machine;
use crate::memory::DirtyPages;
use crate::service::metrics::Latency;
use crate::service::{Vmm, fault};
use crate::snapshot as guest_memory;
use crate::status::monotonic_ns;

impl Vmm {
    /// Saves the machine, which is paused and stays so.
    pub(in crate::service) fn create_snapshot(
        &mut self,
        params: &CreateSnapshotParams,
    ) -> Result<(), ApiError> {
        check_paths([&*params.snapshot_path, &*params.mem_file_path])?;
        let since = Instant::now();
        let last = self.last_snapshot;
        let machine = self.machine()?;
        let (written, latency) = match params.snapshot_type {
            SnapshotType::Full => (create_full(machine, params), Latency::FullSnapshot),
            SnapshotType::Diff => (create_diff(machine, params, last)?, Latency::DiffSnapshot),
        };
        self.last_snapshot = Some(written.map_err(|error| fault(&error))?);
        self.metrics.set_latency(latency, since.elapsed());
        let snapshot_path = params.snapshot_path.clone();
        self.status.send(&Event::SnapshotCreated { snapshot_path, monotonic_ns: monotonic_ns() });
        Ok(())
    }
}

/// Writes all of the memory. What was noted as dirty is in there: the next differential snapshot
/// starts from here.
fn create_full(machine: &Machine, params: &CreateSnapshotParams) -> Result<LastSnapshot, VmmError> {
    let draft = Draft::of(machine, None)?;
    let dirty = DirtyPages::take(machine.vm(), machine.memory())?;
    let written = draft
        .memory_writer(&params.mem_file_path)
        .and_then(|writer| guest_memory::write_full(machine.memory(), writer));
    let last = publish(draft, written, &params.snapshot_path)?;
    if let Some(dirty) = dirty {
        dirty.commit();
    }
    Ok(last)
}

/// Writes the pages that changed since `last`. Without one, all of them did: that's a full snapshot.
fn create_diff(
    machine: &Machine,
    params: &CreateSnapshotParams,
    last: Option<LastSnapshot>,
) -> Result<Result<LastSnapshot, VmmError>, ApiError> {
    if !machine.config().machine.track_dirty_pages {
        return Err(ApiError::bad_request(
            "written pages aren't tracked, so there's no differential snapshot: set \
             track_dirty_pages in /machine-config before the start or in /snapshot/load, or ask \
             for a Full snapshot",
        ));
    }
    let Some(LastSnapshot(parent)) = last else { return Ok(create_full(machine, params)) };
    Ok(write_diff(machine, params, parent))
}

fn write_diff(
    machine: &Machine,
    params: &CreateSnapshotParams,
    parent: snapshot::SnapshotId,
) -> Result<LastSnapshot, VmmError> {
    let base = base_in_place(&params.mem_file_path, parent);
    let mut draft = Draft::of(machine, Some(parent))?;
    let Some(dirty) = DirtyPages::take(machine.vm(), machine.memory())? else {
        return create_full(machine, params);
    };
    let written = draft
        .memory_writer(&params.mem_file_path)
        .and_then(|writer| guest_memory::write_diff(machine.memory(), &dirty, writer));
    let written = match base {
        None => written,
        // Asked to write over the snapshot before, it becomes the full one of now.
        Some(base) => {
            draft.header.kind = snapshot::Kind::Full;
            draft.header.parent = None;
            written.and_then(|diff| merge_over(&base, diff, &params.mem_file_path))
        }
    };
    let last = publish(draft, written, &params.snapshot_path)?;
    dirty.commit();
    Ok(last)
}

/// Returns the memory file that is at `path` already, if it's that of the full snapshot `parent`.
fn base_in_place(path: &Path, parent: snapshot::SnapshotId) -> Option<MemoryFile> {
    let base = MemoryFile::open(path).ok()?;
    (base.id() == parent && base.kind() == snapshot::Kind::Full).then_some(base)
}

/// Merges a differential memory file, which has no name yet, with its base.
fn merge_over(
    base: &MemoryFile,
    diff: WrittenMemory,
    path: &Path,
) -> Result<WrittenMemory, SnapshotError> {
    let diff = MemoryFile::of_pending(&diff.file)?;
    merge::merge_memory(base, &diff, path)
}

/// Puts both files in their places.
fn publish(
    draft: Draft,
    memory: Result<WrittenMemory, SnapshotError>,
    path: &Path,
) -> Result<LastSnapshot, VmmError> {
    let id = draft.id;
    memory
        .and_then(|memory| draft.publish(memory, path))
        .map_err(|error| VmmError::snapshot("create the snapshot", error))?;
    Ok(LastSnapshot(id))
}
