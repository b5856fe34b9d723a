//! Writes a tree's metadata: shared extended attributes, then inodes with what lies inline in
//! them, then the blocks of directories that don't fit beside their inode.
//!
//! [`Metadata::plan`] decides every position first, so that addresses are known before a byte is
//! written and that the writing is sequential.

use std::io;

use zerocopy::IntoBytes;

use crate::ondisk::{
    self, BLOCK_BITS, BLOCK_SIZE, DIRENT_SIZE, Dirent, ExtendedInode, INODE_SIZE, SLOT_SIZE,
    SuperBlock, XATTR_HEADER_SIZE, XattrEntry, XattrHeader, layout,
};
use crate::output::Output;
use crate::tree::{Content, Data, Node, NodeId, Run, Tree, Xattr, XattrId};

/// The root's position in the inodes' area. Not zero: an inode of number 0 is none to user space.
const ROOT_POSITION: u64 = INODE_SIZE;

/// What's decided about a node.
#[derive(Clone, Copy, Default)]
struct Place {
    /// In the inodes' area, in bytes; zero: not reached.
    position: u64,
    /// Names, or 2 plus the subdirectories.
    links: u32,
    /// The directory above a directory.
    parent: Option<NodeId>,
    /// The first of the directory's or symbolic link's own blocks, counted from the end of the
    /// inodes; `None`: inline, or no such content.
    own_blocks: Option<u64>,
}

/// Every position of a tree's metadata.
pub(crate) struct Metadata<'a> {
    tree: &'a Tree,
    places: Vec<Place>,
    /// The nodes that have a name, by position.
    order: Vec<NodeId>,
    /// By [`XattrId`]: the number of the shared attribute.
    shared: Vec<Option<u32>>,
    shared_bytes: u64,
    inode_bytes: u64,
    own_blocks: u64,
    chunked: bool,
    /// Blocks by which files' data lie further on than the tree says.
    data_offset: u32,
}

impl<'a> Metadata<'a> {
    pub(crate) fn plan(tree: &'a Tree) -> Self {
        let mut plan = Self {
            tree,
            places: vec![Place::default(); tree.nodes().len()],
            order: Vec::new(),
            shared: vec![None; tree.xattrs().len()],
            shared_bytes: 0,
            inode_bytes: ROOT_POSITION,
            own_blocks: 0,
            chunked: false,
            data_offset: 0,
        };
        plan.order_nodes();
        plan.share_xattrs();
        for index in 0..plan.order.len() {
            plan.place(plan.order[index]);
        }
        plan
    }

    /// The bytes that the metadata take, a multiple of the block size.
    pub(crate) fn len(&self) -> u64 {
        self.xattr_blocks_len() + self.inode_blocks_len() + self.own_blocks * BLOCK_SIZE
    }

    /// Has files' data lie so many blocks further on than the tree says.
    pub(crate) fn move_data(&mut self, blocks: u32) {
        self.data_offset = blocks;
    }

    /// How many files have a name.
    pub(crate) fn inodes(&self) -> u64 {
        self.order.len() as u64
    }

    fn xattr_blocks_len(&self) -> u64 {
        self.shared_bytes.next_multiple_of(BLOCK_SIZE)
    }

    fn inode_blocks_len(&self) -> u64 {
        self.inode_bytes.next_multiple_of(BLOCK_SIZE)
    }

    /// Lists directory by directory what has a name, breadth first, so that a directory's inodes
    /// are neighbours; counts links.
    fn order_nodes(&mut self) {
        self.order.push(Tree::ROOT);
        self.places[Tree::ROOT.index()] =
            Place { links: 2, parent: Some(Tree::ROOT), ..Place::default() };
        let mut next = 0;
        while let Some(&id) = self.order.get(next) {
            next += 1;
            let Some(directory) = self.tree.directory(id) else { continue };
            for &child in directory.children.values() {
                let is_directory = self.tree.directory(child).is_some();
                let place = &mut self.places[child.index()];
                if place.links == 0 {
                    self.order.push(child);
                }
                if is_directory {
                    (place.links, place.parent) = (2, Some(id));
                    self.places[id.index()].links += 1;
                } else {
                    place.links += 1;
                }
            }
        }
    }

    /// Gives each attribute that several files have a place of its own.
    fn share_xattrs(&mut self) {
        let mut uses = vec![0_u32; self.shared.len()];
        for id in &self.order {
            for xattr in &self.tree.node(*id).attributes.xattrs {
                uses[xattr.index()] += 1;
            }
        }
        for ((uses, shared), xattr) in uses.iter().zip(&mut self.shared).zip(self.tree.xattrs()) {
            // An attribute costs 4 bytes where it's shared, besides its one copy.
            if *uses > 1 {
                let Ok(number) = u32::try_from(self.shared_bytes / 4) else { break };
                *shared = Some(number);
                self.shared_bytes += xattr_len(xattr);
            }
        }
    }

    /// Finds the place of an inode with its attributes and what's inline behind them.
    fn place(&mut self, id: NodeId) {
        let node = self.tree.node(id);
        let head = INODE_SIZE + self.xattrs_len(node);
        let mut start = self.inode_bytes.next_multiple_of(SLOT_SIZE);
        let mut own_blocks = None;
        let len = match &node.content {
            Content::Regular { size, data: Data::Chunked { chunk_bits, .. } } => {
                self.chunked = true;
                head + 4 * chunk_count(*size, *chunk_bits)
            }
            Content::Directory(_) | Content::Symlink(_) => {
                let data = self.data_len(id);
                if head + data <= BLOCK_SIZE {
                    start = within_block(start, head + data);
                    head + data
                } else {
                    own_blocks = Some(self.own_blocks);
                    self.own_blocks += data.div_ceil(BLOCK_SIZE);
                    head
                }
            }
            Content::Regular { .. } | Content::Special { .. } => head,
        };
        start = within_block(start, INODE_SIZE);
        let place = &mut self.places[id.index()];
        (place.position, place.own_blocks) = (start, own_blocks);
        self.inode_bytes = start + len;
    }

    /// The bytes of a directory's entries or a symbolic link's target.
    fn data_len(&self, id: NodeId) -> u64 {
        match &self.tree.node(id).content {
            Content::Directory(_) => directory_len(&self.entries(id)),
            Content::Symlink(target) => target.len() as u64,
            Content::Regular { .. } | Content::Special { .. } => 0,
        }
    }

    /// A directory's entries with `.` and `..`, sorted by their bytes as lookups need it.
    fn entries(&self, id: NodeId) -> Vec<(&'a [u8], NodeId)> {
        let parent = self.places[id.index()].parent.unwrap_or(Tree::ROOT);
        let children = self.tree.directory(id).into_iter().flat_map(|dir| &dir.children);
        let mut entries: Vec<(&[u8], NodeId)> = vec![(b".", id), (b"..", parent)];
        entries.extend(children.map(|(name, child)| (&**name, *child)));
        entries.sort_unstable_by_key(|entry| entry.0);
        entries
    }

    fn xattrs_len(&self, node: &Node) -> u64 {
        let xattrs = &node.attributes.xattrs;
        let len: u64 = xattrs.iter().map(|&id| self.xattr_len(id)).sum();
        if xattrs.is_empty() { 0 } else { XATTR_HEADER_SIZE + len }
    }

    /// The bytes that an attribute takes in an inode.
    fn xattr_len(&self, id: XattrId) -> u64 {
        if self.shared[id.index()].is_some() { 4 } else { xattr_len(self.tree.xattr(id)) }
    }

    fn nid(&self, id: NodeId) -> u64 {
        self.places[id.index()].position / SLOT_SIZE
    }

    /// Appends everything to `output`, whose position is a block's start, and returns the
    /// superblock without what only the output knows. `None` if the file system has more blocks
    /// than 32 bits count.
    ///
    /// `total_len` is the length of the whole address space in bytes.
    pub(crate) fn write(
        &self,
        output: &mut Output<'_>,
        total_len: u64,
    ) -> io::Result<Option<SuperBlock>> {
        let block = |position: u64| u32::try_from(position / BLOCK_SIZE).ok();
        let start = output.position();
        let inodes_start = start + self.xattr_blocks_len();
        let own_start = inodes_start + self.inode_blocks_len();
        let (Some(xattr_block), Some(meta_block), Some(own_block), Some(blocks)) =
            (block(start), block(inodes_start), block(own_start), block(total_len))
        else {
            return Ok(None);
        };
        self.write_shared_xattrs(output)?;
        output.pad_to_block()?;
        for (number, &id) in (1..).zip(&self.order) {
            output.skip(inodes_start + self.places[id.index()].position - output.position())?;
            self.write_inode(output, number, id, own_block)?;
        }
        output.pad_to_block()?;
        for &id in &self.order {
            if self.places[id.index()].own_blocks.is_some() {
                self.write_data(output, id)?;
                output.pad_to_block()?;
            }
        }
        Ok(Some(self.superblock(meta_block, xattr_block, blocks)))
    }

    fn superblock(&self, meta_block: u32, xattr_block: u32, blocks: u32) -> SuperBlock {
        let root_nid = u16::try_from(ROOT_POSITION / SLOT_SIZE).expect("the root comes first");
        SuperBlock {
            magic: ondisk::MAGIC.into(),
            feature_compat: (ondisk::COMPAT_CHECKSUM | ondisk::COMPAT_MTIME).into(),
            block_bits: BLOCK_BITS,
            root_nid: root_nid.into(),
            inodes: self.inodes().into(),
            blocks: blocks.into(),
            meta_block: meta_block.into(),
            xattr_block: if self.shared_bytes == 0 { 0 } else { xattr_block }.into(),
            feature_incompat: if self.chunked { ondisk::INCOMPAT_CHUNKED_FILE } else { 0 }.into(),
            ..SuperBlock::default()
        }
    }

    fn write_shared_xattrs(&self, output: &mut Output<'_>) -> io::Result<()> {
        let shared = self.tree.xattrs().iter().zip(&self.shared);
        for (xattr, _) in shared.filter(|(_, shared)| shared.is_some()) {
            write_xattr(output, xattr)?;
        }
        Ok(())
    }

    fn write_inode(
        &self,
        output: &mut Output<'_>,
        number: u32,
        id: NodeId,
        own_block: u32,
    ) -> io::Result<()> {
        let node = self.tree.node(id);
        let place = self.places[id.index()];
        let xattrs_len = self.xattrs_len(node);
        let own = |first: u64| own_block + u32::try_from(first).expect("`write` checked the end");
        let (layout, size, data) = match &node.content {
            Content::Regular { size: 0, data: Data::Flat { .. } } => (layout::FLAT_PLAIN, 0, 0),
            Content::Regular { size, data: Data::Flat { block } } => {
                // Below the address space's end, which `write` checked.
                (layout::FLAT_PLAIN, *size, block.wrapping_add(self.data_offset))
            }
            Content::Regular { size, data: Data::Chunked { chunk_bits, .. } } => {
                (layout::CHUNK_BASED, *size, u32::from(*chunk_bits))
            }
            Content::Special { device, .. } => (layout::FLAT_PLAIN, 0, *device),
            Content::Directory(_) | Content::Symlink(_) => match place.own_blocks {
                Some(first) => (layout::FLAT_PLAIN, self.data_len(id), own(first)),
                None => (layout::FLAT_INLINE, self.data_len(id), 0),
            },
        };
        let attributes = &node.attributes;
        let inode = ExtendedInode {
            format: (1 | layout << 1).into(),
            xattr_count: xattr_count(xattrs_len).into(),
            mode: (node.content.file_type() | attributes.permissions).into(),
            size: size.into(),
            data: data.into(),
            ino: number.into(),
            uid: attributes.uid.into(),
            gid: attributes.gid.into(),
            mtime: attributes.mtime.cast_unsigned().into(),
            mtime_nsec: attributes.mtime_nsec.into(),
            nlink: place.links.into(),
            ..ExtendedInode::default()
        };
        output.write(inode.as_bytes())?;
        self.write_inode_xattrs(output, node)?;
        match &node.content {
            Content::Regular { size, data: Data::Chunked { chunk_bits, runs } } => {
                let count = chunk_count(*size, *chunk_bits);
                write_chunks(output, count, *chunk_bits, runs, self.data_offset)
            }
            _ if layout == layout::FLAT_INLINE => self.write_data(output, id),
            _ => Ok(()),
        }
    }

    fn write_inode_xattrs(&self, output: &mut Output<'_>, node: &Node) -> io::Result<()> {
        let xattrs = &node.attributes.xattrs;
        if xattrs.is_empty() {
            return Ok(());
        }
        let shared: Vec<u32> = xattrs.iter().filter_map(|id| self.shared[id.index()]).collect();
        let shared_count = u8::try_from(shared.len()).expect("an inode has at most 255 attributes");
        output.write(XattrHeader { shared_count, ..XattrHeader::default() }.as_bytes())?;
        for number in shared {
            output.write(&number.to_le_bytes())?;
        }
        for id in xattrs.iter().filter(|id| self.shared[id.index()].is_none()) {
            write_xattr(output, self.tree.xattr(*id))?;
        }
        Ok(())
    }

    /// Writes a directory's entries or a symbolic link's target.
    fn write_data(&self, output: &mut Output<'_>, id: NodeId) -> io::Result<()> {
        match &self.tree.node(id).content {
            Content::Directory(_) => self.write_directory(output, &self.entries(id)),
            Content::Symlink(target) => output.write(target),
            Content::Regular { .. } | Content::Special { .. } => Ok(()),
        }
    }

    fn write_directory(
        &self,
        output: &mut Output<'_>,
        mut entries: &[(&[u8], NodeId)],
    ) -> io::Result<()> {
        while !entries.is_empty() {
            let (count, len) = first_block(entries);
            let (block, rest) = entries.split_at(count);
            let mut name_offset = count * DIRENT_SIZE;
            for (name, id) in block {
                let dirent = Dirent {
                    nid: self.nid(*id).into(),
                    name_offset: u16::try_from(name_offset).expect("within a block").into(),
                    file_type: ondisk::dirent_type(self.tree.node(*id).content.file_type()),
                    reserved: 0,
                };
                output.write(dirent.as_bytes())?;
                name_offset += name.len();
            }
            for (name, _) in block {
                output.write(name)?;
            }
            if !rest.is_empty() {
                output.skip(BLOCK_SIZE - len)?;
            }
            entries = rest;
        }
        Ok(())
    }
}

/// Moves `start` to the next block if `len` bytes from there would lie in two.
fn within_block(start: u64, len: u64) -> u64 {
    if start % BLOCK_SIZE + len > BLOCK_SIZE { start.next_multiple_of(BLOCK_SIZE) } else { start }
}

/// How many entries fit in a directory's first block, and the bytes that they take.
fn first_block(entries: &[(&[u8], NodeId)]) -> (usize, u64) {
    let (mut count, mut len) = (0, 0);
    for (name, _) in entries {
        let longer = len + (DIRENT_SIZE + name.len()) as u64;
        if longer > BLOCK_SIZE {
            break;
        }
        (count, len) = (count + 1, longer);
    }
    (count, len)
}

fn directory_len(mut entries: &[(&[u8], NodeId)]) -> u64 {
    let mut total = 0;
    loop {
        let (count, len) = first_block(entries);
        entries = &entries[count..];
        if entries.is_empty() {
            return total + len;
        }
        total += BLOCK_SIZE;
    }
}

/// The chunks of `1 << chunk_bits` blocks in a file of `size` bytes.
pub(crate) fn chunk_count(size: u64, chunk_bits: u8) -> u64 {
    size.div_ceil(BLOCK_SIZE << chunk_bits)
}

fn write_chunks(
    output: &mut Output<'_>,
    count: u64,
    chunk_bits: u8,
    runs: &[Run],
    data_offset: u32,
) -> io::Result<()> {
    let mut next = 0;
    let holes = |output: &mut Output<'_>, count: u64| {
        (0..count).try_for_each(|_| output.write(&ondisk::HOLE.to_le_bytes()))
    };
    for run in runs {
        holes(output, run.first_chunk - next)?;
        let chunk_blocks = 1_u32 << chunk_bits;
        let mut block = run.block.wrapping_add(data_offset);
        for _ in 0..run.chunks {
            output.write(&block.to_le_bytes())?;
            // Past the last chunk the sum isn't used.
            block = block.wrapping_add(chunk_blocks);
        }
        next = run.first_chunk + run.chunks;
    }
    holes(output, count - next)
}

/// An attribute's bytes on the disk.
pub(crate) fn xattr_len(xattr: &Xattr) -> u64 {
    let len = size_of::<XattrEntry>() + xattr.name.len() + xattr.value.len();
    len.next_multiple_of(4) as u64
}

fn write_xattr(output: &mut Output<'_>, xattr: &Xattr) -> io::Result<()> {
    let entry = XattrEntry {
        name_len: u8::try_from(xattr.name.len()).expect("limits bound names"),
        name_index: xattr.index,
        value_len: u16::try_from(xattr.value.len()).expect("limits bound values").into(),
    };
    output.write(entry.as_bytes())?;
    output.write(&xattr.name)?;
    output.write(&xattr.value)?;
    let used = size_of::<XattrEntry>() + xattr.name.len() + xattr.value.len();
    output.skip(xattr_len(xattr) - used as u64)
}

/// An inode's field for `len` bytes of attributes: 1 for the header, 1 for each further 4 bytes.
fn xattr_count(len: u64) -> u16 {
    match len {
        0 => 0,
        len => u16::try_from(1 + (len - XATTR_HEADER_SIZE) / 4).expect("limits bound attributes"),
    }
}
