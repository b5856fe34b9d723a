//! Joins layers' file systems into one, of which only the metadata are written.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;

use crate::layer::{IMPLIED, OPAQUE, OVERLAY_PREFIX};
use crate::limits::{LimitError, Limits};
use crate::metadata::{self, Metadata};
use crate::ondisk::{self, BLOCK_SIZE};
use crate::output::Output;
use crate::reader::{FileType, Inode, ReadError, Reader};
use crate::source::ReadAt;
use crate::tree::{Attributes, Content, Data, Directory, NodeId, Tree, Xattr, XattrId};

/// Attributes of one file that the format can hold.
const MAX_XATTRS: usize = 255;

/// Why layers couldn't be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// A layer's blob can't be read, or isn't what [`crate::write_layer`] wrote.
    #[error("can't read layer {index}")]
    Layer {
        /// Which one, the lowest being 0.
        index: usize,
        /// What's wrong with it.
        source: ReadError,
    },
    /// Writing the merged file system failed.
    #[error("can't write the merged file system")]
    Write(#[source] io::Error),
    /// The result is larger than the limits allow.
    #[error("the merged file system is too large")]
    TooLarge(#[source] LimitError),
}

/// What [`merge_layers`] wrote, and where the layers' blobs belong behind it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MergedImage {
    /// The metadata file's length in bytes, a multiple of 4096.
    pub metadata_bytes: u64,
    /// The layers' blobs in the order in which they follow the metadata.
    pub blobs: Vec<BlobPlace>,
    /// The length of the whole disk in bytes.
    pub disk_bytes: u64,
    /// Files in the merged file system, the root included.
    pub inodes: u64,
}

/// Where a layer's blob lies on the merged image's disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlobPlace {
    /// Where it begins, in bytes: a multiple of 4096.
    pub offset: u64,
    /// Its length in bytes; the next one begins at the next multiple of 4096.
    pub len: u64,
}

/// Merges layers, the lowest first, as overlayfs shows them, and writes the result's metadata to
/// `image`, which is emptied first.
///
/// Files' data stay in the layers' blobs: block addresses in `image` point to where these lie if
/// they follow `image` in the given order, each padded to a multiple of 4096 bytes. The disk that
/// [`crate::ConcatSource`] would make of `image` and the blobs is a file system of its own, without
/// whiteouts. The result depends on the blobs' metadata and lengths only.
///
/// A directory that a layer's archive doesn't describe, but has something in, keeps the attributes
/// of the layer below.
///
/// # Errors
///
/// When a blob is damaged, or the result is too large.
pub fn merge_layers<S: ReadAt>(
    layers: &[S],
    image: &File,
    limits: &Limits,
) -> Result<MergedImage, MergeError> {
    let mut merger = Merger::new(limits);
    let mut blobs = Vec::with_capacity(layers.len());
    let mut offset = 0;
    for (index, layer) in layers.iter().enumerate() {
        let at_layer = |error| match error {
            AddError::Read(source) => MergeError::Layer { index, source },
            AddError::Limit(error) => MergeError::TooLarge(error),
        };
        let len = merger.add(layer, offset / BLOCK_SIZE).map_err(at_layer)?;
        blobs.push(BlobPlace { offset, len });
        offset += len.next_multiple_of(BLOCK_SIZE);
    }
    let mut plan = Metadata::plan(&merger.tree);
    if plan.len() > limits.metadata_bytes {
        return Err(MergeError::TooLarge(LimitError::MetadataBytes(limits.metadata_bytes)));
    }
    let metadata_bytes = BLOCK_SIZE + plan.len();
    let disk_bytes = metadata_bytes + offset;
    for blob in &mut blobs {
        blob.offset += metadata_bytes;
    }
    let addresses = || MergeError::TooLarge(LimitError::Addresses);
    plan.move_data(u32::try_from(metadata_bytes / BLOCK_SIZE).map_err(|_| addresses())?);
    let mut output = Output::new(image).map_err(MergeError::Write)?;
    let superblock = plan.write(&mut output, disk_bytes).map_err(MergeError::Write)?;
    let superblock = superblock.ok_or_else(addresses)?;
    output.finish(superblock, metadata_bytes).map_err(MergeError::Write)?;
    Ok(MergedImage { metadata_bytes, blobs, disk_bytes, inodes: plan.inodes() })
}

/// What can happen at a layer.
enum AddError {
    Read(ReadError),
    Limit(LimitError),
}

impl From<ReadError> for AddError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<LimitError> for AddError {
    fn from(error: LimitError) -> Self {
        Self::Limit(error)
    }
}

struct Merger<'a> {
    limits: &'a Limits,
    tree: Tree,
    entries: u64,
    chunks: u64,
    xattr_bytes: u64,
}

impl<'a> Merger<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self { limits, tree: Tree::new(), entries: 0, chunks: 0, xattr_bytes: 0 }
    }

    /// Lays a layer over what's there and returns its length. `first_block` is where its blob
    /// begins behind the metadata.
    fn add<S: ReadAt>(&mut self, source: &S, first_block: u64) -> Result<u64, AddError> {
        let reader = Reader::open(source)?;
        let len =
            source.len_bytes().map_err(|source| ReadError::Io { offset: 0, len: 0, source })?;
        let blocks = len / BLOCK_SIZE;
        let end = first_block + blocks;
        if u32::try_from(end).is_err() {
            return Err(LimitError::Addresses.into());
        }
        let first_block = u32::try_from(first_block).map_err(|_| LimitError::Addresses)?;
        let root = reader.root()?;
        let mut layer = Layer {
            reader,
            first_block,
            blocks,
            links: HashMap::new(),
            seen: HashSet::from([root.nid()]),
            left: vec![(Tree::ROOT, root)],
        };
        while let Some((id, inode)) = layer.left.pop() {
            self.merge_directory(&mut layer, id, &inode)?;
        }
        Ok(len)
    }

    /// Lays a layer's directory over the one at `id`.
    fn merge_directory<S: ReadAt>(
        &mut self,
        layer: &mut Layer<'_, S>,
        id: NodeId,
        inode: &Inode,
    ) -> Result<(), AddError> {
        let (attributes, marks) = self.attributes(layer, inode)?;
        if !marks.implied {
            self.tree.node_mut(id).attributes = attributes;
        }
        if marks.opaque {
            self.children(id).children.clear();
        }
        for entry in layer.reader.read_dir(inode)? {
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(LimitError::Entries(self.limits.entries).into());
            }
            let child = layer.reader.inode(entry.nid)?;
            if child.is_whiteout() {
                self.children(id).children.remove(&entry.name);
                continue;
            }
            let node = match child.file_type() {
                FileType::Directory => self.subdirectory(layer, id, &entry.name, child)?,
                _ => self.file(layer, &child)?,
            };
            self.children(id).children.insert(entry.name, node);
        }
        Ok(())
    }

    /// The directory at `id`, which is one.
    fn children(&mut self, id: NodeId) -> &mut Directory {
        self.tree.directory_mut(id).expect("only directories are merged into")
    }

    /// Queues a directory, to be merged into the one that's there, or a new one.
    fn subdirectory<S: ReadAt>(
        &mut self,
        layer: &mut Layer<'_, S>,
        parent: NodeId,
        name: &[u8],
        inode: Inode,
    ) -> Result<NodeId, AddError> {
        // Each has one name: else a small file system would have paths without end.
        if !layer.seen.insert(inode.nid()) {
            return Err(inode.corrupt("the directory has several names").into());
        }
        let present = self.children(parent).children.get(name).copied();
        let present = present.filter(|&present| self.tree.directory(present).is_some());
        let id = present.unwrap_or_else(|| self.tree.add_implied_directory());
        layer.left.push((id, inode));
        Ok(id)
    }

    fn file<S: ReadAt>(
        &mut self,
        layer: &mut Layer<'_, S>,
        inode: &Inode,
    ) -> Result<NodeId, AddError> {
        if let Some(known) = layer.links.get(&inode.nid()) {
            return Ok(*known);
        }
        let (attributes, _) = self.attributes(layer, inode)?;
        let content = self.content(layer, inode)?;
        let id = self.tree.add(attributes, content);
        if inode.links() > 1 {
            layer.links.insert(inode.nid(), id);
        }
        Ok(id)
    }

    fn content<S: ReadAt>(
        &mut self,
        layer: &Layer<'_, S>,
        inode: &Inode,
    ) -> Result<Content, AddError> {
        Ok(match inode.file_type() {
            FileType::Symlink => {
                let target = layer.reader.read_link(inode)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(inode.corrupt("its target").into());
                }
                Content::Symlink(target.into())
            }
            FileType::Regular => {
                Content::Regular { size: inode.size(), data: self.data(layer, inode)? }
            }
            _ => Content::Special {
                file_type: ondisk::file_type::MASK & inode.raw_mode(),
                device: inode.raw_device(),
            },
        })
    }

    /// Where a regular file's data lie, counted from the first blob.
    fn data<S: ReadAt>(&mut self, layer: &Layer<'_, S>, inode: &Inode) -> Result<Data, AddError> {
        let max_chunks = (self.limits.metadata_bytes / 4).saturating_sub(self.chunks);
        let mut data = layer.reader.data(inode, layer.blocks, max_chunks)?;
        // Both summands' ends are below 2³²: `add` checked it.
        match &mut data {
            Data::Flat { block } => *block += layer.first_block,
            Data::Chunked { chunk_bits, runs } => {
                self.chunks += metadata::chunk_count(inode.size(), *chunk_bits);
                for run in runs {
                    run.block += layer.first_block;
                }
            }
        }
        Ok(data)
    }

    /// An inode's attributes without overlayfs's own, and what those say.
    fn attributes<S: ReadAt>(
        &mut self,
        layer: &Layer<'_, S>,
        inode: &Inode,
    ) -> Result<(Attributes, Marks), AddError> {
        let xattrs = layer.reader.raw_xattrs(inode)?;
        if xattrs.len() > MAX_XATTRS {
            return Err(LimitError::FileXattrs(self.limits.xattr_bytes_per_file).into());
        }
        let mut marks = Marks::default();
        let mut ids = Vec::with_capacity(xattrs.len());
        for xattr in xattrs {
            if is(&xattr, OPAQUE) {
                marks.opaque = true;
            } else if is(&xattr, IMPLIED) {
                marks.implied = true;
            } else {
                ids.push(self.intern(xattr)?);
            }
        }
        let (mtime, mtime_nsec) = inode.mtime();
        let attributes = Attributes {
            permissions: inode.permissions(),
            uid: inode.uid(),
            gid: inode.gid(),
            mtime,
            mtime_nsec,
            xattrs: ids.into_boxed_slice(),
        };
        Ok((attributes, marks))
    }

    fn intern(&mut self, xattr: Xattr) -> Result<XattrId, LimitError> {
        let len = metadata::xattr_len(&xattr);
        let known = self.tree.xattrs().len();
        let id = self.tree.intern(xattr);
        if self.tree.xattrs().len() > known {
            self.xattr_bytes += len;
        }
        let limit = self.limits.xattr_bytes;
        if self.xattr_bytes > limit { Err(LimitError::XattrBytes(limit)) } else { Ok(id) }
    }
}

/// A layer on its way into the tree.
struct Layer<'a, S> {
    reader: Reader<&'a S>,
    /// Where its blob begins, counted from the first blob.
    first_block: u32,
    /// The blob's length.
    blocks: u64,
    /// Files with several names, by inode.
    links: HashMap<u64, NodeId>,
    /// Directories met so far.
    seen: HashSet<u64>,
    /// Directories to be merged.
    left: Vec<(NodeId, Inode)>,
}

/// What a directory's marks say.
#[derive(Default)]
struct Marks {
    opaque: bool,
    implied: bool,
}

fn is(xattr: &Xattr, name: &[u8]) -> bool {
    debug_assert!(name.starts_with(OVERLAY_PREFIX));
    ondisk::split_xattr_name(name) == Some((xattr.index, &xattr.name))
}
