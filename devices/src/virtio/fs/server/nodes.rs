//! The files that a guest knows, by the numbers that it knows them by.
//!
//! A number is given once and never again: one that a guest makes up, or has given back, names
//! nothing. For each file there is a descriptor that only refers to it, or, when there are too many,
//! none: then the file is looked up once more by the name at which it was last seen, and is stale
//! if that's another file now.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::super::protocol::ROOT;
use super::host::{self, Metadata};

/// How many files a guest may know at a time: each costs memory of the host's.
const MAX_NODES: usize = 1 << 20;

/// How many directories deep a file may be that is looked up once more.
const MAX_DEPTH: usize = 1024;

/// What tells one file from all others of a share, for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    share: usize,
    device: u64,
    inode: u64,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    parent: u64,
    name: CString,
}

struct Node {
    identity: Identity,
    /// When it was made: an inode's number is used again.
    born: (i64, u32),
    kind: FileType,
    /// How often the guest was told of it and hasn't forgotten.
    lookups: u64,
    /// Where it was last seen; none, once it's gone from there.
    place: Option<Place>,
    fd: Option<Arc<OwnedFd>>,
    /// How many handles are open on it.
    handles: u32,
    /// Whether its descriptor was used since the last look at it.
    is_recent: bool,
}

/// A file, as long as somebody works on it.
#[derive(Clone)]
pub(super) struct File {
    pub(super) share: usize,
    pub(super) kind: FileType,
    pub(super) fd: Arc<OwnedFd>,
}

/// All files that a guest knows.
pub(super) struct Nodes {
    nodes: HashMap<u64, Node>,
    numbers: HashMap<Identity, u64>,
    next: u64,
    /// Those that have a descriptor which can be closed.
    open: VecDeque<u64>,
    max_open: usize,
}

impl Nodes {
    /// Creates a table in which the shares' roots have the numbers after [`ROOT`], in their order, and
    /// at most `max_open` others a descriptor.
    pub(super) fn new(roots: &[(Arc<OwnedFd>, Metadata)], max_open: usize) -> Self {
        let next = ROOT.saturating_add(1);
        let (nodes, numbers, open) = Default::default();
        let mut table = Self { nodes, numbers, next, open, max_open };
        for (share, (fd, metadata)) in roots.iter().enumerate() {
            let node = Node {
                identity: identity(share, metadata),
                born: born(metadata),
                kind: host::kind(metadata),
                lookups: 1,
                place: None,
                fd: Some(Arc::clone(fd)),
                handles: 0,
                is_recent: true,
            };
            table.insert(node);
        }
        table
    }

    /// Returns the number of a share's root.
    pub(super) fn root(share: usize) -> u64 {
        (share as u64).saturating_add(ROOT).saturating_add(1)
    }

    /// Tells whether a share starts at the file.
    fn is_root(node: &Node, id: u64) -> bool {
        id == Self::root(node.identity.share)
    }

    fn insert(&mut self, node: Node) -> u64 {
        let id = self.next;
        // Not in the life of any host.
        self.next = self.next.saturating_add(1);
        self.numbers.insert(node.identity, id);
        self.nodes.insert(id, node);
        id
    }

    /// Returns the file of this number.
    ///
    /// # Errors
    /// `ESTALE`: there is no such number, or the file isn't where it was.
    pub(super) fn get(&mut self, id: u64) -> Result<File, Errno> {
        let fd = self.fd(id)?;
        let node = self.nodes.get(&id).ok_or(Errno::STALE)?;
        Ok(File { share: node.identity.share, kind: node.kind, fd })
    }

    /// Returns the file of this number, which is a directory.
    ///
    /// # Errors
    /// As [`get`](Self::get), and `ENOTDIR`.
    pub(super) fn directory(&mut self, id: u64) -> Result<File, Errno> {
        let file = self.get(id)?;
        if file.kind == FileType::Directory { Ok(file) } else { Err(Errno::NOTDIR) }
    }

    /// Returns a file's descriptor; opens it again, and those of the directories above that have been
    /// closed.
    fn fd(&mut self, id: u64) -> Result<Arc<OwnedFd>, Errno> {
        let mut closed: Vec<(u64, CString)> = Vec::new();
        let mut at = id;
        let mut fd = loop {
            let node = self.nodes.get_mut(&at).ok_or(Errno::STALE)?;
            if let Some(fd) = &node.fd {
                node.is_recent = true;
                break Arc::clone(fd);
            }
            let place = node.place.as_ref().ok_or(Errno::STALE)?;
            if closed.len() >= MAX_DEPTH {
                return Err(Errno::STALE);
            }
            closed.push((at, place.name.clone()));
            at = place.parent;
        };
        for (id, name) in closed.into_iter().rev() {
            let found = host::refer(&*fd, &name).map_err(|_| Errno::STALE)?;
            let metadata = host::metadata(&found)?;
            let node = self.nodes.get(&id).ok_or(Errno::STALE)?;
            if !is_same(node, &identity(node.identity.share, &metadata), &metadata) {
                return Err(Errno::STALE);
            }
            fd = Arc::new(found);
            self.keep(id, Arc::clone(&fd));
        }
        Ok(fd)
    }

    /// Notes that the guest is told of what was found as `name` in `parent`; returns its number.
    ///
    /// # Errors
    /// `ENFILE`, when it knows too many files.
    pub(super) fn remember(
        &mut self,
        (parent, share): (u64, usize),
        name: &CStr,
        fd: OwnedFd,
        metadata: &Metadata,
    ) -> Result<u64, Errno> {
        let identity = identity(share, metadata);
        let place = Some(Place { parent, name: name.to_owned() });
        let known = self.numbers.get(&identity).copied();
        if let Some((id, node)) = known.and_then(|id| Some((id, self.nodes.get_mut(&id)?)))
            && (node.fd.is_some() || is_same(node, &identity, metadata))
        {
            node.lookups = node.lookups.saturating_add(1);
            if !Self::is_root(node, id) {
                node.place = place;
            }
            if node.fd.is_none() {
                self.keep(id, Arc::new(fd));
            }
            return Ok(id);
        }
        if self.nodes.len() >= MAX_NODES {
            return Err(Errno::NFILE);
        }
        let id = self.insert(Node {
            identity,
            born: born(metadata),
            kind: host::kind(metadata),
            lookups: 1,
            place,
            fd: None,
            handles: 0,
            is_recent: true,
        });
        self.keep(id, Arc::new(fd));
        Ok(id)
    }

    /// Keeps a file's descriptor, and closes one that hasn't been used of late if there are too many.
    fn keep(&mut self, id: u64, fd: Arc<OwnedFd>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.fd = Some(fd);
        node.is_recent = true;
        self.open.push_back(id);
        // Each is looked at twice at most: the first look takes its mark away.
        let mut looks = self.open.len().saturating_mul(2);
        while self.open.len() > self.max_open && looks > 0 {
            looks = looks.saturating_sub(1);
            let Some(id) = self.open.pop_front() else { return };
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            // A file without a name is reached by its descriptor only; how many of those there are
            // that somebody has open is limited by their handles.
            let is_needed = node.handles > 0 && node.place.is_none();
            if std::mem::take(&mut node.is_recent) || is_needed {
                self.open.push_back(id);
            } else {
                node.fd = None;
            }
        }
    }

    /// Forgets `count` of the times that the guest was told of a file.
    pub(super) fn forget(&mut self, id: u64, count: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if Self::is_root(node, id) {
            return;
        }
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups > 0 {
            return;
        }
        let identity = node.identity;
        self.nodes.remove(&id);
        // It may name another by now, whose inode has the number of this one's.
        if self.numbers.get(&identity) == Some(&id) {
            self.numbers.remove(&identity);
        }
        self.tidy();
    }

    /// Shortens the list of descriptors, which names files that are forgotten, once these are many.
    fn tidy(&mut self) {
        if self.open.len() > self.nodes.len().saturating_mul(2).saturating_add(64) {
            let nodes = &self.nodes;
            self.open.retain(|id| nodes.get(id).is_some_and(|node| node.fd.is_some()));
        }
    }

    /// Notes that what `fd` refers to was removed from `name` in `parent`.
    pub(super) fn detach(
        &mut self,
        (parent, share): (u64, usize),
        name: &CStr,
        fd: OwnedFd,
        metadata: &Metadata,
    ) {
        let Some(&id) = self.numbers.get(&identity(share, metadata)) else { return };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let is_here = |place: &Place| place.parent == parent && *place.name == *name;
        if node.place.as_ref().is_some_and(is_here) {
            node.place = None;
            if node.fd.is_none() {
                self.keep(id, Arc::new(fd));
            }
        }
    }

    /// Notes that what `metadata` is of is called `name` in `parent` now.
    pub(super) fn attach(
        &mut self,
        (parent, share): (u64, usize),
        name: &CStr,
        metadata: &Metadata,
    ) {
        let id = self.numbers.get(&identity(share, metadata)).copied();
        if let Some((id, node)) = id.and_then(|id| Some((id, self.nodes.get_mut(&id)?)))
            && !Self::is_root(node, id)
        {
            node.place = Some(Place { parent, name: name.to_owned() });
        }
    }

    /// Notes that a handle on a file was opened or closed.
    pub(super) fn count_handle(&mut self, id: u64, is_opened: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.handles = match is_opened {
                true => node.handles.saturating_add(1),
                false => node.handles.saturating_sub(1),
            };
        }
    }
}

fn identity(share: usize, metadata: &Metadata) -> Identity {
    Identity { share, device: host::device(metadata), inode: metadata.stx_ino }
}

fn born(metadata: &Metadata) -> (i64, u32) {
    (metadata.stx_btime.tv_sec, metadata.stx_btime.tv_nsec)
}

fn is_same(node: &Node, identity: &Identity, metadata: &Metadata) -> bool {
    node.identity == *identity && node.born == born(metadata) && node.kind == host::kind(metadata)
}
