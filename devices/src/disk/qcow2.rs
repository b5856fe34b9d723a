//! qcow2 images, through `imago`.

use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, StorageOpenOptions};
use sys::memory::GuestRam;

use super::bounce::Bounce;
use super::direct::MAX_ALIGNMENT;
use super::engine::{Completion, Durability, IoEngine, IoRequest};
use super::{Cache, DiskBackend, DiskError, DiskOptions, Format};

/// How imago reads and writes an image. Discards change mappings and need it alone.
type Access = Arc<RwLock<FormatAccess<ImagoFile>>>;

/// A qcow2 image without any file beside it.
pub(super) struct Qcow2Disk {
    access: Access,
    len: u64,
    cache: Cache,
    read_only: bool,
}

impl Qcow2Disk {
    /// Opens the image in `file`, and nothing else.
    pub(super) fn open(file: &File, options: &DiskOptions) -> Result<Self, DiskError> {
        let path = &options.path;
        let invalid =
            |source| DiskError::Format { path: path.clone(), format: Format::Qcow2, source };
        let storage_options = StorageOpenOptions::new()
            .filename(path)
            .write(!options.read_only)
            .direct(options.cache == Cache::Direct);
        // A duplicate shares the open file description, and the lock on it.
        let duplicate = file.try_clone().map_err(invalid)?;
        let storage = ImagoFile::from_open_file(duplicate, storage_options).map_err(invalid)?;
        let mut image: Qcow2<ImagoFile> =
            Qcow2::open_image(storage, !options.read_only).map_err(invalid)?;
        if let Some(other) = other_file(&image) {
            return Err(DiskError::OtherFile { path: path.clone(), other });
        }
        image.open_implicit_dependencies_gated(DenyImplicitOpenGate::default()).map_err(invalid)?;
        let access = FormatAccess::new(image);
        let len = access.size();
        if len == 0 {
            return Err(DiskError::Empty { path: path.clone() });
        }
        if !len.is_multiple_of(512) {
            return Err(DiskError::Length { path: path.clone(), len, block_size: 512 });
        }
        let access = Arc::new(RwLock::new(access));
        Ok(Self { access, len, cache: options.cache, read_only: options.read_only })
    }
}

/// Names the file that an image's header wants besides the image.
fn other_file(image: &Qcow2<ImagoFile>) -> Option<String> {
    if let Some(backing) = image.implicit_backing_file() {
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

    fn physical_block_size(&self) -> u32 {
        4096
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
                access.discard_to_zero(offset, len)?;
            }
            IoRequest::WriteZeroes { offset, len, unmap: false } => {
                let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
                access.write_zeroes(offset, len)?;
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
