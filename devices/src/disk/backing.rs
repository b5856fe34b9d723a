//! The images below a qcow2 image, which show through where it has nothing of its own.
//!
//! Whoever attaches a disk names all of them: no header is asked. They are only read, under a lock
//! that others who read share.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use imago::FormatAccess;
use imago::file::File as ImagoFile;
use imago::raw::Raw;
use sys::file_lock::FileLock;

use super::{Cache, DiskError, DiskOptions, Format, cannot_open, direct, lock, open_file, qcow2};

/// An image that others build upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its format. A raw image builds upon nothing.
    pub format: Format,
}

/// An open chain of images below another.
pub(super) struct Backing {
    /// What shows through; none if there is no image below.
    pub(super) access: Option<FormatAccess<ImagoFile>>,
    /// The smallest unit that can be read of all of them, in bytes.
    pub(super) block_size: u32,
    pub(super) locks: Vec<FileLock>,
}

/// An open image of a chain.
struct Layer {
    options: DiskOptions,
    file: Arc<File>,
}

impl Backing {
    /// Opens and locks what `options` name below the image in `top`.
    pub(super) fn open(options: &DiskOptions, top: &File) -> Result<Self, DiskError> {
        let identity = |file: &File, options: &DiskOptions| {
            file.metadata()
                .map(|metadata| identity(&metadata))
                .map_err(|source| cannot_open(&options.path, source))
        };
        let mut seen = vec![identity(top, options)?];
        let mut locks = Vec::new();
        let mut layers = Vec::new();
        for BackingFile { path, format } in &options.backing {
            let options = DiskOptions {
                format: Some(*format),
                read_only: true,
                cache: options.cache,
                ..DiskOptions::new(path)
            };
            let file = Arc::new(open_file(&options)?);
            let identity = identity(&file, &options)?;
            if seen.contains(&identity) {
                return Err(DiskError::Repeated { path: options.path });
            }
            seen.push(identity);
            locks.extend(lock(&file, &options)?);
            layers.push(Layer { options, file });
        }
        let (mut access, mut block_size) = (None, 512);
        // A chain is built from its base up.
        for layer in layers.iter().rev() {
            let (above, unit) = layer.open(access)?;
            access = Some(above);
            block_size = unit.max(block_size);
        }
        Ok(Self { access, block_size, locks })
    }
}

impl Layer {
    /// Opens the image over `below`; returns its block size, too.
    fn open(
        &self,
        below: Option<FormatAccess<ImagoFile>>,
    ) -> Result<(FormatAccess<ImagoFile>, u32), DiskError> {
        match self.options.format {
            Some(Format::Qcow2) => Ok((qcow2::open_image(&self.file, &self.options, below)?, 512)),
            Some(Format::Raw) | None if below.is_some() => {
                let source = io::Error::other("a raw image builds upon nothing");
                let path = self.options.path.clone();
                Err(DiskError::Format { path, format: Format::Raw, source })
            }
            Some(Format::Raw) | None => self.open_raw(),
        }
    }

    fn open_raw(&self) -> Result<(FormatAccess<ImagoFile>, u32), DiskError> {
        let path = &self.options.path;
        let failed = |source| cannot_open(path, source);
        let block_size = match self.options.cache {
            Cache::Direct => direct::probe_alignment(&self.file)
                .map_err(|source| DiskError::Direct { path: path.clone(), source })?,
            Cache::WriteBack | Cache::Unsafe => 512,
        };
        let storage = qcow2::storage(&self.file, &self.options).map_err(failed)?;
        let access = FormatAccess::new(Raw::open_image(storage, false).map_err(failed)?);
        match access.size() {
            0 => Err(DiskError::Empty { path: path.clone() }),
            len if len.is_multiple_of(block_size.into()) => Ok((access, block_size)),
            len => Err(DiskError::Length { path: path.clone(), len, block_size }),
        }
    }
}

/// Tells two files, or two nodes of one block device, for the same.
pub(super) fn identity(metadata: &Metadata) -> (bool, u64, u64) {
    if metadata.file_type().is_block_device() {
        (true, metadata.rdev(), 0)
    } else {
        (false, metadata.dev(), metadata.ino())
    }
}

#[cfg(test)]
mod tests;
