//! What is in files.

use std::fs::File as HostFile;
use std::os::fd::OwnedFd;

use rustix::fs::{
    FallocateFlags, FileType, OFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fsync, seek,
};
use rustix::io::Errno;
use sys::guest_io::GuestIo;

use super::attributes::drop_set_id;
use super::handles::{Content, Handle};
use super::{FileServer, MAX_IO, Outcome, host};
use crate::virtio::ChainBuffers;
use crate::virtio::fs::message::{self, Arguments, IN_HEADER, OUT_HEADER};
use crate::virtio::fs::protocol::{
    CopyFileRangeIn, FSYNC_FDATASYNC, FallocateIn, FsyncIn, InHeader, LseekIn, LseekOut,
    OPEN_KILL_SUIDGID, OpenIn, OpenOut, ROOT, ReadIn, ReleaseIn, WRITE_KILL_SUIDGID, WriteIn,
    WriteOut,
};

/// The length of [`WriteIn`] in bytes: the data follows it.
pub(super) const WRITE_IN: u64 = size_of::<WriteIn>() as u64;

/// How much one request copies from file to file at most, in bytes: others wait meanwhile.
const MAX_COPY: usize = 64 << 20;

/// `lseek`'s ways to look for data and for holes.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// What the host is told of how the guest opens a file. Its page cache is the guest's affair, and so
/// `O_DIRECT`; `O_NOATIME` isn't anybody's right.
const KNOWN_FLAGS: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC);

/// How a guest's range may be allocated.
const ALLOCATION: FallocateFlags =
    FallocateFlags::KEEP_SIZE.union(FallocateFlags::PUNCH_HOLE).union(FallocateFlags::ZERO_RANGE);

/// Returns the flags that the host opens a file with.
pub(super) fn host_flags(wanted: OFlags) -> OFlags {
    wanted & KNOWN_FLAGS
}

impl FileServer {
    pub(super) fn open(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let OpenIn { flags, open_flags } = arguments.take()?;
        if header.nodeid == ROOT {
            return Err(Errno::ISDIR);
        }
        let fh = self.open_file(header.nodeid, OFlags::from_bits_retain(flags), open_flags)?;
        self.put(&OpenOut { fh, ..OpenOut::default() });
        Ok(())
    }

    /// Opens a regular file; everything else is opened by the guest's kernel itself.
    pub(super) fn open_file(
        &mut self,
        id: u64,
        wanted: OFlags,
        open_flags: u32,
    ) -> Result<u64, Errno> {
        self.handles.check_room()?;
        let file = self.nodes.get(id)?;
        match file.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        let flags = host_flags(wanted);
        let truncates = flags.contains(OFlags::TRUNC);
        if truncates || flags & OFlags::RWMODE != OFlags::RDONLY {
            self.check_writable(file.share)?;
        }
        let open = host::reopen(&file.fd, flags)?;
        if truncates && open_flags & OPEN_KILL_SUIDGID != 0 {
            drop_set_id(&file)?;
        }
        let content = Content::File(HostFile::from(open));
        let fh = self.handles.insert(Handle { node: id, share: file.share, content });
        self.nodes.count_handle(id, true);
        Ok(fh)
    }

    pub(super) fn release(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let ReleaseIn { fh, .. } = arguments.take()?;
        self.handles.remove(header.nodeid, fh)?;
        self.nodes.count_handle(header.nodeid, false);
        Ok(())
    }

    pub(super) fn read(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
        io: &mut GuestIo,
        buffers: &ChainBuffers,
    ) -> Result<Outcome, Errno> {
        let ReadIn { fh, offset, size, .. } = arguments.take()?;
        let room = message::len(&buffers.writable).saturating_sub(OUT_HEADER);
        if size > MAX_IO || u64::from(size) > room {
            return Err(Errno::INVAL);
        }
        let (file, _) = self.handles.file(header.nodeid, fh)?;
        let target = message::range(&buffers.writable, OUT_HEADER, size.into());
        let read = io.read_up_to(file, offset, target).map_err(|error| errno(&error))?;
        Ok(Outcome::Placed(read))
    }

    pub(super) fn write(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
        io: &mut GuestIo,
        buffers: &ChainBuffers,
    ) -> Result<(), Errno> {
        let WriteIn { fh, offset, size, write_flags, .. } = arguments.take()?;
        let data = IN_HEADER.saturating_add(WRITE_IN);
        let given = message::len(&buffers.readable).saturating_sub(data);
        if size > MAX_IO || u64::from(size) != given {
            return Err(Errno::INVAL);
        }
        let (file, share) = self.handles.file(header.nodeid, fh)?;
        self.check_writable(share)?;
        let source = message::range(&buffers.readable, data, size.into());
        let durable = false;
        io.write_at(file, offset, source, durable).map_err(|error| errno(&error))?;
        if write_flags & WRITE_KILL_SUIDGID != 0 {
            drop_set_id(&self.nodes.get(header.nodeid)?)?;
        }
        self.put(&WriteOut { size, padding: 0 });
        Ok(())
    }

    pub(super) fn sync(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let FsyncIn { fh, fsync_flags, .. } = arguments.take()?;
        match &self.handles.get(header.nodeid, fh)?.content {
            Content::File(file) if fsync_flags & FSYNC_FDATASYNC != 0 => fdatasync(file),
            Content::File(file) => fsync(file),
            Content::Directory(directory) => fsync(directory),
            Content::Root => Ok(()),
        }
    }

    pub(super) fn allocate(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let FallocateIn { fh, offset, length, mode, .. } = arguments.take()?;
        let mode = FallocateFlags::from_bits_retain(mode);
        if !ALLOCATION.contains(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        let (file, share) = self.handles.file(header.nodeid, fh)?;
        self.check_writable(share)?;
        fallocate(file, mode, offset, length)
    }

    pub(super) fn seek(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let LseekIn { fh, offset, whence, .. } = arguments.take()?;
        let from = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let (file, _) = self.handles.file(header.nodeid, fh)?;
        // Every transfer says its own offset: the descriptor's position is nobody's.
        let offset = seek(file, from)?;
        self.put(&LseekOut { offset });
        Ok(())
    }

    pub(super) fn copy_range(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let copy: CopyFileRangeIn = arguments.take()?;
        if copy.flags != 0 {
            return Err(Errno::INVAL);
        }
        let (from, _) = self.handles.file(header.nodeid, copy.fh_in)?;
        let (to, share) = self.handles.file(copy.nodeid_out, copy.fh_out)?;
        self.check_writable(share)?;
        let len = usize::try_from(copy.len).unwrap_or(usize::MAX).min(MAX_COPY);
        let (mut read_at, mut write_at) = (copy.offset_in, copy.offset_out);
        let copied = copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), len)?;
        let size = u32::try_from(copied).map_err(|_| Errno::OVERFLOW)?;
        self.put(&WriteOut { size, padding: 0 });
        Ok(())
    }

    pub(super) fn open_directory(&mut self, header: &InHeader) -> Result<(), Errno> {
        self.handles.check_room()?;
        let (content, share) = if header.nodeid == ROOT {
            (Content::Root, usize::MAX)
        } else {
            let file = self.nodes.directory(header.nodeid)?;
            let open: OwnedFd = host::reopen(&file.fd, OFlags::RDONLY | OFlags::DIRECTORY)?;
            (Content::Directory(open), file.share)
        };
        let fh = self.handles.insert(Handle { node: header.nodeid, share, content });
        self.nodes.count_handle(header.nodeid, true);
        self.put(&OpenOut { fh, ..OpenOut::default() });
        Ok(())
    }
}

/// Returns what the guest is told of a failed transfer.
fn errno(error: &std::io::Error) -> Errno {
    match error.kind() {
        std::io::ErrorKind::InvalidInput => Errno::INVAL,
        std::io::ErrorKind::WriteZero => Errno::NOSPC,
        _ => Errno::from_io_error(error).unwrap_or(Errno::IO),
    }
}
