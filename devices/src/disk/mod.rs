//! Disk images: what a block device reads and writes, apart from any guest-facing protocol.
//!
//! [`Disk::open`] checks and locks an image and decides, once, its [`Format`] and [`Engine`]. Above
//! it, `virtio::block` parses requests; below it, an [`IoEngine`] per queue only submits and
//! completes.
//!
//! # What an image may refer to
//! Nothing. What a qcow2 image builds upon is what [`DiskOptions::backing`] names, whatever its header
//! says; without that, an image with a backing file is refused, naming that file, and one with an
//! external data file always is: only what the user named is opened.
//!
//! # How the format is decided
//! By the user, or else by the file's first bytes when it's opened. After that a guest may write
//! what it likes where a header would be: the format stays, and [`Disk::format`] tells it to whoever
//! stores a configuration to attach the image again.

mod backing;
mod bounce;
mod concat;
mod create;
mod direct;
mod engine;
mod error;
mod qcow2;
mod raw;
mod sync;
mod uring;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use sys::file_lock::{FileLock, LockError, LockMode};
use sys::memory::GuestRam;
use sys::uring::FileRing;

pub use backing::BackingFile;
pub use create::{NewImage, clone_image, create_overlay};
pub use engine::{Completion, DiskBackend, IoEngine, IoRequest};
pub use error::{DiskError, DiskErrorKind};

/// The first bytes of a qcow2 image.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// How an image's bytes make up the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Byte for byte.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// How the host carries requests out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// One request at a time, by system calls that block the queue's worker.
    Sync,
    /// All requests of a queue at once, through an io_uring. Raw images only.
    IoUring,
}

/// What a completed flush means, and whether the host's page cache is between guest and storage.
///
/// In every mode a driver that didn't negotiate `VIRTIO_BLK_F_FLUSH` gets each write treated as if
/// a flush came with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Writes go to the page cache; a completed flush has them on the host's storage. What was
    /// flushed survives a crash of the host.
    #[default]
    WriteBack,
    /// As [`WriteBack`](Self::WriteBack), past the page cache (`O_DIRECT`). A flush is needed all
    /// the same: for the storage's own cache and for the file's metadata.
    Direct,
    /// Writes go to the page cache and flushes do nothing. Survives the end of the VMM in any
    /// way, but not a crash of the host: for disks that can be made again.
    Unsafe,
}

/// What to open, and how.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// The image.
    pub path: PathBuf,
    /// Its format; `None` looks at its first bytes.
    pub format: Option<Format>,
    /// Whether the guest may not write to it. Such an image can be shared with other readers.
    pub read_only: bool,
    /// What flushes mean.
    pub cache: Cache,
    /// How to carry out requests; `None` takes io_uring where format and host allow it.
    pub engine: Option<Engine>,
    /// The images that a qcow2 image builds upon, from the nearest to the base. They are only read,
    /// and can be shared with other readers. Where they end, there are zeros.
    pub backing: Vec<BackingFile>,
    /// Raw files that follow the image, in this order, in the disk's address space. Only for a raw,
    /// read-only disk; each file, the image too, is a whole number of blocks long.
    pub concat: Vec<PathBuf>,
}

impl DiskOptions {
    /// Asks for the image at `path`, writable, with everything else left to choice or default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            read_only: false,
            cache: Cache::default(),
            engine: None,
            backing: Vec::new(),
            concat: Vec::new(),
        }
    }
}

/// An open, locked image. Clones share it; the lock goes with the last. No engine outlives it.
#[derive(Clone)]
pub struct Disk {
    backend: Arc<dyn DiskBackend>,
    path: PathBuf,
    format: Format,
    engine: Engine,
    read_only: bool,
    file: Arc<File>,
    identity: (bool, u64, u64),
    lock: Option<Arc<FileLock>>,
}

impl Disk {
    /// Opens, locks and checks an image.
    ///
    /// # Errors
    /// [`DiskError`], which names the path.
    pub fn open(options: &DiskOptions) -> Result<Self, DiskError> {
        Self::open_beside(options, None)
    }

    /// Opens what is to replace this disk: another image, or the same one, whose length has changed
    /// meanwhile. The same image keeps its lock and its format; if it's qcow2 it can't be open
    /// twice, and is refused as being in use.
    ///
    /// # Errors
    /// [`DiskError`], which names the path.
    pub fn open_replacement(&self, options: &DiskOptions) -> Result<Self, DiskError> {
        Self::open_beside(options, Some(self))
    }

    fn open_beside(options: &DiskOptions, other: Option<&Self>) -> Result<Self, DiskError> {
        let path = options.path.as_path();
        let file = Arc::new(open_file(options)?);
        let metadata = file.metadata().map_err(|source| cannot_open(path, source))?;
        let identity = backing::identity(&metadata);
        let same = other.filter(|other| other.is_open_again(identity, options));
        let options = &DiskOptions {
            format: same.map_or(options.format, |same| Some(same.format)),
            ..options.clone()
        };
        let lock = match same {
            Some(same) => same.lock.clone(),
            None => lock(&file, options)?.map(Arc::new),
        };
        let len = (&*file).seek(SeekFrom::End(0)).map_err(|source| cannot_open(path, source))?;
        if len == 0 {
            return Err(DiskError::Empty { path: path.to_owned() });
        }
        let format = match options.format {
            Some(format) => format,
            None => detect(&file, path)?,
        };
        let engine = choose_engine(options, format)?;
        let backend: Arc<dyn DiskBackend> = match format {
            Format::Raw if !options.backing.is_empty() => {
                let source = io::Error::other("a raw image builds upon nothing");
                return Err(DiskError::Format { path: path.to_owned(), format, source });
            }
            _ if !options.concat.is_empty() => {
                concatenate(Arc::clone(&file), len, format, engine, options)?
            }
            Format::Raw => Arc::new(raw::RawDisk::open(Arc::clone(&file), len, engine, options)?),
            Format::Qcow2 => Arc::new(qcow2::Qcow2Disk::open(&file, options)?),
        };
        let (path, read_only) = (path.to_owned(), options.read_only);
        Ok(Self { backend, path, format, engine, read_only, file, identity, lock })
    }

    /// Tells whether the image `identity` is this one and may be open twice.
    fn is_open_again(&self, identity: (bool, u64, u64), options: &DiskOptions) -> bool {
        self.identity == identity
            && self.format == Format::Raw
            && self.read_only == options.read_only
    }

    /// Returns the image's path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the format that the image was opened as. It never changes.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the engine that was chosen.
    pub fn engine(&self) -> Engine {
        self.engine
    }
}

impl DiskBackend for Disk {
    fn replacement(&self, options: &DiskOptions) -> Result<Disk, DiskError> {
        self.open_replacement(options)
    }

    fn len_bytes(&self) -> u64 {
        self.backend.len_bytes()
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn block_size(&self) -> u32 {
        self.backend.block_size()
    }

    fn physical_block_size(&self) -> u32 {
        self.backend.physical_block_size()
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn settle(&self) -> io::Result<()> {
        self.backend.settle()
    }

    fn freeze(&self) -> io::Result<()> {
        self.settle()?;
        self.lock.as_ref().map_or(Ok(()), |lock| lock.downgrade())
    }

    fn thaw(&self) -> io::Result<()> {
        let Some(lock) = self.lock.as_ref().filter(|_| !self.read_only) else { return Ok(()) };
        lock.upgrade().map_err(io::Error::other)
    }

    fn start(
        &self,
        memory: GuestRam,
        depth: u16,
        write_through: bool,
    ) -> io::Result<Box<dyn IoEngine>> {
        self.backend.start(memory, depth, write_through)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("path", &self.path)
            .field("format", &self.format)
            .field("engine", &self.engine)
            .field("read_only", &self.read_only)
            .field("len_bytes", &self.backend.len_bytes())
            .finish()
    }
}

/// Opens and locks the file at `path` as a raw disk's, for a device that maps it. Returns its length,
/// too, which isn't 0.
pub(crate) fn open_to_map(
    path: &Path,
    read_only: bool,
) -> Result<(Arc<File>, u64, Option<FileLock>), DiskError> {
    let options = DiskOptions { format: Some(Format::Raw), read_only, ..DiskOptions::new(path) };
    let file = Arc::new(open_file(&options)?);
    let lock = lock(&file, &options)?;
    // A block device's metadata don't tell its length.
    match rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)) {
        Ok(0) => Err(DiskError::Empty { path: path.to_owned() }),
        Ok(len) => Ok((file, len, lock)),
        Err(error) => Err(cannot_open(path, error.into())),
    }
}

/// Opens a disk of several files, if it can be one.
fn concatenate(
    first: Arc<File>,
    len: u64,
    format: Format,
    engine: Engine,
    options: &DiskOptions,
) -> Result<Arc<dyn DiskBackend>, DiskError> {
    if format == Format::Raw && options.read_only {
        return Ok(Arc::new(concat::ConcatDisk::open(first, len, engine, options)?));
    }
    let source = io::Error::other("only a raw, read-only disk goes on in further files");
    Err(DiskError::Format { path: options.path.clone(), format, source })
}

fn cannot_open(path: &Path, source: io::Error) -> DiskError {
    DiskError::Open { path: path.to_owned(), source }
}

/// Opens the file as the options want it, if it's of a kind that can be a disk.
fn open_file(options: &DiskOptions) -> Result<File, DiskError> {
    let path = options.path.as_path();
    // Before it's opened: opening a FIFO waits for its other end.
    check_type(path, std::fs::metadata(path))?;
    let flags = if options.cache == Cache::Direct { OFlags::DIRECT } else { OFlags::empty() };
    let opened = OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = opened.map_err(|source| classify_open(options, source))?;
    // It may have been replaced meanwhile.
    check_type(path, file.metadata())?;
    Ok(file)
}

fn check_type(path: &Path, metadata: io::Result<Metadata>) -> Result<(), DiskError> {
    let kind = match metadata {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DiskError::NotFound { path: path.to_owned() });
        }
        Err(source) => return Err(cannot_open(path, source)),
    };
    if kind.is_file() || kind.is_block_device() {
        Ok(())
    } else {
        Err(DiskError::NotAnImage { path: path.to_owned() })
    }
}

fn classify_open(options: &DiskOptions, source: io::Error) -> DiskError {
    let path = options.path.clone();
    match source.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            if !options.read_only && File::open(&path).is_ok() =>
        {
            DiskError::ReadOnly { path, source }
        }
        io::ErrorKind::InvalidInput if options.cache == Cache::Direct => {
            DiskError::Direct { path, source }
        }
        _ => DiskError::Open { path, source },
    }
}

/// Locks the image; on a file system without locks, says so and goes on.
fn lock(file: &Arc<File>, options: &DiskOptions) -> Result<Option<FileLock>, DiskError> {
    let mode = if options.read_only { LockMode::Read } else { LockMode::Write };
    match FileLock::acquire(Arc::clone(file), mode) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::InUse) => Err(DiskError::InUse { path: options.path.clone() }),
        Err(LockError::Io(source)) => {
            use rustix::io::Errno;
            let errno = source.raw_os_error().map(Errno::from_raw_os_error);
            if matches!(errno, Some(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS)) {
                log::warn!("{} isn't locked against other users: {source}", options.path.display());
                return Ok(None);
            }
            Err(cannot_open(&options.path, source))
        }
    }
}

/// Decides the format by the file's first bytes.
fn detect(file: &File, path: &Path) -> Result<Format, DiskError> {
    // A whole, aligned block, for a file that was opened for direct I/O.
    let mut block = bounce::AlignedBuffer::new(direct::MAX_ALIGNMENT, direct::MAX_ALIGNMENT);
    let read = loop {
        match file.read_at(block.as_mut_slice(), 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result.map_err(|source| cannot_open(path, source))?,
        }
    };
    let start = block.as_slice().get(..read).unwrap_or_default();
    if !start.starts_with(&QCOW2_MAGIC) {
        return Ok(Format::Raw);
    }
    log::warn!("disk image {} looks like qcow2 and is opened as that", path.display());
    Ok(Format::Qcow2)
}

fn choose_engine(options: &DiskOptions, format: Format) -> Result<Engine, DiskError> {
    let available = match format {
        Format::Raw => FileRing::probe(),
        Format::Qcow2 => Err(io::Error::other("qcow2 images are for the sync engine")),
    };
    match (options.engine, available) {
        (Some(Engine::Sync), _) => Ok(Engine::Sync),
        (Some(Engine::IoUring) | None, Ok(())) => Ok(Engine::IoUring),
        (None, Err(error)) => {
            log::debug!("{} uses the sync engine: {error}", options.path.display());
            Ok(Engine::Sync)
        }
        (Some(Engine::IoUring), Err(source)) => {
            Err(DiskError::Engine { path: options.path.clone(), source })
        }
    }
}
