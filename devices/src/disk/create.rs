//! New images: each appears whole under its name or not at all, and never in place of another file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder, StorageOpenOptions};
use rustix::fs::{CWD, RenameFlags, ioctl_ficlone, renameat_with};
use rustix::io::Errno;

use super::BackingFile;

/// Nobody else may read what a guest has on its disks.
const MODE: u32 = 0o600;

/// The size of an overlay's clusters in bytes: a smaller write copies the rest from below.
const CLUSTER_BYTES: usize = 64 << 10;

/// The longest name of a backing file in a qcow2 header, in bytes.
const MAX_BACKING_NAME: usize = 1023;

/// An image that was just made. It stays when this is dropped.
#[derive(Debug)]
pub struct NewImage {
    file: File,
    path: PathBuf,
}

impl NewImage {
    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it and its name durable.
    ///
    /// # Errors
    /// The host's answer.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        File::open(directory_of(&self.path))?.sync_all()
    }

    /// Removes it.
    ///
    /// # Errors
    /// The host's answer.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Creates an empty qcow2 image of `len` bytes over `backing`. Its header names `backing` by its
/// absolute path, for other software: a [`Disk`](super::Disk) is opened with what its options name.
/// It's durable when it has been [synced](NewImage::sync).
///
/// # Errors
/// `InvalidInput` if `len` isn't a positive number of sectors, or the path doesn't fit the header;
/// `AlreadyExists` if there's a file called `target`; or what the host answers.
pub fn create_overlay(target: &Path, len: u64, backing: &BackingFile) -> io::Result<NewImage> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidInput, reason);
    if len == 0 || !len.is_multiple_of(512) {
        return Err(invalid("a disk is a positive number of sectors long"));
    }
    let name = std::path::absolute(&backing.path)?;
    let name = name.to_str().ok_or_else(|| invalid("the path of the image below isn't UTF-8"))?;
    if name.len() > MAX_BACKING_NAME {
        return Err(invalid("the path of the image below is too long for a header"));
    }
    let new = Unnamed::create(target)?;
    let options = StorageOpenOptions::new().write(true);
    let storage = ImagoFile::from_open_file(new.file.try_clone()?, options)?;
    let builder: imago::qcow2::Qcow2CreateBuilder<ImagoFile> = Qcow2::create_builder(storage);
    builder
        .cluster_size(CLUSTER_BYTES)
        .backing(name.to_owned(), backing.format.to_string())
        .size(len)
        .create()?;
    new.publish()
}

/// Makes `target` a file of its own with what's in `image`, of which it shares the blocks until
/// either is written. Returns nothing where the file system, or two of them, can't do that. It's
/// durable when it has been [synced](NewImage::sync).
///
/// # Errors
/// `AlreadyExists` if there's a file called `target`; or what the host answers.
pub fn clone_image(image: &File, target: &Path) -> io::Result<Option<NewImage>> {
    let new = Unnamed::create(target)?;
    match ioctl_ficlone(&new.file, image) {
        Ok(()) => new.publish().map(Some),
        Err(
            Errno::OPNOTSUPP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::BADF
            | Errno::NOTTY
            | Errno::NOSYS,
        ) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A file that doesn't have its name yet. Dropped, it's gone.
struct Unnamed {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
}

impl Unnamed {
    fn create(target: &Path) -> io::Result<Self> {
        // What's there is refused before anything is done; the renaming refuses it again.
        match fs::symlink_metadata(target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        if target.file_name().is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".disk-{:016x}.partial", u64::from_ne_bytes(random));
        let temporary = directory_of(target).join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&temporary)?;
        Ok(Self { file, temporary, target: target.to_owned() })
    }

    /// Gives the file its name.
    fn publish(self) -> io::Result<NewImage> {
        let (from, to) = (&self.temporary, &self.target);
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A file system that can't refuse to replace: a second name does the same. The first
            // goes with `self`.
            Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(from, to)?,
            renamed => renamed?,
        }
        Ok(NewImage { file: self.file.try_clone()?, path: self.target.clone() })
    }
}

impl Drop for Unnamed {
    /// There's nothing left to remove once it has been renamed.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Returns the directory that `path` is in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
pub(super) mod tests;
