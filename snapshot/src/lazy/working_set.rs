//! Which pages a restored guest needs, in the order in which it needs them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::SnapshotError;
use crate::id::SnapshotId;
use crate::memory::{Extent, MemoryFile, PAGE, checksum};
use crate::publish::PendingFile;

const MAGIC: [u8; 8] = *b"VMCTLWSS";
const HEADER_BYTES: usize = 32;
const RUN_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 16;

/// As many as there are pages in 16 GiB.
const MAX_RUNS: usize = 1 << 22;

/// Runs of pages, as they were first touched.
///
/// A file holds `VMCTLWSS`, the snapshot's id, the number of runs (8 bytes, little-endian), the runs
/// (offset and length in bytes, 8 each), and a checksum of it all (XXH3, 128 bits).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkingSet {
    id: SnapshotId,
    runs: Vec<Extent>,
}

impl WorkingSet {
    /// Begins the working set of snapshot `id`.
    pub fn new(id: SnapshotId) -> Self {
        Self { id, runs: Vec::new() }
    }

    /// Returns the snapshot that it belongs to.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// Returns the runs in order.
    pub fn runs(&self) -> &[Extent] {
        &self.runs
    }

    /// Returns the length of all runs in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.len))
    }

    /// Adds `len` bytes at `offset` of the content, unless there are too many runs.
    pub fn add(&mut self, offset: u64, len: u64) {
        let full = self.runs.len() >= MAX_RUNS;
        match self.runs.last_mut() {
            Some(last) if last.end() == offset => last.len = last.len.saturating_add(len),
            _ if full => {}
            _ => self.runs.push(Extent { offset, len }),
        }
    }

    /// Writes the working set to `path`.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), SnapshotError> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(&(self.runs.len() as u64).to_le_bytes());
        for run in &self.runs {
            bytes.extend_from_slice(&run.offset.to_le_bytes());
            bytes.extend_from_slice(&run.len.to_le_bytes());
        }
        bytes.extend_from_slice(&checksum(&bytes));
        let pending = PendingFile::create(path)?;
        pending.file().write_all_at(&bytes, 0).map_err(SnapshotError::io("write", path))?;
        pending.publish()
    }

    /// Reads the working set of `memory` from `path`.
    ///
    /// # Errors
    /// [`SnapshotError`]: unreadable, foreign, damaged, or of another snapshot. A restore goes as
    /// well without it.
    pub fn load(path: &Path, memory: &MemoryFile) -> Result<Self, SnapshotError> {
        let most = HEADER_BYTES + MAX_RUNS * RUN_BYTES + CHECKSUM_BYTES;
        let metadata = fs::metadata(path).map_err(SnapshotError::io("open", path))?;
        let foreign = || SnapshotError::Foreign { path: path.to_owned(), what: "working set" };
        if !metadata.is_file() || metadata.len() > most as u64 {
            return Err(foreign());
        }
        let bytes = fs::read(path).map_err(SnapshotError::io("read", path))?;
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(foreign)?;
        if *magic != MAGIC {
            return Err(foreign());
        }
        let runs = decode(&bytes, rest, memory.info().content_bytes);
        let (id, runs) =
            runs.ok_or_else(|| SnapshotError::damaged(path, "its checksum or a run is wrong"))?;
        if id != memory.id() {
            let (actual, expected) = (id, memory.id());
            return Err(SnapshotError::OtherSnapshot { path: path.to_owned(), actual, expected });
        }
        Ok(Self { id, runs })
    }

    /// Has the host read the pages from the disk, in the background: for a memory file that's mapped.
    ///
    /// # Errors
    /// What the file system says.
    pub fn read_ahead(&self, memory: &MemoryFile) -> std::io::Result<()> {
        for run in &self.runs {
            let len = std::num::NonZeroU64::new(run.len);
            rustix::fs::fadvise(memory.file(), run.offset, len, rustix::fs::Advice::WillNeed)?;
        }
        Ok(())
    }
}

/// Decodes what follows the magic, of which `whole` is all.
fn decode(whole: &[u8], rest: &[u8], content_bytes: u64) -> Option<(SnapshotId, Vec<Extent>)> {
    let (body, sum) = whole.split_last_chunk::<CHECKSUM_BYTES>()?;
    if checksum(body) != *sum {
        return None;
    }
    let (id, rest) = rest.split_first_chunk::<16>()?;
    let (count, rest) = rest.split_first_chunk::<8>()?;
    let rest = rest.get(..rest.len().checked_sub(CHECKSUM_BYTES)?)?;
    let (runs, left) = rest.as_chunks::<RUN_BYTES>();
    if !left.is_empty() || u64::from_le_bytes(*count) != runs.len() as u64 {
        return None;
    }
    let runs = runs.iter().map(|run| {
        let offset = u64::from_le_bytes(*run.first_chunk()?);
        let len = u64::from_le_bytes(*run.last_chunk()?);
        let fits = offset.checked_add(len).is_some_and(|end| end <= content_bytes);
        let whole = len > 0 && (offset | len).is_multiple_of(PAGE);
        (fits && whole).then_some(Extent { offset, len })
    });
    Some((SnapshotId::from_bytes(*id), runs.collect::<Option<_>>()?))
}
