//! The files and directories that a guest has open.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Something open.
pub(super) struct Handle {
    /// What it's open on.
    pub(super) node: u64,
    pub(super) share: usize,
    pub(super) content: Content,
}

/// What can be done with a handle.
pub(super) enum Content {
    /// Reads and, if the file is open for it, writes.
    File(File),
    Directory(OwnedFd),
    /// The directory of the shares.
    Root,
}

/// All handles, by numbers that are given once.
pub(super) struct Handles {
    handles: HashMap<u64, Handle>,
    next: u64,
    max: usize,
}

impl Handles {
    /// Creates a table for at most `max` handles.
    pub(super) fn new(max: usize) -> Self {
        Self { handles: HashMap::new(), next: 1, max }
    }

    /// Tells whether another handle would be one too many.
    ///
    /// # Errors
    /// `ENFILE`, then.
    pub(super) fn check_room(&self) -> Result<(), Errno> {
        if self.handles.len() < self.max { Ok(()) } else { Err(Errno::NFILE) }
    }

    /// Adds a handle and returns its number.
    pub(super) fn insert(&mut self, handle: Handle) -> u64 {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        self.handles.insert(number, handle);
        number
    }

    /// Returns a handle on `node`.
    ///
    /// # Errors
    /// `EBADF`: there is none of this number, or it's on something else.
    pub(super) fn get(&self, node: u64, number: u64) -> Result<&Handle, Errno> {
        self.handles.get(&number).filter(|handle| handle.node == node).ok_or(Errno::BADF)
    }

    /// Returns an open file.
    ///
    /// # Errors
    /// As [`get`](Self::get), and `EISDIR`.
    pub(super) fn file(&self, node: u64, number: u64) -> Result<(&File, usize), Errno> {
        let handle = self.get(node, number)?;
        match &handle.content {
            Content::File(file) => Ok((file, handle.share)),
            Content::Directory(_) | Content::Root => Err(Errno::ISDIR),
        }
    }

    /// Closes a handle on `node`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) fn remove(&mut self, node: u64, number: u64) -> Result<(), Errno> {
        self.get(node, number)?;
        self.handles.remove(&number);
        Ok(())
    }
}
