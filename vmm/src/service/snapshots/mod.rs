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
    use serde_json::Value;

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

    /// What `new` lacks of `old`, or has otherwise.
    fn lost(at: &str, old: &Value, new: &Value) -> Vec<String> {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => old
                .iter()
                .flat_map(|(key, old)| {
                    lost(&format!("{at}.{key}"), old, new.get(key).unwrap_or(&Value::Null))
                })
                .collect(),
            (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
                let pairs = old.iter().zip(new).enumerate();
                pairs
                    .flat_map(|(index, (old, new))| lost(&format!("{at}.{index}"), old, new))
                    .collect()
            }
            _ if old == new => Vec::new(),
            _ => vec![format!("{at}: {old} became {new}")],
        }
    }

    /// `tests/data` keeps the state of a machine with every device in use, for each transport and
    /// each format that is read: a key that's renamed, or read as something else, is found here.
    #[test]
    fn machines_of_every_past_format_are_read_whole() {
        for format in snapshot::state::READABLE_VERSIONS {
            for transport in ["pci", "mmio"] {
                let name = format!("tests/data/state-v{format}-{transport}.json");
                let kept =
                    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(&name)).unwrap();
                let state = parse_state(&kept).unwrap();
                assert_eq!((state.vcpus.len(), state.devices.len()), (2, 8), "{name}");
                let old: Value = serde_json::from_slice(&kept).unwrap();
                let new = serde_json::to_value(&state).unwrap();
                assert_eq!(lost("", &old, &new), Vec::<String>::new(), "{name}");
            }
        }
    }

    #[test]
    fn state_that_lost_a_part_or_has_one_of_another_kind_is_refused() {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/state-v1-pci.json");
        let kept: Value = serde_json::from_slice(&std::fs::read(kept).unwrap()).unwrap();
        let parts = ["config", "cpu", "vm", "vcpus", "legacy", "devices"];
        for part in parts {
            let mut without = kept.clone();
            without.as_object_mut().unwrap().remove(part);
            parse_state(without.to_string().as_bytes()).unwrap_err();
            for other in [Value::Null, Value::from(1), Value::from("text"), Value::from(vec![1])] {
                let mut with = kept.clone();
                with[part] = other;
                parse_state(with.to_string().as_bytes()).unwrap_err();
            }
        }
        let text = kept.to_string();
        for len in (0..text.len()).step_by(997) {
            parse_state(&text.as_bytes()[..len]).unwrap_err();
        }
    }
}
