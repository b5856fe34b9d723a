//! What an archive has in it: hostile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use erofs::{Archive, ArchiveError, Entry, Kind};
use tempfile::TempPath;

use crate::digest::{self, Hashing};
use crate::error::{chain, shown};
use crate::files::at;
use crate::layer::with_decompressed;
use crate::manifest::MAX_DOCUMENT;
use crate::{ImageError, Images};

/// Files in an archive of images: one for each layer, and some more.
const MAX_FILES: usize = 20_000;
/// Links on the way to a file.
const MAX_LINKS: usize = 8;

/// The files of an archive, or of a directory.
pub(super) enum Files {
    /// Unpacked, by normalized path.
    Archive(BTreeMap<String, Item>),
    Directory(PathBuf),
}

/// What's at a path of an archive.
pub(super) enum Item {
    File(Stored),
    /// Another path, normalized.
    Link(String),
}

/// A file of an archive, unpacked.
pub(super) struct Stored {
    path: TempPath,
    digest: String,
    bytes: u64,
}

/// A file to be read.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) digest: String,
    pub(super) bytes: u64,
}

pub(super) fn invalid(problem: impl Into<String>) -> ImageError {
    ImageError::Invalid { what: "the archive".to_owned(), problem: problem.into() }
}

impl Files {
    /// Unpacks an archive, compressed or not.
    pub(super) fn unpack(images: &Images, archive: &mut dyn Read) -> Result<Self, ImageError> {
        let unpacked = with_decompressed(archive, |archive| unpack(images, archive));
        unpacked.map_err(|error| invalid(error.to_string()))?.map(Self::Archive)
    }

    /// Finds a file, by what links lead to.
    pub(super) fn find(&self, path: &str) -> Result<Option<Source>, ImageError> {
        let Some(mut path) = normalize("", path) else { return Ok(None) };
        let files = match self {
            Self::Directory(root) => return find_in(root, &path),
            Self::Archive(files) => files,
        };
        for _ in 0..MAX_LINKS {
            match files.get(&path) {
                Some(Item::Link(target)) => path.clone_from(target),
                Some(Item::File(Stored { path, digest, bytes })) => {
                    let (path, digest) = (path.to_path_buf(), digest.clone());
                    return Ok(Some(Source { path, digest, bytes: *bytes }));
                }
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// A file that must be there.
    pub(super) fn require(&self, path: &str) -> Result<Source, ImageError> {
        self.find(path)?.ok_or_else(|| invalid(format!("it has no file {:?}", shown(path))))
    }

    /// The blob of a digest, which it must have.
    pub(super) fn blob(&self, digest: &str) -> Result<Source, ImageError> {
        let source = self.require(&format!("blobs/sha256/{}", digest::hex(digest)))?;
        if source.digest != digest {
            let found = &source.digest;
            return Err(invalid(format!("its blob {digest} has the digest {found}")));
        }
        Ok(source)
    }
}

impl Source {
    /// Reads a small document.
    pub(super) fn read(&self) -> Result<Vec<u8>, ImageError> {
        if self.bytes > MAX_DOCUMENT {
            return Err(invalid(format!("a document of {} bytes", self.bytes)));
        }
        std::fs::read(&self.path).map_err(at("read", &self.path))
    }

    pub(super) fn open(&self) -> Result<File, ImageError> {
        File::open(&self.path).map_err(at("open", &self.path))
    }
}

/// A file of a layout's directory.
fn find_in(root: &Path, path: &str) -> Result<Option<Source>, ImageError> {
    let path = root.join(path);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("open", &path)(error)),
    };
    let mut file = Hashing::new(file);
    std::io::copy(&mut file, &mut std::io::sink()).map_err(at("read", &path))?;
    let (_, digest, bytes) = file.finish();
    Ok(Some(Source { path, digest, bytes }))
}

fn unpack(images: &Images, archive: &mut dyn Read) -> Result<BTreeMap<String, Item>, ImageError> {
    let broken = |error: ArchiveError| match error {
        // What's read isn't what's wrong with it.
        ArchiveError::Io(error) => invalid(format!("it can't be read: {error}")),
        error => invalid(chain(&error)),
    };
    let mut archive = Archive::new(archive, &images.limits);
    let mut files = BTreeMap::new();
    while let Some(entry) = archive.next_entry().map_err(broken)? {
        if files.len() >= MAX_FILES {
            return Err(invalid(format!("it has more than {MAX_FILES} files")));
        }
        let path = std::str::from_utf8(&entry.path).ok().and_then(|path| normalize("", path));
        // What images name is none of those.
        let Some(path) = path else { continue };
        let item = match entry.kind {
            Kind::Regular => {
                Item::File(store(images, &mut archive, &entry).map_err(|error| match error {
                    StoreError::Archive(error) => broken(error),
                    StoreError::Store(error) => error,
                })?)
            }
            Kind::HardLink | Kind::Symlink => {
                let from = if entry.kind == Kind::Symlink { parent(&path) } else { "" };
                let target = std::str::from_utf8(&entry.link).ok();
                let Some(target) = target.and_then(|target| normalize(from, target)) else {
                    continue;
                };
                Item::Link(target)
            }
            _ => continue,
        };
        files.insert(path, item);
    }
    Ok(files)
}

enum StoreError {
    Archive(ArchiveError),
    Store(ImageError),
}

/// Writes an entry's data to a temporary file.
fn store<R: Read>(
    images: &Images,
    archive: &mut Archive<R>,
    entry: &Entry,
) -> Result<Stored, StoreError> {
    if !entry.is_plain() {
        let error = invalid("it has a sparse file where a layer or a document belongs");
        return Err(StoreError::Store(error));
    }
    let file = images.layout.temporary().map_err(StoreError::Store)?;
    let mut buffer = vec![0; 128 << 10];
    let mut out = Hashing::new(file);
    loop {
        let read = archive.read_data(&mut buffer).map_err(StoreError::Archive)?;
        if read == 0 {
            break;
        }
        out.write_all(&buffer[..read])
            .map_err(|error| StoreError::Store(at("write", images.layout.directory())(error)))?;
    }
    let (file, digest, bytes) = out.finish();
    // Thousands of open files are too many.
    Ok(Stored { path: file.into_temp_path(), digest, bytes })
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A path from the archive's root, without `.` and `..`; none if it leads out, or nowhere.
fn normalize(from: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').filter(|it| !it.is_empty()).collect();
    if path.starts_with('/') {
        parts.clear();
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}
