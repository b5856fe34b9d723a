//! What is in directories.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::handles::Content;
use super::nodes::Nodes;
use super::{FileServer, MAX_IO, host};
use crate::virtio::fs::message::Arguments;
use crate::virtio::fs::protocol::{Dirent, EntryOut, InHeader, ROOT, ReadIn, opcode};

/// How much of a directory is read from the host at a time, in bytes.
const HOST_BUFFER: usize = 16 << 10;

/// What an entry's length is a multiple of, in bytes.
const ALIGNMENT: usize = 8;

/// One entry, as it is for the guest.
struct Listed<'a> {
    name: &'a CStr,
    inode: u64,
    kind: FileType,
    /// Where the next one is.
    next: u64,
}

/// Where the answer ends, and whether its entries come with their attributes.
#[derive(Clone, Copy)]
struct Form {
    limit: usize,
    with_attributes: bool,
}

impl FileServer {
    /// Lists as much of a directory as the guest wants and its buffers (`room` bytes) hold.
    pub(super) fn read_directory(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
        room: u64,
    ) -> Result<(), Errno> {
        let ReadIn { fh, offset, size, .. } = arguments.take()?;
        let limit = u64::from(size.min(MAX_IO)).min(room);
        let limit = usize::try_from(limit).unwrap_or_default();
        let with_attributes = header.opcode == opcode::READDIRPLUS;
        let form = Form { limit, with_attributes };
        match &self.handles.get(header.nodeid, fh)?.content {
            Content::Root => self.list_shares(offset, form),
            Content::Directory(directory) => {
                // The handle outlives the request; the descriptor is borrowed from no table.
                let directory = directory.try_clone().map_err(|_| Errno::NFILE)?;
                seek(&directory, SeekFrom::Start(offset))?;
                self.list(header.nodeid, &directory, form)
            }
            Content::File(_) => Err(Errno::NOTDIR),
        }
    }

    fn list(
        &mut self,
        parent: u64,
        directory: &std::os::fd::OwnedFd,
        form: Form,
    ) -> Result<(), Errno> {
        let device = host::device(&host::metadata(directory)?);
        let mut buffer = vec![MaybeUninit::uninit(); HOST_BUFFER];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                // What was listed is listed; whoever goes on gets the error.
                Err(_) if !self.out.is_empty() => return Ok(()),
                Err(errno) => return Err(errno),
            };
            let listed = Listed {
                name: entry.file_name(),
                inode: self.inode_number(device, entry.ino()),
                kind: entry.file_type(),
                next: entry.next_entry_cookie(),
            };
            if !self.append(parent, &listed, form) {
                break;
            }
        }
        Ok(())
    }

    fn list_shares(&mut self, offset: u64, form: Form) -> Result<(), Errno> {
        let names = (0..self.shares.len()).map(|index| {
            let name = self.shares.get(index).map(|share| share.name.clone());
            std::ffi::CString::new(name.unwrap_or_default()).unwrap_or_default()
        });
        let dots = [c".".to_owned(), c"..".to_owned()];
        let names: Vec<_> = dots.into_iter().chain(names).collect();
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, name) in names.iter().enumerate().skip(skip) {
            let (inode, kind) = match index.checked_sub(2) {
                None => (ROOT, FileType::Directory),
                Some(share) => {
                    let file = self.nodes.get(Nodes::root(share))?;
                    let metadata = host::metadata(&*file.fd)?;
                    let device = host::device(&metadata);
                    (self.inode_number(device, metadata.stx_ino), file.kind)
                }
            };
            let next = (index as u64).saturating_add(1);
            if !self.append(ROOT, &Listed { name, inode, kind, next }, form) {
                break;
            }
        }
        Ok(())
    }

    /// Appends an entry to the answer; returns whether there was room for it.
    fn append(&mut self, parent: u64, listed: &Listed<'_>, form: Form) -> bool {
        let name = listed.name.to_bytes();
        let attributes = if form.with_attributes { size_of::<EntryOut>() } else { 0 };
        let len = attributes.saturating_add(size_of::<Dirent>()).saturating_add(name.len());
        let Some(len) = len.checked_next_multiple_of(ALIGNMENT) else { return false };
        let end = self.out.len().saturating_add(len);
        if end > form.limit {
            return false;
        }
        if form.with_attributes {
            // The guest is told of itself and of what's above by other means. What is gone since it
            // was listed, or can't be told, has no attributes: the guest asks.
            let is_dot = name == b"." || name == b"..";
            let entry = if is_dot { Err(Errno::NOENT) } else { self.find(parent, listed.name) };
            self.put(&entry.unwrap_or_default());
        }
        let dirent = Dirent {
            ino: listed.inode,
            offset: listed.next,
            name_len: u32::try_from(name.len()).unwrap_or_default(),
            kind: kind_number(listed.kind),
        };
        self.out.extend_from_slice(dirent.as_bytes());
        self.out.extend_from_slice(name);
        self.out.resize(end, 0);
        true
    }
}

/// Returns a sort's number in a directory (`DT_DIR` and so on): the upper bits of a mode.
fn kind_number(kind: FileType) -> u32 {
    match kind {
        FileType::Unknown => 0,
        kind => kind.as_raw_mode() >> 12,
    }
}
