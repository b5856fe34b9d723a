//! The file behind persistent memory.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use sys::file_lock::FileLock;
use sys::file_mapping::FileMapping;

use crate::disk::{self, DiskError};

/// A file that is open and locked as a disk image is.
///
/// The guest sees it as long as the next multiple of [`ALIGNMENT`](Self::ALIGNMENT); what's behind
/// the file's end reads as zeros at first and isn't kept.
#[derive(Debug)]
pub struct PmemFile {
    file: Arc<File>,
    file_len: u64,
    len: u64,
    read_only: bool,
    _lock: Option<FileLock>,
}

impl PmemFile {
    /// Of what persistent memory's place and length are multiples, in bytes: Linux adds memory to its
    /// map in sections of 2 MiB at least (`SUBSECTION_SIZE`), and huge pages need it.
    pub const ALIGNMENT: u64 = 2 << 20;

    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`DiskError`]: there's no such file, it isn't one that can be mapped, it may not be opened,
    /// somebody else uses it, or it's empty.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let (file, file_len, lock) = disk::open_to_map(path, read_only)?;
        let Some(len) = file_len.checked_next_multiple_of(Self::ALIGNMENT) else {
            let source = io::ErrorKind::FileTooLarge.into();
            return Err(DiskError::Open { path: path.to_owned(), source });
        };
        Ok(Self { file, file_len, len, read_only, _lock: lock })
    }

    /// Maps it for a guest.
    ///
    /// # Errors
    /// When the host doesn't map it.
    pub fn map(&self) -> io::Result<FileMapping> {
        let (file_len, len) = (usize::try_from(self.file_len), usize::try_from(self.len));
        let (Ok(file_len), Ok(len)) = (file_len, len) else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        FileMapping::new(&self.file, file_len, len, !self.read_only)
    }

    /// Returns how long the guest sees it, in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Tells whether it's empty, which no such file is.
    pub fn is_empty(&self) -> bool {
        self.file_len == 0
    }

    /// Tells whether the guest may only read.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Returns how long the file is, in bytes.
    pub(super) fn file_len(&self) -> u64 {
        self.file_len
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }
}
