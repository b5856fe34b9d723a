//! Names: looking them up, making, moving and removing them.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, linkat, mkdirat, mknodat, readlinkat,
    renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::attributes::{SET_GID, chmod};
use super::handles::{Content, Handle};
use super::host::{self, ByFd, Metadata};
use super::nodes::{File, Nodes};
use super::{FileServer, files};
use crate::virtio::fs::message::Arguments;
use crate::virtio::fs::protocol::{
    CreateIn, EntryOut, InHeader, LinkIn, MkdirIn, MknodIn, OpenOut, ROOT, Rename2In, RenameIn,
    opcode,
};

/// Of a new file, before it is given to its owner: nobody else's.
const PRIVATE: Mode = Mode::RWXU;

/// What the guest may ask of a renaming.
const RENAME_FLAGS: RenameFlags = RenameFlags::NOREPLACE.union(RenameFlags::EXCHANGE);

/// The most bytes of a link's target (`PATH_MAX`).
const MAX_TARGET_BYTES: usize = 4095;

impl FileServer {
    pub(super) fn lookup(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let entry = self.find(header.nodeid, arguments.name()?)?;
        self.put(&entry);
        Ok(())
    }

    /// Looks a name up and counts that the guest is told of it.
    pub(super) fn find(&mut self, parent: u64, name: &CStr) -> Result<EntryOut, Errno> {
        if parent == ROOT {
            let share = self.share(name).ok_or(Errno::NOENT)?;
            let id = Nodes::root(share);
            let file = self.nodes.get(id)?;
            return Ok(Self::entry(id, self.attributes_of(&file.fd)?.0));
        }
        let directory = self.nodes.directory(parent)?;
        let found = host::refer(&*directory.fd, name)?;
        let (attr, metadata) = self.attributes_of(&found)?;
        let id = self.nodes.remember((parent, directory.share), name, found, &metadata)?;
        Ok(Self::entry(id, attr))
    }

    pub(super) fn read_link(&mut self, header: &InHeader) -> Result<(), Errno> {
        if header.nodeid == ROOT {
            return Err(Errno::INVAL);
        }
        let file = self.nodes.get(header.nodeid)?;
        if file.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        let target = readlinkat(&*file.fd, c"", Vec::new())?;
        self.out.extend_from_slice(target.to_bytes());
        Ok(())
    }

    pub(super) fn make_symlink(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let name = arguments.name()?;
        // Anything: it's for the guest to follow, and never done here.
        let target = arguments.string()?;
        if target.count_bytes() > MAX_TARGET_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        let parent = self.writable_directory(header.nodeid)?;
        symlinkat(target, &*parent.fd, name)?;
        let found = host::refer(&*parent.fd, name)?;
        self.finish_new(header, (&parent, name), (found, FileType::Symlink), None).map(drop)
    }

    pub(super) fn make_node(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let MknodIn { mode, .. } = arguments.take()?;
        let name = arguments.name()?;
        let kind = FileType::from_raw_mode(mode);
        if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            // A device's node would be as good on the host as in the guest.
            return Err(Errno::PERM);
        }
        let parent = self.writable_directory(header.nodeid)?;
        mknodat(&*parent.fd, name, kind, PRIVATE, 0)?;
        let found = host::refer(&*parent.fd, name)?;
        self.finish_new(header, (&parent, name), (found, kind), Some(mode)).map(drop)
    }

    pub(super) fn make_directory(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let MkdirIn { mode, .. } = arguments.take()?;
        let name = arguments.name()?;
        let parent = self.writable_directory(header.nodeid)?;
        mkdirat(&*parent.fd, name, PRIVATE)?;
        let found = host::refer(&*parent.fd, name)?;
        self.finish_new(header, (&parent, name), (found, FileType::Directory), Some(mode)).map(drop)
    }

    /// Gives what was just made its owner and its mode, and tells the guest of it; removes it if
    /// that can't be done. Returns its number.
    fn finish_new(
        &mut self,
        header: &InHeader,
        (parent, name): (&File, &CStr),
        (found, kind): (OwnedFd, FileType),
        mode: Option<u32>,
    ) -> Result<u64, Errno> {
        let made = self.own_new(header, parent, found, kind, mode);
        let found = made.inspect_err(|_| {
            let directory = kind == FileType::Directory;
            let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            // What can't be owned may well not be removed, either: the request has failed anyway.
            let _ = unlinkat(&*parent.fd, name, flags);
        })?;
        let (attr, metadata) = self.attributes_of(&found)?;
        let place = (header.nodeid, parent.share);
        let id = self.nodes.remember(place, name, found, &metadata)?;
        let entry = Self::entry(id, attr);
        self.put(&entry);
        Ok(id)
    }

    /// Gives a new file its owner and its mode; a host's program may have put another in its place.
    fn own_new(
        &self,
        header: &InHeader,
        parent: &File,
        found: OwnedFd,
        kind: FileType,
        mode: Option<u32>,
    ) -> Result<OwnedFd, Errno> {
        let metadata = host::metadata(&found)?;
        let is_ours = metadata.stx_uid == rustix::process::geteuid().as_raw();
        if !is_ours || host::kind(&metadata) != kind {
            return Err(Errno::STALE);
        }
        if kind != FileType::Directory && metadata.stx_nlink != 1 {
            return Err(Errno::STALE);
        }
        let file = File { share: parent.share, kind, fd: found.into() };
        let above = host::metadata(&*parent.fd)?;
        // A directory with the bit hands its group down.
        let inherits = u32::from(above.stx_mode) & SET_GID != 0;
        let inherited = inherits.then(|| self.owners.seen(&*parent.fd, &above));
        self.owners.give_new(&file, (header.uid, header.gid), inherited)?;
        if let Some(mode) = mode {
            let inherited = match kind {
                FileType::Directory => u32::from(metadata.stx_mode) & SET_GID,
                _ => 0,
            };
            chmod(&file, mode | inherited)?;
        }
        // Nobody else has it yet.
        Arc::into_inner(file.fd).ok_or(Errno::IO)
    }

    pub(super) fn create(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let CreateIn { flags, mode, open_flags, .. } = arguments.take()?;
        let name = arguments.name()?;
        let parent = self.writable_directory(header.nodeid)?;
        self.handles.check_room()?;
        let wanted = OFlags::from_bits_retain(flags);
        let exclusive = files::host_flags(wanted) | OFlags::CREATE | OFlags::EXCL;
        match host::create(&*parent.fd, name, exclusive | OFlags::NOFOLLOW, PRIVATE) {
            Ok(open) => {
                let found = host::reopen(&open, OFlags::PATH)?;
                let new = (found, FileType::RegularFile);
                let node = self.finish_new(header, (&parent, name), new, Some(mode))?;
                let content = Content::File(open.into());
                let fh = self.handles.insert(Handle { node, share: parent.share, content });
                self.nodes.count_handle(node, true);
                self.put(&OpenOut { fh, ..OpenOut::default() });
                Ok(())
            }
            // It has come into being since the guest looked.
            Err(Errno::EXIST) if !wanted.contains(OFlags::EXCL) => {
                let entry = self.find(header.nodeid, name)?;
                let opened = self.open_file(entry.nodeid, wanted, open_flags);
                let fh = opened.inspect_err(|_| self.nodes.forget(entry.nodeid, 1))?;
                self.put(&entry);
                self.put(&OpenOut { fh, ..OpenOut::default() });
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn remove(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
        is_directory: bool,
    ) -> Result<(), Errno> {
        let name = arguments.name()?;
        let parent = self.writable_directory(header.nodeid)?;
        let found = host::refer(&*parent.fd, name)?;
        let metadata = host::metadata(&found)?;
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        unlinkat(&*parent.fd, name, flags)?;
        self.nodes.detach((header.nodeid, parent.share), name, found, &metadata);
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let (new_parent, flags) = if header.opcode == opcode::RENAME2 {
            let Rename2In { new_dir, flags, .. } = arguments.take()?;
            (new_dir, RenameFlags::from_bits_retain(flags))
        } else {
            let RenameIn { new_dir } = arguments.take()?;
            (new_dir, RenameFlags::empty())
        };
        if !RENAME_FLAGS.contains(flags) {
            return Err(Errno::INVAL);
        }
        let (old_name, new_name) = (arguments.name()?, arguments.name()?);
        let old = self.writable_directory(header.nodeid)?;
        let new = self.writable_directory(new_parent)?;
        if old.share != new.share {
            return Err(Errno::XDEV);
        }
        let look = |directory: &File, name| {
            let found = host::refer(&*directory.fd, name)?;
            let metadata = host::metadata(&found)?;
            Ok((found, metadata))
        };
        let (_, moved) = look(&old, old_name)?;
        let replaced = look(&new, new_name).ok();
        renameat_with(&*old.fd, old_name, &*new.fd, new_name, flags)?;
        let (from, to) = ((header.nodeid, old.share), (new_parent, new.share));
        if let Some((found, metadata)) = replaced {
            if flags.contains(RenameFlags::EXCHANGE) {
                self.nodes.attach(from, old_name, &metadata);
            } else if !is_same(&metadata, &moved) {
                self.nodes.detach(to, new_name, found, &metadata);
            }
        }
        self.nodes.attach(to, new_name, &moved);
        Ok(())
    }

    pub(super) fn link(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let LinkIn { old_nodeid } = arguments.take()?;
        let name = arguments.name()?;
        let parent = self.writable_directory(header.nodeid)?;
        let file = self.writable(old_nodeid)?;
        if file.share != parent.share {
            return Err(Errno::XDEV);
        }
        if file.kind == FileType::Directory {
            return Err(Errno::PERM);
        }
        // Through the descriptor, to which the path that's followed here leads.
        let path = ByFd::new(&file.fd);
        linkat(CWD, path.path(), &*parent.fd, name, AtFlags::SYMLINK_FOLLOW)?;
        let entry = self.find(header.nodeid, name)?;
        self.put(&entry);
        Ok(())
    }
}

/// Tells two names of one file.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (host::device(one), one.stx_ino) == (host::device(other), other.stx_ino)
}
