//! A file tree in memory, as both writers build it before they write its metadata.

use std::collections::{BTreeMap, HashMap};

use crate::ondisk::{self, file_type};

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// An extended attribute of a [`Tree`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct XattrId(u32);

impl XattrId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// An extended attribute: its name's prefix as a number, the rest of the name, its value.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Xattr {
    pub(crate) index: u8,
    pub(crate) name: Box<[u8]>,
    pub(crate) value: Box<[u8]>,
}

/// What every kind of file has.
#[derive(Clone, Debug)]
pub(crate) struct Attributes {
    /// Permissions with set-user-ID, set-group-ID and sticky, without the file type.
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, negative before.
    pub(crate) mtime: i64,
    pub(crate) mtime_nsec: u32,
    pub(crate) xattrs: Box<[XattrId]>,
}

impl Attributes {
    /// A directory that no archive describes.
    pub(crate) fn implied_directory() -> Self {
        Self { permissions: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nsec: 0, xattrs: Box::default() }
    }
}

/// Chunks that follow each other in the file and on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Run {
    pub(crate) first_chunk: u64,
    pub(crate) chunks: u64,
    pub(crate) block: u32,
}

/// Where a regular file's data lie.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    /// In one piece from this block on.
    Flat { block: u32 },
    /// In chunks of `1 << chunk_bits` blocks; what no run covers is a hole.
    Chunked { chunk_bits: u8, runs: Box<[Run]> },
}

#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) children: BTreeMap<Box<[u8]>, NodeId>,
    /// Hides what lower layers have in this directory.
    pub(crate) opaque: bool,
    /// Only made because something is in it.
    pub(crate) implied: bool,
}

#[derive(Debug)]
pub(crate) enum Content {
    Directory(Directory),
    Regular {
        size: u64,
        data: Data,
    },
    Symlink(Box<[u8]>),
    /// A device, FIFO or socket: its file type and encoded device number.
    Special {
        file_type: u16,
        device: u32,
    },
}

impl Content {
    /// What stands for "nothing here" over a lower layer (overlayfs.rst, "whiteouts and opaque
    /// directories").
    pub(crate) const WHITEOUT: Self =
        Self::Special { file_type: file_type::CHAR_DEVICE, device: 0 };

    pub(crate) fn file_type(&self) -> u16 {
        match self {
            Self::Directory(_) => file_type::DIRECTORY,
            Self::Regular { .. } => file_type::REGULAR,
            Self::Symlink(_) => file_type::SYMLINK,
            Self::Special { file_type, .. } => *file_type,
        }
    }

    pub(crate) fn is_whiteout(&self) -> bool {
        matches!(self, Self::Special { file_type: file_type::CHAR_DEVICE, device: 0 })
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    pub(crate) content: Content,
}

/// Nodes, which of them are in which directory, and their extended attributes, each kept once.
/// Nodes that lost their last name stay until the tree is dropped; nobody counts or writes them.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    xattrs: Vec<Xattr>,
    xattr_ids: HashMap<Xattr, XattrId>,
}

impl Tree {
    pub(crate) const ROOT: NodeId = NodeId(0);

    /// A tree of an implied root directory.
    pub(crate) fn new() -> Self {
        let mut tree = Self { nodes: Vec::new(), xattrs: Vec::new(), xattr_ids: HashMap::new() };
        tree.add_implied_directory();
        tree
    }

    /// Adds a node that has no name yet. The caller's limits keep the count below 2³².
    pub(crate) fn add(&mut self, attributes: Attributes, content: Content) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("limits bound the nodes' count"));
        self.nodes.push(Node { attributes, content });
        id
    }

    pub(crate) fn add_implied_directory(&mut self) -> NodeId {
        let directory = Directory { implied: true, ..Directory::default() };
        self.add(Attributes::implied_directory(), Content::Directory(directory))
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// All nodes, named or not.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(|index| NodeId(u32::try_from(index).expect("`add` checked it")))
    }

    /// The directory at `id`, unless that's another kind of file.
    pub(crate) fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// The directory at `id`, unless that's another kind of file.
    pub(crate) fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.node_mut(id).content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Keeps an extended attribute once, however many files have it.
    pub(crate) fn intern(&mut self, xattr: Xattr) -> XattrId {
        if let Some(id) = self.xattr_ids.get(&xattr) {
            return *id;
        }
        let id = XattrId(u32::try_from(self.xattrs.len()).expect("limits bound the attributes"));
        self.xattrs.push(xattr.clone());
        self.xattr_ids.insert(xattr, id);
        id
    }

    /// Adds one of overlayfs's own attributes (with the value "y") to a node.
    pub(crate) fn mark(&mut self, id: NodeId, name: &[u8]) {
        let (index, name) = ondisk::split_xattr_name(name).expect("a name of ours has a prefix");
        let xattr = self.intern(Xattr { index, name: name.into(), value: b"y"[..].into() });
        let attributes = &mut self.node_mut(id).attributes;
        let mut xattrs = std::mem::take(&mut attributes.xattrs).into_vec();
        xattrs.push(xattr);
        attributes.xattrs = xattrs.into_boxed_slice();
    }

    pub(crate) fn xattr(&self, id: XattrId) -> &Xattr {
        &self.xattrs[id.index()]
    }

    pub(crate) fn xattrs(&self) -> &[Xattr] {
        &self.xattrs
    }
}
