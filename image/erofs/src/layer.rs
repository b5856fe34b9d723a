//! Writes a layer's archive as an EROFS file system.

mod data;
mod path;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};

use crate::limits::{LimitError, Limits};
use crate::metadata::{self, Metadata};
use crate::ondisk::{self, BLOCK_SIZE, SYMLINK_MAX, file_type};
use crate::output::Output;
use crate::tar::{Archive, ArchiveError, Entry, Kind, TarError};
use crate::tree::{Attributes, Content, Data, Directory, NodeId, Tree, Xattr, XattrId};
use path::Target;

/// The attribute by which overlayfs knows a directory that hides what's below.
pub(crate) const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Our attribute on directories that no entry describes: merged, the lower layer's description
/// stays. overlayfs neither heeds nor shows it.
pub(crate) const IMPLIED: &[u8] = b"trusted.overlay.vmctl_implied";
/// overlayfs's own attributes.
pub(crate) const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";

/// Why a layer's archive was refused, or couldn't be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// Reading the archive failed.
    #[error("can't read the layer's archive")]
    Read(#[source] io::Error),
    /// Writing the file system failed.
    #[error("can't write the layer's file system")]
    Write(#[source] io::Error),
    /// The archive is malformed.
    #[error("the layer's archive is malformed near byte {offset}")]
    Archive {
        /// How far the archive was read, in bytes.
        offset: u64,
        /// What's wrong.
        source: TarError,
    },
    /// An entry has no place in a layer.
    #[error("the layer's entry {path:?} is refused")]
    Entry {
        /// The entry's path as the archive has it, as far as it's UTF-8.
        path: String,
        /// What's wrong.
        source: EntryError,
    },
    /// The archive is larger than the limits allow.
    #[error("the layer is too large at its entry {path:?}")]
    TooLarge {
        /// The entry's path, empty when it's not about one.
        path: String,
        /// Which limit was reached.
        source: LimitError,
    },
}

/// Why an entry has no place in a layer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The path has a `..` component.
    #[error("its path has a \"..\" component")]
    ParentComponent,
    /// The path or the link's target has a NUL byte.
    #[error("its path or target has a NUL byte")]
    Nul,
    /// A component of the path has more than 255 bytes.
    #[error("its name has more than 255 bytes")]
    NameLength,
    /// Something in the path is a file or a symbolic link, which is never followed.
    #[error("its path leads through something that is no directory")]
    ThroughNonDirectory,
    /// The root is something other than a directory.
    #[error("it replaces the root directory")]
    Root,
    /// The hard link's target has a `..` component.
    #[error("its hard link's target leaves the layer")]
    LinkLeavesRoot,
    /// The hard link's target isn't in the layer (yet).
    #[error("its hard link's target doesn't exist")]
    LinkTargetMissing,
    /// The hard link's target is a directory.
    #[error("its hard link's target is a directory")]
    LinkToDirectory,
    /// A whiteout's name is empty or special, or has something below it.
    #[error("it is no proper whiteout")]
    Whiteout,
    /// A symbolic link's target is empty or has more than 4095 bytes.
    #[error("its symbolic link's target is empty or too long")]
    SymlinkTarget,
    /// An extended attribute's name or value is longer than Linux allows.
    #[error("an extended attribute's name or value is too long")]
    Xattr,
    /// A device number has more than 12 bits of major or 20 of minor.
    #[error("its device number is out of range")]
    DeviceNumber,
}

/// What [`write_layer`] wrote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LayerSummary {
    /// The blob's length in bytes, a multiple of 4096.
    pub blob_bytes: u64,
    /// Of these, bytes of metadata.
    pub metadata_bytes: u64,
    /// Bytes of the archive that were read: all there are.
    pub archive_bytes: u64,
    /// Files in the layer, the root included.
    pub inodes: u64,
}

/// Writes a layer's uncompressed tar archive as an EROFS file system, which overlayfs can mount as
/// a lower layer.
///
/// `blob` is emptied first and has holes where files have long runs of zeros. The archive is read
/// to its stream's end, so that a reader that computes a digest has seen all of it. Memory grows
/// with the number of files only. The result depends on nothing but the archive.
///
/// Whiteouts (OCI image specification, "Representing Changes") become overlayfs's: `.wh.NAME` a
/// character device 0/0, `.wh..wh..opq` the attribute `trusted.overlay.opaque`. A device 0/0 of the
/// archive's own is a whiteout as well, as it is to Docker. overlayfs takes no heed of an opaque
/// root; [`crate::merge_layers`] does.
///
/// The archive's `trusted.overlay.*` attributes are escaped as overlayfs does it
/// (`trusted.overlay.overlay.*`), and show up unescaped in a mounted overlay. Attributes outside of
/// `user`, `trusted`, `security` and POSIX ACLs are dropped: the format has no place for them.
///
/// # Errors
///
/// A malformed or hostile archive is refused by an error of its own for each kind; `blob`'s
/// content is undefined then.
pub fn write_layer(
    archive: impl Read,
    blob: &File,
    limits: &Limits,
) -> Result<LayerSummary, LayerError> {
    let mut writer = LayerWriter::new(archive, blob, limits)?;
    while let Some(entry) = writer.next_entry()? {
        writer.add(&entry).map_err(|error| error.at(&entry, writer.archive.position()))?;
    }
    writer.finish()
}

/// What can happen at an entry, before its path is put to it.
#[derive(Debug)]
enum AddError {
    Entry(EntryError),
    Limit(LimitError),
    Write(io::Error),
    Read(ArchiveError),
}

impl AddError {
    fn at(self, entry: &Entry, offset: u64) -> LayerError {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        match self {
            Self::Entry(source) => LayerError::Entry { path, source },
            Self::Limit(source) => LayerError::TooLarge { path, source },
            Self::Write(error) => LayerError::Write(error),
            Self::Read(failure) => read_error(failure, offset),
        }
    }
}

impl From<EntryError> for AddError {
    fn from(error: EntryError) -> Self {
        Self::Entry(error)
    }
}

impl From<LimitError> for AddError {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

impl From<ArchiveError> for AddError {
    fn from(failure: ArchiveError) -> Self {
        Self::Read(failure)
    }
}

fn read_error(failure: ArchiveError, offset: u64) -> LayerError {
    match failure {
        ArchiveError::Io(error) => LayerError::Read(error),
        ArchiveError::Tar(source) => LayerError::Archive { offset, source },
        ArchiveError::Limit(source) => LayerError::TooLarge { path: String::new(), source },
    }
}

struct LayerWriter<'a, R> {
    archive: Archive<R>,
    output: Output<'a>,
    limits: &'a Limits,
    tree: Tree,
    entries: u64,
    xattr_bytes: u64,
    /// What files' chunk maps add to the metadata.
    map_bytes: u64,
    buffer: Vec<u8>,
}

impl<'a, R: Read> LayerWriter<'a, R> {
    fn new(archive: R, blob: &'a File, limits: &'a Limits) -> Result<Self, LayerError> {
        Ok(Self {
            archive: Archive::new(archive, limits),
            output: Output::new(blob).map_err(LayerError::Write)?,
            limits,
            tree: Tree::new(),
            entries: 0,
            xattr_bytes: 0,
            map_bytes: 0,
            buffer: vec![0; data::BUFFER_SIZE],
        })
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let entry = self.archive.next_entry();
        entry.map_err(|failure| read_error(failure, self.archive.position()))
    }

    fn add(&mut self, entry: &Entry) -> Result<(), AddError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(LimitError::Entries(self.limits.entries).into());
        }
        match path::parse(&entry.path, self.limits)? {
            Target::Root => self.add_root(entry),
            Target::File { parents, name } => self.add_file(entry, &parents, name),
            Target::Whiteout { parents, name } => self.add_whiteout(&parents, name),
            Target::Opaque { directory } => {
                let id = self.make_directories(&directory)?;
                self.directory(id)?.opaque = true;
                Ok(())
            }
            Target::Ignored => Ok(()),
        }
    }

    fn add_root(&mut self, entry: &Entry) -> Result<(), AddError> {
        if entry.kind != Kind::Directory {
            return Err(EntryError::Root.into());
        }
        self.describe_directory(Tree::ROOT, entry)
    }

    /// Gives a directory that exists an entry's attributes.
    fn describe_directory(&mut self, id: NodeId, entry: &Entry) -> Result<(), AddError> {
        self.tree.node_mut(id).attributes = self.attributes(entry)?;
        self.directory(id)?.implied = false;
        Ok(())
    }

    fn directory(&mut self, id: NodeId) -> Result<&mut Directory, EntryError> {
        self.tree.directory_mut(id).ok_or(EntryError::ThroughNonDirectory)
    }

    /// Finds the directory of these components, and makes what's missing of it.
    fn make_directories(&mut self, components: &[&[u8]]) -> Result<NodeId, AddError> {
        let mut id = Tree::ROOT;
        for &component in components {
            let known = self.directory(id)?.children.get(component).copied();
            id = match known {
                Some(child) if !self.tree.node(child).content.is_whiteout() => child,
                replaced => {
                    let child = self.add_implied_directory()?;
                    // Beside a whiteout of the same name, only this layer's content counts.
                    self.directory(child)?.opaque = replaced.is_some();
                    self.directory(id)?.children.insert(component.into(), child);
                    child
                }
            };
        }
        self.directory(id)?;
        Ok(id)
    }

    /// Adds a directory that no entry describes, which counts as one: a short path can name many.
    fn add_implied_directory(&mut self) -> Result<NodeId, LimitError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(LimitError::Entries(self.limits.entries));
        }
        Ok(self.tree.add_implied_directory())
    }

    fn add_whiteout(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<(), AddError> {
        let parent = self.make_directories(parents)?;
        match self.directory(parent)?.children.get(name).copied() {
            // What this layer has itself isn't hidden, but it replaces rather than joins.
            Some(present) => {
                if let Some(directory) = self.tree.directory_mut(present) {
                    directory.opaque = true;
                }
            }
            None => {
                let attributes = Attributes { permissions: 0, ..Attributes::implied_directory() };
                let id = self.tree.add(attributes, Content::WHITEOUT);
                self.directory(parent)?.children.insert(name.into(), id);
            }
        }
        Ok(())
    }

    fn add_file(&mut self, entry: &Entry, parents: &[&[u8]], name: &[u8]) -> Result<(), AddError> {
        let parent = self.make_directories(parents)?;
        let present = self.directory(parent)?.children.get(name).copied();
        let id = match entry.kind {
            Kind::Directory => match present {
                Some(present) if self.tree.directory(present).is_some() => {
                    return self.describe_directory(present, entry);
                }
                present => {
                    let opaque = present
                        .is_some_and(|present| self.tree.node(present).content.is_whiteout());
                    let directory = Directory { opaque, ..Directory::default() };
                    let attributes = self.attributes(entry)?;
                    self.tree.add(attributes, Content::Directory(directory))
                }
            },
            Kind::HardLink => self.link_target(entry)?,
            _ => {
                let attributes = self.attributes(entry)?;
                let content = self.content(entry)?;
                self.tree.add(attributes, content)
            }
        };
        self.directory(parent)?.children.insert(name.into(), id);
        Ok(())
    }

    fn link_target(&mut self, entry: &Entry) -> Result<NodeId, AddError> {
        let target = path::parse_link(&entry.link, self.limits)?;
        let mut id = Tree::ROOT;
        for component in target {
            let directory = self.tree.directory(id).ok_or(EntryError::LinkTargetMissing)?;
            id = *directory.children.get(component).ok_or(EntryError::LinkTargetMissing)?;
        }
        match self.tree.node(id).content {
            Content::Directory(_) => Err(EntryError::LinkToDirectory.into()),
            // A whiteout is no file.
            ref content if content.is_whiteout() => Err(EntryError::LinkTargetMissing.into()),
            _ => Ok(id),
        }
    }

    fn content(&mut self, entry: &Entry) -> Result<Content, AddError> {
        let special = |file_type, device| Content::Special { file_type, device };
        let device = |entry: &Entry| {
            let (major, minor) = entry.device;
            ondisk::encode_device(major, minor).ok_or(EntryError::DeviceNumber)
        };
        Ok(match entry.kind {
            Kind::Symlink => {
                if entry.link.contains(&0) {
                    return Err(EntryError::Nul.into());
                }
                if entry.link.is_empty() || entry.link.len() > SYMLINK_MAX {
                    return Err(EntryError::SymlinkTarget.into());
                }
                Content::Symlink(entry.link.as_slice().into())
            }
            Kind::CharDevice => special(file_type::CHAR_DEVICE, device(entry)?),
            Kind::BlockDevice => special(file_type::BLOCK_DEVICE, device(entry)?),
            Kind::Fifo => special(file_type::FIFO, 0),
            Kind::Regular | Kind::HardLink | Kind::Directory => self.write_data(entry)?,
        })
    }

    fn write_data(&mut self, entry: &Entry) -> Result<Content, AddError> {
        let limit = self.limits.file_bytes;
        if entry.size > limit {
            return Err(LimitError::FileBytes(limit).into());
        }
        let data = data::write(&mut self.archive, &mut self.output, entry, &mut self.buffer)?;
        if let Data::Chunked { chunk_bits, .. } = data {
            self.map_bytes += 4 * metadata::chunk_count(entry.size, chunk_bits);
            if self.map_bytes > self.limits.metadata_bytes {
                return Err(LimitError::MetadataBytes(self.limits.metadata_bytes).into());
            }
        }
        Ok(Content::Regular { size: entry.size, data })
    }

    fn attributes(&mut self, entry: &Entry) -> Result<Attributes, AddError> {
        let permissions = u16::try_from(entry.mode & 0o7777).expect("12 bits");
        Ok(Attributes {
            permissions,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            mtime_nsec: entry.mtime_nsec,
            xattrs: self.xattrs(entry)?,
        })
    }

    fn xattrs(&mut self, entry: &Entry) -> Result<Box<[XattrId]>, AddError> {
        let mut ids: Vec<XattrId> = Vec::new();
        let mut bytes = 0;
        for (name, value) in &entry.xattrs {
            let Some(xattr) = xattr(name, value)? else { continue };
            let limit = self.limits.xattr_bytes_per_file.min(128 << 10);
            bytes += name.len() + value.len();
            if bytes > limit || ids.len() >= MAX_XATTRS {
                return Err(LimitError::FileXattrs(limit).into());
            }
            // pax: the last record of a key counts.
            ids.retain(|&id| {
                let other = self.tree.xattr(id);
                (other.index, &other.name) != (xattr.index, &xattr.name)
            });
            let len = metadata::xattr_len(&xattr);
            let known = self.tree.xattrs().len();
            ids.push(self.tree.intern(xattr));
            // Each counts once, as it's kept once.
            if self.tree.xattrs().len() > known {
                self.xattr_bytes += len;
            }
        }
        let limit = self.limits.xattr_bytes;
        if self.xattr_bytes > limit {
            return Err(LimitError::XattrBytes(limit).into());
        }
        Ok(ids.into_boxed_slice())
    }

    fn finish(mut self) -> Result<LayerSummary, LayerError> {
        let too_large = |source| LayerError::TooLarge { path: String::new(), source };
        let drained = self.archive.drain();
        drained.map_err(|failure| read_error(failure, self.archive.position()))?;
        mark_directories(&mut self.tree);
        let plan = Metadata::plan(&self.tree);
        if plan.len() > self.limits.metadata_bytes {
            return Err(too_large(LimitError::MetadataBytes(self.limits.metadata_bytes)));
        }
        let blob_bytes = self.output.position() + plan.len();
        let superblock = plan.write(&mut self.output, blob_bytes).map_err(LayerError::Write)?;
        let superblock = superblock.ok_or_else(|| too_large(LimitError::Addresses))?;
        self.output.finish(superblock, blob_bytes).map_err(LayerError::Write)?;
        Ok(LayerSummary {
            blob_bytes,
            metadata_bytes: plan.len() + BLOCK_SIZE,
            archive_bytes: self.archive.position(),
            inodes: plan.inodes(),
        })
    }
}

/// What one inode's header can count, minus our two marks.
const MAX_XATTRS: usize = 253;

/// Writes down as attributes what merging must know about directories.
fn mark_directories(tree: &mut Tree) {
    for id in tree.node_ids() {
        let Some(&Directory { opaque, implied, .. }) = tree.directory(id) else { continue };
        if opaque {
            tree.mark(id, OPAQUE);
        }
        if implied {
            tree.mark(id, IMPLIED);
        }
    }
}

/// Checks an archive's attribute and escapes it if it's one of overlayfs's. `None`: one that can't
/// be stored.
fn xattr(name: &[u8], value: &[u8]) -> Result<Option<Xattr>, EntryError> {
    let escaped;
    let mut stored = name;
    if let Some(rest) = name.strip_prefix(OVERLAY_PREFIX) {
        escaped = [OVERLAY_PREFIX, b"overlay.", rest].concat();
        stored = &escaped;
    }
    let Some((index, rest)) = ondisk::split_xattr_name(stored) else { return Ok(None) };
    let too_long = stored.len() > ondisk::NAME_MAX || value.len() > usize::from(u16::MAX);
    if too_long || name.contains(&0) {
        return Err(EntryError::Xattr);
    }
    Ok(Some(Xattr { index, name: rest.into(), value: value.into() }))
}
