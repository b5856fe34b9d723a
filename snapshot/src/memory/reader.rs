//! Reading and checking a memory file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::hash::{MemoryHash, checksum, is_zero};
use super::trailer::{EXTENT_BYTES, Extent, TRAILER_BYTES, Trailer, TrailerError, decode_extents};
use super::{PAGE, PAGE_BYTES};
use crate::error::SnapshotError;
use crate::header::{Kind, MemoryInfo, MemoryRegion, SnapshotHeader};
use crate::id::SnapshotId;
use crate::publish::PendingFile;

/// How much is read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// An open memory file whose trailer is right.
///
/// It must not shrink while it's mapped or served: whoever touches a page that is gone gets SIGBUS.
/// Snapshots are never written in place, and are readable by their owner only, for that reason.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
    path: PathBuf,
    trailer: Trailer,
    extents: Vec<Extent>,
}

impl MemoryFile {
    /// Opens the memory file at `path` and checks all of it but the content.
    ///
    /// # Errors
    /// [`SnapshotError`]: unreadable, foreign, cut off, damaged, or of another version.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let fail = SnapshotError::io;
        // Not to hang on a FIFO that has the name.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(fail("open", path))?;
        let metadata = file.metadata().map_err(fail("read", path))?;
        let file_bytes = metadata.len();
        let foreign = || SnapshotError::Foreign { path: path.to_owned(), what: "memory file" };
        let at = file_bytes.checked_sub(TRAILER_BYTES).filter(|_| metadata.is_file());
        let mut block = [0; PAGE_BYTES];
        file.read_exact_at(&mut block, at.ok_or_else(foreign)?).map_err(fail("read", path))?;
        let trailer = Trailer::decode(&block).map_err(|error| match error {
            TrailerError::Foreign => foreign(),
            TrailerError::Version(version) => SnapshotError::Version {
                path: path.to_owned(),
                version,
                writer: "another version".to_owned(),
                readable: "1".to_owned(),
            },
            TrailerError::Damaged(reason) => SnapshotError::damaged(path, reason),
        })?;
        if trailer.file_bytes() != file_bytes {
            return Err(SnapshotError::Truncated {
                path: path.to_owned(),
                actual_bytes: file_bytes,
                expected_bytes: trailer.file_bytes(),
            });
        }
        let extents = read_extents(&file, path, &trailer)?;
        Ok(Self { file, path: path.to_owned(), trailer, extents })
    }

    /// Opens a memory file that is complete and hasn't got its name yet.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_pending(pending: &PendingFile) -> Result<Self, SnapshotError> {
        Self::open(pending.temporary())
    }

    /// Opens the memory file that belongs to `header`, at `path` or where a writer that was killed
    /// kept it.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`check`](Self::check), about `path`.
    pub fn open_for(path: &Path, header: &SnapshotHeader) -> Result<Self, SnapshotError> {
        let open = |path: &Path| {
            let file = Self::open(path).map_err(|error| explain_length(error, path, header))?;
            file.check(header)?;
            Ok(file)
        };
        let [first, kept] = crate::publish::memory_candidates(path);
        open(&first).or_else(|error| open(&kept).map_err(|_| error))
    }

    /// Checks that this is the memory that `header` speaks of.
    ///
    /// # Errors
    /// [`SnapshotError::OtherSnapshot`] if it's another's, [`SnapshotError::Damaged`] if the two
    /// contradict each other.
    pub fn check(&self, header: &SnapshotHeader) -> Result<(), SnapshotError> {
        if self.id() != header.id {
            return Err(SnapshotError::OtherSnapshot {
                path: self.path.clone(),
                actual: self.id(),
                expected: header.id,
            });
        }
        let agrees = self.info() == header.memory
            && self.trailer.regions == header.regions
            && self.kind() == header.kind
            && self.parent() == header.parent;
        if agrees {
            Ok(())
        } else {
            Err(SnapshotError::damaged(&self.path, "its trailer contradicts the state file"))
        }
    }

    /// Reads all of the content and compares its checksum.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if a bit isn't as it was written.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        let mut hash = MemoryHash::default();
        let (mut pages, mut outside) = (0, None);
        let mut extents = self.extents.iter().peekable();
        self.for_each_page(|offset, page| {
            hash.add(offset, page);
            pages += 1;
            while extents.next_if(|extent| extent.end() <= offset).is_some() {}
            let within = extents.peek().is_some_and(|extent| extent.offset <= offset);
            if self.kind() == Kind::Diff && !within {
                outside = Some(offset);
            }
        })?;
        let fail = |reason: String| Err(SnapshotError::damaged(&self.path, reason));
        if let Some(offset) = outside {
            return fail(format!("it holds a page at {offset:#x} that it doesn't list"));
        }
        if (hash, pages) != (self.trailer.hash, self.trailer.data_pages) {
            return fail("the checksum of its content is wrong".to_owned());
        }
        Ok(())
    }

    /// Calls `each` with the offset and the content of every page that isn't zero, in order.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn for_each_page(&self, mut each: impl FnMut(u64, &[u8])) -> Result<(), SnapshotError> {
        let fail = |source| SnapshotError::io("read", &self.path)(source);
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut next = 0;
        while let Some((from, to)) = self.data_from(next).map_err(fail)? {
            let mut offset = from;
            while offset < to {
                let len = usize::try_from(to - offset).unwrap_or(usize::MAX).min(CHUNK_BYTES);
                let chunk = &mut buffer[..len];
                self.file.read_exact_at(chunk, offset).map_err(fail)?;
                for page in chunk.chunks_exact(PAGE_BYTES) {
                    if !is_zero(page) {
                        each(offset, page);
                    }
                    offset += PAGE;
                }
            }
            next = to;
        }
        Ok(())
    }

    /// Returns the next range of whole pages from `offset` on that isn't a hole.
    ///
    /// # Errors
    /// What the file system says.
    pub fn data_from(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let end = self.trailer.content_bytes;
        if offset >= end {
            return Ok(None);
        }
        let from = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(from) if from < end => from - from % PAGE,
            Ok(_) | Err(Errno::NXIO) => return Ok(None),
            // A file system that knows nothing of holes has none.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, end))),
            Err(error) => return Err(error.into()),
        };
        let to = rustix::fs::seek(&self.file, SeekFrom::Hole(from.max(offset)))?;
        Ok(Some((from.max(offset), to.next_multiple_of(PAGE).min(end))))
    }

    /// Fills `buffer` from byte `offset` of the content.
    ///
    /// # Errors
    /// What the file system says, or that there is less content.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.trailer.content_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buffer, offset)
    }

    /// Returns the file, whose content begins at offset 0. Who maps it keeps it open.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether it stands by itself.
    pub fn kind(&self) -> Kind {
        self.trailer.kind
    }

    /// Returns the snapshot's id.
    pub fn id(&self) -> SnapshotId {
        self.trailer.id
    }

    /// Returns the id of the snapshot that a differential one builds upon.
    pub fn parent(&self) -> Option<SnapshotId> {
        self.trailer.parent
    }

    /// Returns the guest's RAM regions, whose content lies in the file one after the other.
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.trailer.regions
    }

    /// Returns the runs of pages that a differential file holds, in order.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Returns what a state file's header says about this file.
    pub fn info(&self) -> MemoryInfo {
        MemoryInfo {
            file_bytes: self.trailer.file_bytes(),
            content_bytes: self.trailer.content_bytes,
            data_pages: self.trailer.data_pages,
            hash: self.trailer.hash,
        }
    }
}

/// A file without its end has no trailer, and looks foreign; the state file knows its length.
fn explain_length(error: SnapshotError, path: &Path, header: &SnapshotHeader) -> SnapshotError {
    let expected_bytes = header.memory.file_bytes;
    match (error, std::fs::metadata(path)) {
        (SnapshotError::Foreign { .. }, Ok(found))
            if found.is_file() && found.len() < expected_bytes =>
        {
            let path = path.to_owned();
            SnapshotError::Truncated { path, actual_bytes: found.len(), expected_bytes }
        }
        (error, _) => error,
    }
}

fn read_extents(file: &File, path: &Path, trailer: &Trailer) -> Result<Vec<Extent>, SnapshotError> {
    // The trailer was checked: not more than `MAX_EXTENTS`, and the file has that length.
    let to_len = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut bytes = vec![0; to_len(trailer.extents_bytes())];
    file.read_exact_at(&mut bytes, trailer.content_bytes)
        .map_err(SnapshotError::io("read", path))?;
    if checksum(&bytes) != trailer.extents_checksum {
        return Err(SnapshotError::damaged(path, "the checksum of its list of pages is wrong"));
    }
    bytes.truncate(to_len(trailer.extent_count * EXTENT_BYTES));
    decode_extents(&bytes, trailer.content_bytes)
        .ok_or_else(|| SnapshotError::damaged(path, "its list of pages is wrong"))
}
