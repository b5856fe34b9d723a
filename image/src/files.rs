//! The store's files: where each lies, how each gets there whole, and who may remove any.
//!
//! What's fetched or made is written to a temporary file, synced, and renamed to its place: what has
//! its name is whole, whenever a process ends. Who adds something holds the store's lock shared,
//! until the database needs it; files that the database doesn't need are removed with the lock held
//! alone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use tempfile::NamedTempFile;

use crate::ImageError;
use crate::digest::hex;

/// The store's directories.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// Keeps others from removing files, or from everything; until it's dropped.
#[derive(Debug)]
pub(crate) struct StoreLock {
    _file: File,
}

/// Adds what was tried, and with which file, to the system's error.
pub(crate) fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::File { what, path, source }
}

impl Layout {
    /// Makes the directories that aren't there.
    pub(crate) fn open(root: PathBuf) -> Result<Self, ImageError> {
        let layout = Self { root };
        for directory in ["blobs/sha256", "erofs", "roots", "partial", "tmp"] {
            let path = layout.root.join(directory);
            fs::create_dir_all(&path).map_err(at("make", &path))?;
        }
        let marker = layout.root.join("oci-layout");
        if !marker.exists() {
            let temporary = layout.temporary()?;
            fs::write(temporary.path(), crate::manifest::OCI_LAYOUT)
                .map_err(at("write", temporary.path()))?;
            layout.keep(temporary, &marker)?;
        }
        Ok(layout)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.root
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("images.db")
    }

    /// A manifest, a configuration, or a compressed layer.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(hex(digest))
    }

    /// A layer's file system.
    pub(crate) fn erofs(&self, diff_id: &str) -> PathBuf {
        self.root.join("erofs").join(hex(diff_id))
    }

    /// An image's merged metadata.
    pub(crate) fn root(&self, key: &str) -> PathBuf {
        self.root.join("roots").join(key)
    }

    /// What was fetched of a blob so far.
    pub(crate) fn partial(&self, digest: &str) -> PathBuf {
        self.root.join("partial").join(hex(digest))
    }

    /// A file that's gone unless it's kept.
    pub(crate) fn temporary(&self) -> Result<NamedTempFile, ImageError> {
        let directory = self.root.join("tmp");
        NamedTempFile::new_in(&directory).map_err(at("make a file in", &directory))
    }

    /// Gives a file that is whole its name.
    pub(crate) fn keep(&self, file: NamedTempFile, path: &Path) -> Result<(), ImageError> {
        file.as_file().sync_all().map_err(at("write", path))?;
        file.persist(path).map_err(|error| at("make", path)(error.error))?;
        sync_directory(path)
    }

    /// Stores a small blob.
    pub(crate) fn write_blob(&self, digest: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.blob(digest);
        if fs::read(&path).is_ok_and(|present| present == bytes) {
            return Ok(());
        }
        let file = self.temporary()?;
        fs::write(file.path(), bytes).map_err(at("write", file.path()))?;
        self.keep(file, &path)
    }

    /// Waits until no one removes files, and holds them off. If nobody adds anything else just now,
    /// temporary files are what somebody was killed over: they go.
    pub(crate) fn lock(&self) -> Result<StoreLock, ImageError> {
        if let Some(alone) = self.try_lock_alone()? {
            self.sweep(&alone, &|directory, _| directory != "tmp")?;
        }
        let (file, path) = self.lock_file()?;
        flock(&file, FlockOperation::LockShared).map_err(at("lock", &path))?;
        Ok(StoreLock { _file: file })
    }

    /// The lock alone; `None` if somebody adds something just now.
    pub(crate) fn try_lock_alone(&self) -> Result<Option<StoreLock>, ImageError> {
        let (file, path) = self.lock_file()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(StoreLock { _file: file })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(at("lock", &path)(error)),
        }
    }

    fn lock_file(&self) -> Result<(File, PathBuf), ImageError> {
        let path = self.root.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        Ok((file.map_err(at("open", &path))?, path))
    }

    /// Opens what was fetched of a blob so far, for this process alone; waits for another one.
    pub(crate) fn lock_partial(&self, digest: &str) -> Result<File, ImageError> {
        let path = self.partial(digest);
        loop {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).read(true).write(true);
            let file = options.open(&path).map_err(at("make", &path))?;
            flock(&file, FlockOperation::LockExclusive).map_err(at("lock", &path))?;
            // Who had it before may have made it the blob.
            let ours = file.metadata().map_err(at("read", &path))?;
            match fs::metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(file);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("read", &path)(error)),
            }
        }
    }

    /// Removes the files that `is_needed` doesn't know, of those in `blobs`, `erofs` and `roots`, by
    /// directory and name; and all temporary ones. Returns how many bytes that freed.
    pub(crate) fn sweep(
        &self,
        _alone: &StoreLock,
        is_needed: &dyn Fn(&str, &str) -> bool,
    ) -> Result<u64, ImageError> {
        let mut freed = 0;
        for directory in ["blobs/sha256", "erofs", "roots", "partial", "tmp"] {
            let path = self.root.join(directory);
            for entry in fs::read_dir(&path).map_err(at("read", &path))? {
                let entry = entry.map_err(at("read", &path))?;
                if entry.file_name().to_str().is_some_and(|name| is_needed(directory, name)) {
                    continue;
                }
                let file = entry.path();
                let bytes = entry.metadata().map(|it| it.blocks() * 512).unwrap_or_default();
                match fs::remove_file(&file) {
                    Ok(()) => freed += bytes,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(at("remove", &file)(error)),
                }
            }
        }
        Ok(freed)
    }

    /// Bytes on disk of all files.
    pub(crate) fn used_bytes(&self) -> Result<u64, ImageError> {
        let mut left = vec![self.root.clone()];
        let mut bytes = 0;
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(&directory).map_err(at("read", &directory))? {
                let entry = entry.map_err(at("read", &directory))?;
                match entry.metadata() {
                    Ok(it) if it.is_dir() => left.push(entry.path()),
                    Ok(it) => bytes += it.blocks() * 512,
                    // Somebody removed it meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(at("read", &entry.path())(error)),
                }
            }
        }
        Ok(bytes)
    }
}

/// Makes a rename into the file's directory last.
pub(crate) fn sync_directory(file: &Path) -> Result<(), ImageError> {
    let directory = file.parent().unwrap_or(file);
    File::open(directory).and_then(|it| it.sync_all()).map_err(at("write", directory))
}

fn flock(file: &File, operation: FlockOperation) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation))?)
}
