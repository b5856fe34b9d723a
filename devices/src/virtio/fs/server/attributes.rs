//! What files are, and changes of that.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    chmodat, chownat, fstatvfs, ftruncate, utimensat,
};
use rustix::io::Errno;

use super::host::{self, ByFd, Metadata};
use super::nodes::File;
use super::owners::Owner;
use super::{FileServer, VALID_SECONDS};
use crate::virtio::fs::message::Arguments;
use crate::virtio::fs::protocol::{
    Attr, AttrOut, EntryOut, GETATTR_FH, GetattrIn, InHeader, ROOT, SetattrIn, StatfsOut, set,
};

/// The bits of a mode that can be changed.
const PERMISSIONS: u32 = 0o7777;

/// The bits that let a program run as its owner or group.
pub(super) const SET_UID: u32 = 0o4000;
pub(super) const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

/// Where the number of the file system is in an inode number, of which only the first one's are the
/// host's own: two files must differ somewhere.
const DEVICE_SHIFT: u32 = 48;

impl FileServer {
    pub(super) fn get_attributes(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let GetattrIn { flags, fh, .. } = arguments.take()?;
        if header.nodeid == ROOT {
            let attr = self.root_attributes();
            self.put_attributes(attr);
            return Ok(());
        }
        let attr = if flags & GETATTR_FH != 0
            && let Ok((file, _)) = self.handles.file(header.nodeid, fh)
        {
            let metadata = host::metadata(file)?;
            let owner = self.owners.seen(file, &metadata);
            self.attributes(owner, &metadata)
        } else {
            let file = self.nodes.get(header.nodeid)?;
            self.attributes_of(&file.fd)?.0
        };
        self.put_attributes(attr);
        Ok(())
    }

    pub(super) fn set_attributes(
        &mut self,
        header: &InHeader,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Errno> {
        let change: SetattrIn = arguments.take()?;
        let file = self.writable(header.nodeid)?;
        // A new owner takes set-id bits away, which a new mode may bring.
        self.change_owner(&file, &change)?;
        if change.valid & set::MODE != 0 {
            chmod(&file, change.mode)?;
        }
        if change.valid & set::SIZE != 0 {
            self.change_size(header.nodeid, &file, &change)?;
        }
        change_times(&file, &change)?;
        let (attr, _) = self.attributes_of(&file.fd)?;
        self.put_attributes(attr);
        Ok(())
    }

    fn change_owner(&self, file: &File, change: &SetattrIn) -> Result<(), Errno> {
        let asked = |flag, id: u32| (change.valid & flag != 0 && id != u32::MAX).then_some(id);
        let (uid, gid) = (asked(set::UID, change.uid), asked(set::GID, change.gid));
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        self.owners.change(file, uid, gid)
    }

    fn change_size(&self, id: u64, file: &File, change: &SetattrIn) -> Result<(), Errno> {
        if file.kind != FileType::RegularFile {
            return Err(if file.kind == FileType::Directory { Errno::ISDIR } else { Errno::INVAL });
        }
        let handle = (change.valid & set::FH != 0).then(|| self.handles.file(id, change.fh));
        match handle {
            Some(Ok((open, _))) => ftruncate(open, change.size)?,
            _ => ftruncate(host::reopen(&file.fd, OFlags::WRONLY)?, change.size)?,
        }
        if change.valid & set::KILL_SUIDGID != 0 { drop_set_id(file) } else { Ok(()) }
    }

    pub(super) fn stat_fs(&mut self, header: &InHeader) -> Result<(), Errno> {
        let mut out = StatfsOut { bsize: 4096, namelen: 255, frsize: 4096, ..StatfsOut::default() };
        if header.nodeid != ROOT {
            let found = fstatvfs(&*self.nodes.get(header.nodeid)?.fd)?;
            let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
            out.blocks = found.f_blocks;
            out.bfree = found.f_bfree;
            out.bavail = found.f_bavail;
            out.files = found.f_files;
            out.ffree = found.f_ffree;
            out.bsize = small(found.f_bsize);
            out.frsize = small(found.f_frsize);
            out.namelen = small(found.f_namemax);
        }
        self.put(&out);
        Ok(())
    }

    fn put_attributes(&mut self, attr: Attr) {
        self.put(&AttrOut { attr_valid: VALID_SECONDS, attr_valid_nsec: 0, dummy: 0, attr });
    }

    /// Describes what the guest was just told the number of.
    pub(super) fn entry(id: u64, attr: Attr) -> EntryOut {
        EntryOut {
            nodeid: id,
            entry_valid: VALID_SECONDS,
            attr_valid: VALID_SECONDS,
            attr,
            ..EntryOut::default()
        }
    }

    /// Describes what `fd` refers to, to the guest and to this process.
    pub(super) fn attributes_of(
        &mut self,
        fd: &(impl AsFd + AsRawFd),
    ) -> Result<(Attr, Metadata), Errno> {
        let metadata = host::metadata(fd)?;
        let owner = self.owners.seen(fd, &metadata);
        Ok((self.attributes(owner, &metadata), metadata))
    }

    /// Describes a file to the guest.
    fn attributes(&mut self, (uid, gid): Owner, metadata: &Metadata) -> Attr {
        Attr {
            ino: self.inode_number(host::device(metadata), metadata.stx_ino),
            size: metadata.stx_size,
            blocks: metadata.stx_blocks,
            atime: metadata.stx_atime.tv_sec.cast_unsigned(),
            mtime: metadata.stx_mtime.tv_sec.cast_unsigned(),
            ctime: metadata.stx_ctime.tv_sec.cast_unsigned(),
            atime_nsec: metadata.stx_atime.tv_nsec,
            mtime_nsec: metadata.stx_mtime.tv_nsec,
            ctime_nsec: metadata.stx_ctime.tv_nsec,
            mode: metadata.stx_mode.into(),
            nlink: metadata.stx_nlink,
            uid,
            gid,
            rdev: encode_device(metadata.stx_rdev_major, metadata.stx_rdev_minor),
            block_size: metadata.stx_blksize,
            flags: 0,
        }
    }

    /// Describes the directory of the shares.
    pub(super) fn root_attributes(&self) -> Attr {
        Attr {
            ino: ROOT,
            mode: FileType::Directory.as_raw_mode() | 0o555,
            nlink: 2,
            block_size: 4096,
            ..Attr::default()
        }
    }

    /// Returns an inode number that no file of another file system has, as a rule.
    pub(super) fn inode_number(&mut self, device: u64, inode: u64) -> u64 {
        let place = self.devices.iter().position(|known| *known == device);
        let place = place.unwrap_or_else(|| {
            self.devices.push(device);
            self.devices.len().saturating_sub(1)
        });
        inode.wrapping_add((place as u64).wrapping_shl(DEVICE_SHIFT))
    }
}

/// Changes a file's owner, whatever it is.
pub(super) fn chown(file: &File, uid: Option<Uid>, gid: Option<Gid>) -> Result<(), Errno> {
    chownat(&*file.fd, c"", uid, gid, AtFlags::EMPTY_PATH)
}

/// Changes a file's mode. That of a symlink can't be.
pub(super) fn chmod(file: &File, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode & PERMISSIONS);
    chmodat(CWD, ByFd::new(&file.fd).path(), mode, AtFlags::empty())
}

/// Takes a program's right to run as its owner or group, as a change by an ordinary user does.
pub(super) fn drop_set_id(file: &File) -> Result<(), Errno> {
    let mode = u32::from(host::metadata(&*file.fd)?.stx_mode);
    let mut drop = mode & SET_UID;
    if mode & GROUP_EXECUTE != 0 {
        drop |= mode & SET_GID;
    }
    if drop == 0 { Ok(()) } else { chmod(file, mode & !drop) }
}

fn change_times(file: &File, change: &SetattrIn) -> Result<(), Errno> {
    let time = |set, now, seconds: u64, nsec: u32| {
        let (tv_sec, tv_nsec) = match change.valid {
            valid if valid & now != 0 => (0, UTIME_NOW),
            valid if valid & set != 0 => (seconds.cast_signed(), i64::from(nsec)),
            _ => (0, UTIME_OMIT),
        };
        Timespec { tv_sec, tv_nsec }
    };
    if change.valid & (set::ATIME | set::MTIME | set::ATIME_NOW | set::MTIME_NOW) == 0 {
        return Ok(());
    }
    let times = Timestamps {
        last_access: time(set::ATIME, set::ATIME_NOW, change.atime, change.atime_nsec),
        last_modification: time(set::MTIME, set::MTIME_NOW, change.mtime, change.mtime_nsec),
    };
    utimensat(&*file.fd, c"", &times, AtFlags::EMPTY_PATH)
}

/// Packs a device's numbers as Linux does between its kernels (`new_encode_dev`).
fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}
