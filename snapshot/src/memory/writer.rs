//! Writing a memory file.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::hash::{MemoryHash, checksum, is_zero};
use super::trailer::{Extent, MAX_EXTENTS, Trailer, check_regions};
use super::{PAGE, PAGE_BYTES};
use crate::error::SnapshotError;
use crate::header::{Kind, MemoryInfo, MemoryRegion};
use crate::id::SnapshotId;
use crate::publish::PendingFile;

/// A memory file that is being written.
#[derive(Debug)]
pub struct MemoryWriter {
    pending: PendingFile,
    id: SnapshotId,
    parent: Option<SnapshotId>,
    regions: Vec<MemoryRegion>,
    content_bytes: u64,
    hash: MemoryHash,
    data_pages: u64,
    extents: Vec<Extent>,
}

/// A memory file that is complete and hasn't got its name yet.
#[derive(Debug)]
pub struct WrittenMemory {
    /// The file.
    pub file: PendingFile,
    /// What the state file's header says about it.
    pub info: MemoryInfo,
}

impl MemoryWriter {
    /// Begins the memory file of snapshot `id` that will be at `path`: with a `parent`, that of a
    /// differential snapshot.
    ///
    /// # Errors
    /// [`SnapshotError::Io`], and [`SnapshotError::Unsuitable`] for regions that can't be.
    pub fn create(
        path: &Path,
        id: SnapshotId,
        parent: Option<SnapshotId>,
        regions: &[MemoryRegion],
    ) -> Result<Self, SnapshotError> {
        let content_bytes =
            check_regions(regions).map_err(|reason| SnapshotError::unsuitable(path, reason))?;
        let pending = PendingFile::create(path)?;
        pending.file().set_len(content_bytes).map_err(SnapshotError::io("write", path))?;
        Ok(Self {
            pending,
            id,
            parent,
            regions: regions.to_vec(),
            content_bytes,
            hash: MemoryHash::default(),
            data_pages: 0,
            extents: Vec::new(),
        })
    }

    /// Writes whole pages at byte `offset` of the content. Pages of zeros become holes.
    ///
    /// Each page is written once at most: the checksum counts it once more each time. Those of a
    /// differential file come in ascending order.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; pages that the content has no room for, or in the wrong order, are an
    /// invalid input.
    pub fn write(&mut self, offset: u64, pages: &[u8]) -> Result<(), SnapshotError> {
        let path = self.pending.target();
        let len = pages.len() as u64;
        let end = offset.checked_add(len).filter(|&end| end <= self.content_bytes);
        let in_order =
            self.parent.is_none() || self.extents.last().is_none_or(|e| e.end() <= offset);
        if end.is_none() || !(offset | len).is_multiple_of(PAGE) || !in_order {
            return Err(SnapshotError::io("write", path)(std::io::ErrorKind::InvalidInput.into()));
        }
        let mut run = 0..0;
        for (index, page) in pages.chunks_exact(PAGE_BYTES).enumerate() {
            let at = index * PAGE_BYTES;
            if is_zero(page) {
                self.write_run(offset, pages, &run)?;
                run = at + PAGE_BYTES..at + PAGE_BYTES;
                continue;
            }
            self.hash.add(offset + at as u64, page);
            self.data_pages += 1;
            run.end = at + PAGE_BYTES;
        }
        self.write_run(offset, pages, &run)?;
        self.note_extent(Extent { offset, len })
    }

    fn write_run(
        &self,
        offset: u64,
        pages: &[u8],
        run: &std::ops::Range<usize>,
    ) -> Result<(), SnapshotError> {
        let at = offset + run.start as u64;
        let bytes = pages.get(run.clone()).unwrap_or_default();
        self.pending
            .file()
            .write_all_at(bytes, at)
            .map_err(SnapshotError::io("write", self.pending.target()))
    }

    fn note_extent(&mut self, extent: Extent) -> Result<(), SnapshotError> {
        if self.parent.is_none() || extent.len == 0 {
            return Ok(());
        }
        let count = self.extents.len() as u64;
        match self.extents.last_mut() {
            Some(last) if last.end() == extent.offset => last.len += extent.len,
            _ if count == MAX_EXTENTS => {
                let reason = "the changed pages are too scattered: take a full snapshot";
                return Err(SnapshotError::unsuitable(self.pending.target(), reason));
            }
            _ => self.extents.push(extent),
        }
        Ok(())
    }

    /// Writes extents and trailer. The file has no name yet: see
    /// [`publish_pair`](crate::publish::publish_pair).
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn finish(self) -> Result<WrittenMemory, SnapshotError> {
        let mut extents = Vec::new();
        for extent in &self.extents {
            extents.extend_from_slice(&extent.offset.to_le_bytes());
            extents.extend_from_slice(&extent.len.to_le_bytes());
        }
        extents.resize(extents.len().next_multiple_of(PAGE_BYTES), 0);
        let trailer = Trailer {
            kind: if self.parent.is_some() { Kind::Diff } else { Kind::Full },
            id: self.id,
            parent: self.parent,
            content_bytes: self.content_bytes,
            extent_count: self.extents.len() as u64,
            hash: self.hash,
            extents_checksum: checksum(&extents),
            data_pages: self.data_pages,
            regions: self.regions,
        };
        write_end(&self.pending, &extents, &trailer)?;
        let info = MemoryInfo {
            file_bytes: trailer.file_bytes(),
            content_bytes: trailer.content_bytes,
            data_pages: trailer.data_pages,
            hash: trailer.hash,
        };
        Ok(WrittenMemory { file: self.pending, info })
    }

    /// Takes up a file whose content is there already, copied from a base of checksum `hash`.
    pub(crate) fn adopt(&mut self, hash: MemoryHash, data_pages: u64) {
        self.hash = hash;
        self.data_pages = data_pages;
    }

    /// Returns the file for copying into.
    pub(crate) fn pending(&self) -> &PendingFile {
        &self.pending
    }
}

fn write_end(
    pending: &PendingFile,
    extents: &[u8],
    trailer: &Trailer,
) -> Result<(), SnapshotError> {
    let fail = SnapshotError::io("write", pending.target());
    let write = || {
        let file = pending.file();
        file.write_all_at(extents, trailer.content_bytes)?;
        file.write_all_at(&trailer.encode(), trailer.content_bytes + trailer.extents_bytes())
    };
    write().map_err(fail)
}
