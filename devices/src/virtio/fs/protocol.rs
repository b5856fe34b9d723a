//! FUSE as it's spoken over the queues (VIRTIO 1.3 §5.11.6; `linux/fuse.h`, 7.31 and later).
//!
//! Numbers are in the guest's byte order, which is this host's on every architecture that there is.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The protocol's version that is spoken here.
pub(super) const MAJOR: u32 = 7;
/// The newest minor version whose messages are known here.
pub(super) const MINOR: u32 = 38;
/// The oldest one whose messages look as below: that of the first driver of this device.
pub(super) const OLDEST_MINOR: u32 = 31;

/// The node that a mount starts at.
pub(super) const ROOT: u64 = 1;

/// What a request asks for.
pub(super) mod opcode {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const SETATTR: u32 = 4;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const SYMLINK: u32 = 6;
    pub(in super::super) const MKNOD: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const UNLINK: u32 = 10;
    pub(in super::super) const RMDIR: u32 = 11;
    pub(in super::super) const RENAME: u32 = 12;
    pub(in super::super) const LINK: u32 = 13;
    pub(in super::super) const OPEN: u32 = 14;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const WRITE: u32 = 16;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const FSYNC: u32 = 20;
    pub(in super::super) const SETXATTR: u32 = 21;
    pub(in super::super) const GETXATTR: u32 = 22;
    pub(in super::super) const LISTXATTR: u32 = 23;
    pub(in super::super) const REMOVEXATTR: u32 = 24;
    pub(in super::super) const FLUSH: u32 = 25;
    pub(in super::super) const INIT: u32 = 26;
    pub(in super::super) const OPENDIR: u32 = 27;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const RELEASEDIR: u32 = 29;
    pub(in super::super) const FSYNCDIR: u32 = 30;
    pub(in super::super) const CREATE: u32 = 35;
    pub(in super::super) const INTERRUPT: u32 = 36;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const FALLOCATE: u32 = 43;
    pub(in super::super) const READDIRPLUS: u32 = 44;
    pub(in super::super) const RENAME2: u32 = 45;
    pub(in super::super) const LSEEK: u32 = 46;
    pub(in super::super) const COPY_FILE_RANGE: u32 = 47;
}

/// Flags of [`InitIn`] and [`InitOut`].
pub(super) mod feature {
    pub(in super::super) const ASYNC_READ: u32 = 1 << 0;
    /// `O_TRUNC` comes with the open.
    pub(in super::super) const ATOMIC_O_TRUNC: u32 = 1 << 3;
    pub(in super::super) const BIG_WRITES: u32 = 1 << 5;
    /// A changed mtime or size makes the guest drop what it cached of a file.
    pub(in super::super) const AUTO_INVAL_DATA: u32 = 1 << 12;
    pub(in super::super) const DO_READDIRPLUS: u32 = 1 << 13;
    pub(in super::super) const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub(in super::super) const ASYNC_DIO: u32 = 1 << 15;
    pub(in super::super) const PARALLEL_DIROPS: u32 = 1 << 18;
    pub(in super::super) const MAX_PAGES: u32 = 1 << 22;
    /// A symlink's target never changes: another one is another inode.
    pub(in super::super) const CACHE_SYMLINKS: u32 = 1 << 23;
    /// The server takes set-id bits away where a request says so.
    pub(in super::super) const HANDLE_KILLPRIV_V2: u32 = 1 << 28;
}

/// Flags of [`SetattrIn::valid`].
pub(super) mod set {
    pub(in super::super) const MODE: u32 = 1 << 0;
    pub(in super::super) const UID: u32 = 1 << 1;
    pub(in super::super) const GID: u32 = 1 << 2;
    pub(in super::super) const SIZE: u32 = 1 << 3;
    pub(in super::super) const ATIME: u32 = 1 << 4;
    pub(in super::super) const MTIME: u32 = 1 << 5;
    pub(in super::super) const FH: u32 = 1 << 6;
    pub(in super::super) const ATIME_NOW: u32 = 1 << 7;
    pub(in super::super) const MTIME_NOW: u32 = 1 << 8;
    pub(in super::super) const KILL_SUIDGID: u32 = 1 << 11;
}

/// [`GetattrIn::flags`]: the handle counts.
pub(super) const GETATTR_FH: u32 = 1;
/// [`OpenIn::open_flags`] and [`CreateIn::open_flags`]: truncating takes set-id bits away.
pub(super) const OPEN_KILL_SUIDGID: u32 = 1;
/// [`WriteIn::write_flags`]: writing takes set-id bits away.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// [`FsyncIn::fsync_flags`]: what is needed to find the data, and no more.
pub(super) const FSYNC_FDATASYNC: u32 = 1;

/// Defines messages: plain old data without padding, copied as a whole.
macro_rules! messages {
    ($($(#[$meta:meta])* $name:ident[$size:literal] { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
        #[repr(C)]
        pub(super) struct $name {
            $(pub(super) $field: $type,)*
        }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

messages! {
    /// Before every request.
    InHeader[40] {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
        total_extlen: u16, padding: u16,
    }
    /// Before every answer; `error` is 0 or a negative errno, after which nothing follows.
    OutHeader[16] { len: u32, error: i32, unique: u64, }
    Attr[88] {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atime_nsec: u32,
        mtime_nsec: u32, ctime_nsec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32,
        block_size: u32, flags: u32,
    }
    EntryOut[128] {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32,
        attr_valid_nsec: u32, attr: Attr,
    }
    AttrOut[104] { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr, }
    InitIn[16] { major: u32, minor: u32, max_readahead: u32, flags: u32, }
    InitOut[64] {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16,
        congestion_threshold: u16, max_write: u32, time_gran: u32, max_pages: u16,
        map_alignment: u16, flags2: u32, unused: [u32; 7],
    }
    ForgetIn[8] { nlookup: u64, }
    BatchForgetIn[8] { count: u32, dummy: u32, }
    ForgetOne[16] { nodeid: u64, nlookup: u64, }
    GetattrIn[16] { flags: u32, dummy: u32, fh: u64, }
    SetattrIn[88] {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64,
        ctime: u64, atime_nsec: u32, mtime_nsec: u32, ctime_nsec: u32, mode: u32, unused4: u32,
        uid: u32, gid: u32, unused5: u32,
    }
    MknodIn[16] { mode: u32, rdev: u32, umask: u32, padding: u32, }
    MkdirIn[8] { mode: u32, umask: u32, }
    RenameIn[8] { new_dir: u64, }
    Rename2In[16] { new_dir: u64, flags: u32, padding: u32, }
    LinkIn[8] { old_nodeid: u64, }
    OpenIn[8] { flags: u32, open_flags: u32, }
    CreateIn[16] { flags: u32, mode: u32, umask: u32, open_flags: u32, }
    OpenOut[16] { fh: u64, open_flags: u32, padding: u32, }
    ReleaseIn[24] { fh: u64, flags: u32, release_flags: u32, lock_owner: u64, }
    FlushIn[24] { fh: u64, unused: u32, padding: u32, lock_owner: u64, }
    ReadIn[40] {
        fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32,
        padding: u32,
    }
    WriteIn[40] {
        fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32,
        padding: u32,
    }
    WriteOut[8] { size: u32, padding: u32, }
    StatfsOut[80] {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32,
        frsize: u32, padding: u32, spare: [u32; 6],
    }
    FsyncIn[16] { fh: u64, fsync_flags: u32, padding: u32, }
    SetxattrIn[8] { size: u32, flags: u32, }
    GetxattrIn[8] { size: u32, padding: u32, }
    GetxattrOut[8] { size: u32, padding: u32, }
    FallocateIn[32] { fh: u64, offset: u64, length: u64, mode: u32, padding: u32, }
    LseekIn[24] { fh: u64, offset: u64, whence: u32, padding: u32, }
    LseekOut[8] { offset: u64, }
    CopyFileRangeIn[56] {
        fh_in: u64, offset_in: u64, nodeid_out: u64, fh_out: u64, offset_out: u64, len: u64,
        flags: u64,
    }
    /// Its name follows, and what fills it up to a multiple of 8 bytes.
    Dirent[24] { ino: u64, offset: u64, name_len: u32, kind: u32, }
}
