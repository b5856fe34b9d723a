//! qcow2 images, through `imago`.

use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, StorageOpenOptions};
use sys::file_lock::FileLock;
use sys::memory::GuestRam;

use super::backing::Backing;
use super::bounce::{AlignedBuffer, Bounce};
use super::direct::MAX_ALIGNMENT;
use super::engine::{Completion, Durability, IoEngine, IoRequest};
use super::{Cache, DiskBackend, DiskError, DiskOptions, Format};

/// How imago reads and writes an image. Discards change mappings and need it alone.
type Access = Arc<RwLock<FormatAccess<ImagoFile>>>;

/// How many zeros are written at a time where the format can't express them, in bytes.
const ZEROS: usize = 64 << 10;

/// A qcow2 image over those that the user named.
pub(super) struct Qcow2Disk {
    access: Access,
    len: u64,
    block_size: u32,
    cache: Cache,
    read_only: bool,
    _backing: Vec<FileLock>,
}

impl Qcow2Disk {
    /// Opens the image in `file` over those in `options`, and nothing else.
    pub(super) fn open(file: &File, options: &DiskOptions) -> Result<Self, DiskError> {
        let path = &options.path;
        let Backing { access: below, block_size, locks } = Backing::open(options, file)?;
        let access = open_image(file, options, below)?;
        let len = access.size();
        if len == 0 {
            return Err(DiskError::Empty { path: path.clone() });
        }
        if !len.is_multiple_of(block_size.into()) {
            return Err(DiskError::Length { path: path.clone(), len, block_size });
        }
        let access = Arc::new(RwLock::new(access));
        let (cache, read_only) = (options.cache, options.read_only);
        Ok(Self { access, len, block_size, cache, read_only, _backing: locks })
    }
}

/// Opens one image over what is `below`.
pub(super) fn open_image(
    file: &File,
    options: &DiskOptions,
    below: Option<FormatAccess<ImagoFile>>,
) -> Result<FormatAccess<ImagoFile>, DiskError> {
    let path = &options.path;
    let invalid = |source| DiskError::Format { path: path.clone(), format: Format::Qcow2, source };
    let storage = storage(file, options).map_err(invalid)?;
    let mut image: Qcow2<ImagoFile> =
        Qcow2::open_image(storage, !options.read_only).map_err(invalid)?;
    if let Some(other) = other_file(&image, below.is_some()) {
        return Err(DiskError::OtherFile { path: path.clone(), other });
    }
    image.set_backing(below);
    image.open_implicit_dependencies_gated(DenyImplicitOpenGate::default()).map_err(invalid)?;
    Ok(FormatAccess::new(image))
}

/// Hands an open file to imago.
pub(super) fn storage(file: &File, options: &DiskOptions) -> io::Result<ImagoFile> {
    let storage_options = StorageOpenOptions::new()
        .filename(&options.path)
        .write(!options.read_only)
        .direct(options.cache == Cache::Direct);
    // A duplicate shares the open file description, and the lock on it.
    ImagoFile::from_open_file(file.try_clone()?, storage_options)
}

/// Names the file that an image's header wants besides the image, and that nobody has named.
fn other_file(image: &Qcow2<ImagoFile>, has_backing: bool) -> Option<String> {
    if let Some(backing) = image.implicit_backing_file().filter(|_| !has_backing) {
        return Some(backing.clone());
    }
    image
        .requires_external_data_file()
        .then(|| image.implicit_external_data_file().cloned().unwrap_or_default())
}

impl DiskBackend for Qcow2Disk {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn physical_block_size(&self) -> u32 {
        self.block_size.max(4096)
    }

    fn settle(&self) -> io::Result<()> {
        self.access.read().unwrap_or_else(PoisonError::into_inner).flush()
    }

    fn start(
        &self,
        memory: GuestRam,
        _depth: u16,
        write_through: bool,
    ) -> io::Result<Box<dyn IoEngine>> {
        let durability = Durability::new(self.cache, write_through);
        let bounce = Bounce::new(memory, MAX_ALIGNMENT);
        let access = Arc::clone(&self.access);
        Ok(Box::new(Qcow2Engine { access, durability, bounce, done: Vec::new() }))
    }
}

/// Serves one queue on its worker's thread.
///
/// Data goes through a buffer of this process: imago takes references, and there are none into
/// guest memory.
struct Qcow2Engine {
    access: Access,
    durability: Durability,
    bounce: Bounce,
    done: Vec<Completion>,
}

impl Qcow2Engine {
    fn execute(&mut self, request: IoRequest<'_>) -> io::Result<()> {
        match request {
            IoRequest::Read { offset, buffers } => {
                let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
                return self.bounce.read(offset, buffers, |chunk, at| access.read(chunk, at));
            }
            IoRequest::Flush => return self.flush(self.durability),
            IoRequest::Write { offset, buffers } => {
                let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
                self.bounce.write(offset, buffers, |chunk, at| access.write(chunk, at))?;
            }
            IoRequest::Discard { offset, len } => {
                let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
                match access.discard_to_any(offset, len) {
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                    result => result?,
                }
            }
            IoRequest::WriteZeroes { offset, len, unmap: true } => {
                let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
                match access.discard_to_zero(offset, len) {
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        write_zeros(&access, offset, len)?;
                    }
                    result => result?,
                }
            }
            IoRequest::WriteZeroes { offset, len, unmap: false } => {
                let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
                match access.write_zeroes(offset, len) {
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        write_zeros(&access, offset, len)?;
                    }
                    result => result?,
                }
            }
        }
        match self.durability {
            Durability::Always => self.flush(self.durability),
            Durability::OnFlush | Durability::Never => Ok(()),
        }
    }

    /// Writes cached metadata to the file, and the file to the storage where that's promised.
    fn flush(&self, durability: Durability) -> io::Result<()> {
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        access.flush()?;
        match durability {
            Durability::Never => Ok(()),
            Durability::OnFlush | Durability::Always => access.sync(),
        }
    }
}

/// Writes zeros as data: version 2 of the format knows no others over an image below.
fn write_zeros(access: &FormatAccess<ImagoFile>, offset: u64, len: u64) -> io::Result<()> {
    let zeros = AlignedBuffer::new(ZEROS, MAX_ALIGNMENT);
    let (mut at, mut left) = (offset, len);
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS);
        access.write(zeros.as_slice().get(..size).unwrap_or_default(), at)?;
        at = at.saturating_add(size as u64);
        left = left.saturating_sub(size as u64);
    }
    Ok(())
}

impl IoEngine for Qcow2Engine {
    fn submit(&mut self, token: u16, request: IoRequest<'_>) {
        let outcome = self.execute(request);
        self.done.push(Completion { token, outcome });
    }

    fn kick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.done);
        Ok(())
    }
}
