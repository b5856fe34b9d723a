//! The layer that an instruction makes: an archive, and what the cache knows it by.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek};

use sha2::{Digest, Sha256};

use super::tree::{Kind, Meta, Tree, join, resolve};

/// A layer that is being made.
pub(super) struct Layer {
    archive: tar::Builder<BufWriter<File>>,
    /// Of everything but times: a fresh checkout of the same files is the same.
    digest: Sha256,
    /// Directories that it has already.
    directories: BTreeSet<String>,
    /// Links that it has, which nothing may be in.
    links: BTreeSet<String>,
}

/// A layer that is whole.
pub(super) struct Finished {
    /// An uncompressed archive, at its start.
    pub(super) archive: File,
    /// Of everything in it but times.
    pub(super) digest: [u8; 32],
}

impl Layer {
    /// Begins one in `file`.
    pub(super) fn new(file: File) -> Self {
        let mut archive = tar::Builder::new(BufWriter::new(file));
        archive.mode(tar::HeaderMode::Complete);
        let (directories, links) = Default::default();
        Self { archive, digest: Sha256::new(), directories, links }
    }

    /// Ends it.
    pub(super) fn finish(self) -> io::Result<Finished> {
        let mut archive = self.archive.into_inner()?.into_inner().map_err(|it| it.into_error())?;
        archive.rewind()?;
        Ok(Finished { archive, digest: self.digest.finalize().into() })
    }

    /// Adds a directory, once.
    pub(super) fn directory(&mut self, path: &str, meta: &Meta) -> io::Result<()> {
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.note(path, meta, b"directory");
        self.append(path, meta, tar::EntryType::Directory, 0, &mut io::empty())
    }

    /// Adds all directories on the way to `path`, and `path` itself, which is resolved: those that
    /// `image` has as it has them, others with `meta`.
    pub(super) fn directories(
        &mut self,
        image: &dyn Tree,
        path: &str,
        meta: &Meta,
    ) -> io::Result<()> {
        let mut parent = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            parent = join(&parent, part);
            if self.directories.contains(&parent) {
                continue;
            }
            if self.links.contains(&parent) {
                return Err(io::Error::other(format!("/{parent} is a link that was just made")));
            }
            match image.meta(&parent)? {
                Some(there) if there.kind == Kind::Directory => self.directory(&parent, &there)?,
                Some(_) => {
                    return Err(io::Error::other(format!("/{parent} is no directory")));
                }
                None => self.directory(&parent, meta)?,
            }
        }
        Ok(())
    }

    /// Adds a file of so many bytes, in place of any that it has by that name.
    pub(super) fn file(
        &mut self,
        path: &str,
        meta: &Meta,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let mut content = Hashing { inner: content.take(size), hasher: Sha256::new() };
        let kind = tar::EntryType::Regular;
        // Padded by what isn't there if the file has become shorter: the sizes are compared below.
        self.append(path, meta, kind, size, &mut content)?;
        if content.inner.limit() != 0 {
            return Err(io::Error::other(format!("/{path} became shorter while it was read")));
        }
        let digest = content.hasher.finalize();
        self.note(path, meta, &digest);
        Ok(())
    }

    /// Adds a symbolic link.
    pub(super) fn symlink(&mut self, path: &str, meta: &Meta, target: &str) -> io::Result<()> {
        self.note(path, meta, target.as_bytes());
        self.links.insert(path.to_owned());
        let mut header = header(meta, tar::EntryType::Symlink, 0);
        self.archive.append_link(&mut header, path, target)
    }

    /// Adds a hard link to a file that it has.
    pub(super) fn link(&mut self, path: &str, meta: &Meta, target: &str) -> io::Result<()> {
        self.note(path, meta, target.as_bytes());
        let mut header = header(meta, tar::EntryType::Link, 0);
        self.archive.append_link(&mut header, path, target)
    }

    fn append(
        &mut self,
        path: &str,
        meta: &Meta,
        kind: tar::EntryType,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let names: Vec<_> = meta.xattrs.keys().map(|name| format!("SCHILY.xattr.{name}")).collect();
        let extensions = names.iter().map(String::as_str);
        let extensions = extensions.zip(meta.xattrs.values().map(Vec::as_slice));
        if !meta.xattrs.is_empty() {
            self.archive.append_pax_extensions(extensions)?;
        }
        self.archive.append_data(&mut header(meta, kind, size), path, content)
    }

    /// Adds to the digest what there is besides times.
    fn note(&mut self, path: &str, meta: &Meta, content: &[u8]) {
        let mut part = |bytes: &[u8]| {
            self.digest.update((bytes.len() as u64).to_le_bytes());
            self.digest.update(bytes);
        };
        part(path.as_bytes());
        part(format!("{:o} {} {}", meta.mode, meta.uid, meta.gid).as_bytes());
        for (name, value) in &meta.xattrs {
            part(name.as_bytes());
            part(value);
        }
        part(content);
    }
}

fn header(meta: &Meta, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(meta.mode);
    header.set_uid(meta.uid);
    header.set_gid(meta.gid);
    header.set_mtime(meta.mtime);
    header
}

/// Hashes what's read.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// What's written where, and whose it is to be.
pub(super) struct Destination<'a> {
    pub(super) image: &'a dyn Tree,
    /// Resolved within the image.
    pub(super) path: String,
    /// Whether files keep their names in it.
    pub(super) is_directory: bool,
    pub(super) owner: Option<(u64, u64)>,
    /// Permission bits in place of the files' own.
    pub(super) mode: Option<u32>,
}

impl Destination<'_> {
    /// A directory that isn't there yet.
    fn new_directory(&self) -> Meta {
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let kind = Kind::Directory;
        Meta { kind, mode: 0o755, uid, gid, mtime: 0, xattrs: Default::default() }
    }

    /// Gives a file the owner and the permissions that are asked for.
    fn adopt(&self, mut meta: Meta) -> Meta {
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if let Some(mode) = self.mode {
            meta.mode = mode;
        }
        meta
    }

    /// Where a file named `name` goes; makes the directories on the way.
    fn place(&self, layer: &mut Layer, name: &str) -> io::Result<String> {
        let path = match self.is_directory {
            true => join(&self.path, name),
            false => self.path.clone(),
        };
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        layer.directories(self.image, parent, &self.new_directory())?;
        Ok(path)
    }

    /// Makes the directory itself, and those on the way.
    pub(super) fn make(&self, layer: &mut Layer) -> io::Result<()> {
        layer.directories(self.image, &self.path, &self.new_directory())
    }

    /// Writes a file's content from memory.
    pub(super) fn document(&self, layer: &mut Layer, name: &str, content: &str) -> io::Result<()> {
        let path = self.place(layer, name)?;
        let kind = Kind::File(content.len() as u64);
        let meta = Meta { kind, mode: 0o644, ..self.new_directory() };
        let meta = self.adopt(meta);
        layer.file(&path, &meta, content.len() as u64, &mut content.as_bytes())
    }

    /// Copies the file `source`, or what's in it if it's a directory.
    pub(super) fn copy(&self, layer: &mut Layer, from: &dyn Tree, source: &str) -> io::Result<()> {
        let resolved = resolve(from, source)?;
        let gone = || io::Error::other(format!("{source} is gone"));
        let meta = from.meta(&resolved)?.ok_or_else(gone)?;
        if meta.kind == Kind::Directory {
            layer.directories(self.image, &self.path, &self.new_directory())?;
            return self.copy_all(layer, from, &resolved, &self.path);
        }
        let path = self.place(layer, super::tree::file_name(source))?;
        self.copy_one(layer, from, &resolved, meta, &path)
    }

    /// Copies everything below the directory `source` to below `target`.
    fn copy_all(
        &self,
        layer: &mut Layer,
        from: &dyn Tree,
        source: &str,
        target: &str,
    ) -> io::Result<()> {
        let mut pending = vec![(source.to_owned(), target.to_owned())];
        while let Some((source, target)) = pending.pop() {
            for name in from.list(&source)? {
                let (source, target) = (join(&source, &name), join(&target, &name));
                let Some(meta) = from.meta(&source)? else { continue };
                if meta.kind == Kind::Directory {
                    layer.directory(&target, &self.adopt(meta))?;
                    pending.push((source, target));
                } else {
                    self.copy_one(layer, from, &source, meta, &target)?;
                }
            }
        }
        Ok(())
    }

    fn copy_one(
        &self,
        layer: &mut Layer,
        from: &dyn Tree,
        source: &str,
        meta: Meta,
        target: &str,
    ) -> io::Result<()> {
        let kind = meta.kind.clone();
        let meta = self.adopt(meta);
        match kind {
            Kind::File(size) => layer.file(target, &meta, size, &mut *from.open(source)?),
            Kind::Symlink(to) => layer.symlink(target, &meta, &to),
            Kind::Directory => layer.directory(target, &meta),
            Kind::Other => Err(io::Error::other(format!(
                "{source} is a device, a pipe or a socket, which can't be copied"
            ))),
        }
    }

    /// Where a file of an archive goes. Links of the image on the way are followed, as `/bin` in
    /// many; makes the directories on the way.
    fn inner_place(&self, layer: &mut Layer, name: &str) -> io::Result<String> {
        let path = join(&self.path, name);
        let Some((parent, name)) = path.rsplit_once('/') else { return Ok(path) };
        let parent = match layer.directories.contains(parent) {
            true => parent.to_owned(),
            false => resolve(self.image, parent)?,
        };
        layer.directories(self.image, &parent, &self.new_directory())?;
        Ok(join(&parent, name))
    }

    /// Unpacks an archive, whose files keep their owners unless others are asked for.
    pub(super) fn unpack(&self, layer: &mut Layer, archive: &mut dyn Read) -> io::Result<()> {
        layer.directories(self.image, &self.path, &self.new_directory())?;
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = inner_path(&entry.path_bytes())?;
            if name.is_empty() {
                continue;
            }
            let path = self.inner_place(layer, &name)?;
            let meta = self.adopt(meta_of(&mut entry)?);
            let target = entry.link_name_bytes().map(|target| target.into_owned());
            let text = |bytes: Option<Vec<u8>>| {
                let bytes = bytes.ok_or_else(|| io::Error::other(format!("{name} has no target")));
                String::from_utf8(bytes?).map_err(io::Error::other)
            };
            match entry.header().entry_type() {
                tar::EntryType::Directory => layer.directory(&path, &meta)?,
                tar::EntryType::Symlink => layer.symlink(&path, &meta, &text(target)?)?,
                tar::EntryType::Link => {
                    let target = inner_path(text(target)?.as_bytes())?;
                    let target = self.inner_place(layer, &target)?;
                    layer.link(&path, &meta, &target)?;
                }
                kind if kind.is_file() => {
                    let size = entry.size();
                    layer.file(&path, &meta, size, &mut entry)?;
                }
                kind => {
                    return Err(io::Error::other(format!(
                        "{name} is of a kind that isn't unpacked: {kind:?}"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Makes an archive's path relative; one that leads out of it is refused.
fn inner_path(path: &[u8]) -> io::Result<String> {
    let path = std::str::from_utf8(path)
        .map_err(|_| io::Error::other("a name in the archive isn't UTF-8"))?;
    if path.split('/').any(|part| part == "..") {
        return Err(io::Error::other(format!("{path} leads out of the archive")));
    }
    Ok(super::ignore::clean(path))
}

fn meta_of<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Meta> {
    let mut xattrs = std::collections::BTreeMap::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let key = extension.key().map_err(io::Error::other)?;
        if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
            xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
        }
    }
    let header = entry.header();
    Ok(Meta {
        kind: Kind::Other,
        mode: header.mode()? & 0o7777,
        uid: header.uid()?,
        gid: header.gid()?,
        mtime: header.mtime()?,
        xattrs,
    })
}

/// Opens a file as an archive if it's one that `ADD` unpacks: plain, or compressed with gzip or xz.
pub(super) fn as_archive<'a>(
    mut file: Box<dyn Read + 'a>,
) -> io::Result<Result<Box<dyn Read + 'a>, Box<dyn Read + 'a>>> {
    let mut head = Vec::new();
    file.by_ref().take(512).read_to_end(&mut head)?;
    let is_gzip = head.starts_with(&[0x1f, 0x8b]);
    let is_xz = head.starts_with(b"\xfd7zXZ\0");
    let is_plain = head.get(257..262) == Some(b"ustar");
    let whole = io::Cursor::new(head).chain(file);
    Ok(if is_gzip {
        Ok(Box::new(flate2::read::MultiGzDecoder::new(whole)))
    } else if is_xz {
        Ok(Box::new(lzma_rust2::XzReader::new(whole, true)))
    } else if is_plain {
        Ok(Box::new(whole))
    } else {
        Err(Box::new(whole))
    })
}
