//! The root file system of an image as a tree.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use erofs::{ConcatSource, FileType, Inode, Reader};

use super::tree::{Kind, Meta, Tree};
use crate::{ImageError, Images};

/// An image's root file system, or the empty one of `scratch`.
#[derive(Debug)]
pub(super) struct Disk(Option<Reader<ConcatSource>>);

impl Disk {
    /// Opens an image's.
    ///
    /// # Errors
    /// It can't be made or read.
    pub(super) fn open(images: &Images, image_id: Option<&str>) -> Result<Self, ImageError> {
        let Some(image_id) = image_id else { return Ok(Self(None)) };
        let root = images.root_files(image_id)?;
        let mut files = Vec::new();
        for path in root.files {
            let file = File::open(&path);
            files.push(file.map_err(|source| ImageError::File { what: "read", path, source })?);
        }
        let damaged = |problem: String| {
            let what = format!("the root file system of {image_id}");
            ImageError::Invalid { what, problem }
        };
        let source = ConcatSource::new(files).map_err(|error| damaged(error.to_string()))?;
        let reader = Reader::open(source).map_err(|error| damaged(error.to_string()))?;
        Ok(Self(Some(reader)))
    }

    fn find(&self, path: &str) -> io::Result<Option<(&Reader<ConcatSource>, Inode)>> {
        let Some(reader) = &self.0 else { return Ok(None) };
        let inode = reader.resolve(path.as_bytes(), false).map_err(io::Error::other)?;
        Ok(inode.map(|inode| (reader, inode)))
    }

    fn get(&self, path: &str) -> io::Result<(&Reader<ConcatSource>, Inode)> {
        self.find(path)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

fn text(bytes: Vec<u8>, what: &str) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::other(format!("{what} isn't UTF-8")))
}

impl Tree for Disk {
    fn meta(&self, path: &str) -> io::Result<Option<Meta>> {
        let Some((reader, inode)) = self.find(path)? else {
            // The root is always there.
            return Ok(path.is_empty().then(root));
        };
        let kind = match inode.file_type() {
            FileType::Directory => Kind::Directory,
            FileType::Regular => Kind::File(inode.size()),
            FileType::Symlink => {
                let target = reader.read_link(&inode).map_err(io::Error::other)?;
                Kind::Symlink(text(target, "a link's target")?)
            }
            _ => Kind::Other,
        };
        let mut xattrs = BTreeMap::new();
        for (name, value) in reader.xattrs(&inode).map_err(io::Error::other)? {
            let name = text(name, "an attribute's name")?;
            // Overlayfs's own mean nothing in another layer.
            if !name.starts_with("trusted.overlay.") {
                xattrs.insert(name, value);
            }
        }
        Ok(Some(Meta {
            kind,
            mode: u32::from(inode.permissions()),
            uid: inode.uid().into(),
            gid: inode.gid().into(),
            mtime: u64::try_from(inode.mtime().0).unwrap_or(0),
            xattrs,
        }))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        if self.0.is_none() && path.is_empty() {
            return Ok(Vec::new());
        }
        let (reader, inode) = self.get(path)?;
        let entries = reader.read_dir(&inode).map_err(io::Error::other)?;
        entries.into_iter().map(|entry| text(entry.name.into_vec(), "a file's name")).collect()
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + '_>> {
        let (reader, inode) = self.get(path)?;
        Ok(Box::new(reader.open_file(&inode).map_err(io::Error::other)?))
    }
}

fn root() -> Meta {
    let kind = Kind::Directory;
    Meta { kind, mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() }
}
