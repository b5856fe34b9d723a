//! Reads uncompressed EROFS file systems, as this crate writes them, from untrusted sources.
//!
//! Every address and length is checked before it's used, and what's allocated is bounded by what
//! the source really holds.

mod cache;
mod directory;
mod file;
#[cfg(test)]
mod tests;
mod xattr;

use std::io;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::ondisk::{
    self, BLOCK_BITS, BLOCK_SIZE, CHUNK_BITS_MASK, CHUNK_INDEXES, ExtendedInode, INODE_SIZE,
    SLOT_SIZE, SUPER_AREA, SUPER_OFFSET, SuperBlock, XATTR_HEADER_SIZE, file_type, layout,
};
use crate::source::ReadAt;
use cache::Cache;
pub use directory::DirEntry;
pub use file::FileReader;
pub use xattr::XattrPair;

/// Symbolic links that [`Reader::resolve`] follows, as Linux does.
const MAX_SYMLINKS: usize = 40;

/// Why a file system, or a part of it, can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The source failed, or ends too early.
    #[error("can't read {len} bytes at byte {offset}")]
    Io {
        /// Where it was read, in bytes.
        offset: u64,
        /// How much.
        len: usize,
        /// The source's error.
        source: io::Error,
    },
    /// There's no EROFS superblock.
    #[error("it is no EROFS file system")]
    Magic,
    /// The superblock's checksum is wrong.
    #[error("the superblock's checksum is wrong")]
    Checksum,
    /// The file system has a feature that our writers don't use.
    #[error("the file system has {0}, which is not supported")]
    Unsupported(&'static str),
    /// An inode, or what belongs to it, makes no sense.
    #[error("inode {nid} is damaged: {what}")]
    Corrupt {
        /// The inode's number.
        nid: u64,
        /// What's wrong.
        what: &'static str,
    },
    /// The inode isn't of the kind that the operation is for.
    #[error("inode {nid} is no {wanted}")]
    Kind {
        /// The inode's number.
        nid: u64,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A path leads through more than 40 symbolic links.
    #[error("too many symbolic links")]
    SymlinkLoop,
    /// A file is larger than the caller wants to have in memory.
    #[error("inode {nid} has more than {limit} bytes")]
    FileSize {
        /// The inode's number.
        nid: u64,
        /// The caller's limit in bytes.
        limit: u64,
    },
}

/// What a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FileType {
    Directory,
    Regular,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// A file's attributes. What it holds is read by the [`Reader`] that it's from.
#[derive(Clone, Debug)]
pub struct Inode {
    nid: u64,
    file_type: FileType,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: i64,
    mtime_nsec: u32,
    links: u32,
    size: u64,
    layout: u16,
    /// Block address, chunk format or device number.
    data: u32,
    xattr_len: u64,
    /// Where what follows the inode and its attributes begins.
    tail: u64,
}

impl Inode {
    /// Its number, which is the same for all names of one file.
    pub fn nid(&self) -> u64 {
        self.nid
    }

    /// What it is.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }

    /// The file type and permissions as `st_mode` has them.
    pub fn mode(&self) -> u32 {
        self.mode.into()
    }

    /// The permissions, with set-user-ID, set-group-ID and sticky.
    pub fn permissions(&self) -> u16 {
        self.mode & 0o7777
    }

    /// The owner's ID.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The group's ID.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// When it was modified: seconds since 1970, negative before, and nanoseconds after these.
    pub fn mtime(&self) -> (i64, u32) {
        (self.mtime, self.mtime_nsec)
    }

    /// How many names it has; a directory's is two more than its subdirectories.
    pub fn links(&self) -> u32 {
        self.links
    }

    /// The bytes of its content.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A device's major and minor number, else zeros.
    pub fn device(&self) -> (u32, u32) {
        match self.file_type {
            FileType::CharDevice | FileType::BlockDevice => ondisk::decode_device(self.data),
            _ => (0, 0),
        }
    }

    /// Whether it's a directory.
    pub fn is_directory(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Whether it's overlayfs's mark for a name that lower layers' files lose.
    pub fn is_whiteout(&self) -> bool {
        self.file_type == FileType::CharDevice && self.data == 0
    }

    pub(crate) fn raw_mode(&self) -> u16 {
        self.mode
    }

    pub(crate) fn raw_device(&self) -> u32 {
        match self.file_type {
            FileType::CharDevice | FileType::BlockDevice => self.data,
            _ => 0,
        }
    }

    pub(crate) fn corrupt(&self, what: &'static str) -> ReadError {
        ReadError::Corrupt { nid: self.nid, what }
    }

    fn expect(&self, file_type: FileType, wanted: &'static str) -> Result<(), ReadError> {
        let nid = self.nid;
        if self.file_type == file_type { Ok(()) } else { Err(ReadError::Kind { nid, wanted }) }
    }
}

/// Reads one file system. Shared between threads freely.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    cache: Cache,
    superblock: SuperBlock,
}

impl<S: ReadAt> Reader<S> {
    /// Opens the file system of `source`. A merged image's metadata can be opened alone; reading
    /// files' data needs the layers' blobs behind it, as [`crate::ConcatSource`] joins them.
    ///
    /// # Errors
    ///
    /// When there's no superblock, it's damaged, or needs what we don't support.
    pub fn open(source: S) -> Result<Self, ReadError> {
        let mut block = [0; SUPER_AREA];
        let len = block.len();
        source.read_exact_at(&mut block, SUPER_OFFSET).map_err(|source| ReadError::Io {
            offset: SUPER_OFFSET,
            len,
            source,
        })?;
        let (superblock, _) = SuperBlock::read_from_prefix(&block).map_err(|_| ReadError::Magic)?;
        check_superblock(superblock, &mut block)?;
        Ok(Self { source, cache: Cache::new(), superblock })
    }

    /// The bytes that the file system's addresses cover.
    pub fn len_bytes(&self) -> u64 {
        u64::from(self.superblock.blocks.get()) * BLOCK_SIZE
    }

    /// How many files there are, as the superblock says.
    pub fn inodes(&self) -> u64 {
        self.superblock.inodes.get()
    }

    /// The root directory.
    ///
    /// # Errors
    ///
    /// When its inode is damaged or can't be read.
    pub fn root(&self) -> Result<Inode, ReadError> {
        let root = self.inode(self.superblock.root_nid.get().into())?;
        root.expect(FileType::Directory, "directory")?;
        Ok(root)
    }

    /// Reads the inode of a number.
    ///
    /// # Errors
    ///
    /// When it's damaged, of a layout that we don't support, or can't be read.
    pub fn inode(&self, nid: u64) -> Result<Inode, ReadError> {
        let corrupt = |what| ReadError::Corrupt { nid, what };
        let meta_start = u64::from(self.superblock.meta_block.get()) * BLOCK_SIZE;
        let position = nid.checked_mul(SLOT_SIZE).and_then(|offset| offset.checked_add(meta_start));
        let position = position.filter(|position| position.checked_add(INODE_SIZE).is_some());
        let position = position.ok_or_else(|| corrupt("its address is out of range"))?;
        let mut inode = ExtendedInode::new_zeroed();
        self.read_metadata(inode.as_mut_bytes(), position)?;
        let format = inode.format.get();
        if format & 1 == 0 {
            return Err(ReadError::Unsupported("compact inodes"));
        }
        let file_type = decode_type(inode.mode.get()).ok_or_else(|| corrupt("its type"))?;
        let layout = format >> 1;
        match layout {
            layout::FLAT_PLAIN | layout::FLAT_INLINE => {}
            layout::CHUNK_BASED if file_type == FileType::Regular => {
                if inode.data.get() & !u32::from(CHUNK_BITS_MASK) != 0 {
                    return Err(match inode.data.get() & u32::from(CHUNK_INDEXES) {
                        0 => corrupt("its chunks' format"),
                        _ => ReadError::Unsupported("chunk indexes"),
                    });
                }
            }
            _ => return Err(ReadError::Unsupported("compressed files")),
        }
        let size = inode.size.get();
        if size > i64::MAX.cast_unsigned() || inode.mtime_nsec.get() >= 1_000_000_000 {
            return Err(corrupt("its size or time"));
        }
        let xattr_len = match inode.xattr_count.get() {
            0 => 0,
            count => XATTR_HEADER_SIZE + 4 * u64::from(count - 1),
        };
        let tail = (position + INODE_SIZE).checked_add(xattr_len);
        Ok(Inode {
            nid,
            file_type,
            mode: inode.mode.get(),
            uid: inode.uid.get(),
            gid: inode.gid.get(),
            mtime: inode.mtime.get().cast_signed(),
            mtime_nsec: inode.mtime_nsec.get(),
            links: inode.nlink.get(),
            size,
            layout,
            data: inode.data.get(),
            xattr_len,
            tail: tail.ok_or_else(|| corrupt("its address is out of range"))?,
        })
    }

    /// Finds a file by its path from the root; `.` and `..` mean what they mean, never above the
    /// root. Symbolic links are followed within this file system, the last one only if
    /// `follow_last`. `None`: no such file.
    ///
    /// # Errors
    ///
    /// When something on the way is damaged, or too many symbolic links are.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Option<Inode>, ReadError> {
        let mut directories = vec![self.root()?];
        let mut symlinks = 0;
        // What's still to walk, the next component last.
        let mut left: Vec<Box<[u8]>> = components(path).collect();
        let mut last = None;
        while let Some(name) = left.pop() {
            if &*name == b".." {
                directories.truncate(directories.len().saturating_sub(1).max(1));
                continue;
            }
            let Some(entry) = self.lookup(&directories[directories.len() - 1], &name)? else {
                return Ok(None);
            };
            let inode = self.inode(entry.nid)?;
            match inode.file_type {
                FileType::Symlink if !left.is_empty() || follow_last => {
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(ReadError::SymlinkLoop);
                    }
                    let target = self.read_link(&inode)?;
                    if target.starts_with(b"/") {
                        directories.truncate(1);
                    }
                    left.extend(components(&target));
                }
                FileType::Directory => directories.push(inode),
                _ if left.is_empty() => last = Some(inode),
                _ => return Ok(None),
            }
        }
        Ok(last.or_else(|| directories.pop()))
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    ///
    /// When it isn't one, is longer than 4095 bytes, or can't be read.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        inode.expect(FileType::Symlink, "symbolic link")?;
        let len = usize::try_from(inode.size).ok().filter(|&len| len <= ondisk::SYMLINK_MAX);
        let mut target = vec![0; len.ok_or_else(|| inode.corrupt("its target is too long"))?];
        self.read_content(inode, 0, &mut target)?;
        Ok(target)
    }

    /// Reads what's likely near to what's read next.
    fn read_metadata(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let len = buffer.len();
        let result = self.cache.read(&self.source, buffer, offset);
        result.map_err(|source| ReadError::Io { offset, len, source })
    }
}

/// The components of a path, last one first, without empty ones and `.`.
fn components(path: &[u8]) -> impl Iterator<Item = Box<[u8]>> {
    let is_some = |component: &&[u8]| !component.is_empty() && *component != b".";
    path.rsplit(|&byte| byte == b'/').filter(is_some).map(Box::from)
}

/// Checks the superblock, of which `block` is what its checksum is over.
fn check_superblock(mut superblock: SuperBlock, block: &mut [u8]) -> Result<(), ReadError> {
    if superblock.magic.get() != ondisk::MAGIC {
        return Err(ReadError::Magic);
    }
    if superblock.feature_compat.get() & ondisk::COMPAT_CHECKSUM != 0 {
        let checksum = std::mem::take(&mut superblock.checksum);
        block[..size_of::<SuperBlock>()].copy_from_slice(superblock.as_bytes());
        if ondisk::crc32c(block) != checksum.get() {
            return Err(ReadError::Checksum);
        }
    }
    if superblock.block_bits != BLOCK_BITS || superblock.directory_block_bits != 0 {
        return Err(ReadError::Unsupported("blocks of other than 4096 bytes"));
    }
    if superblock.feature_incompat.get() & !ondisk::INCOMPAT_CHUNKED_FILE != 0 {
        return Err(ReadError::Unsupported("features that our writers don't use"));
    }
    Ok(())
}

fn decode_type(mode: u16) -> Option<FileType> {
    Some(match mode & file_type::MASK {
        file_type::DIRECTORY => FileType::Directory,
        file_type::REGULAR => FileType::Regular,
        file_type::SYMLINK => FileType::Symlink,
        file_type::CHAR_DEVICE => FileType::CharDevice,
        file_type::BLOCK_DEVICE => FileType::BlockDevice,
        file_type::FIFO => FileType::Fifo,
        file_type::SOCKET => FileType::Socket,
        _ => return None,
    })
}
