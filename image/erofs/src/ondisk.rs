//! The on-disk format: structures and constants of Linux 6.12's
//! `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h`, as far as uncompressed file
//! systems with 4096-byte blocks use them.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;
/// Bytes of a block.
pub(crate) const BLOCK_SIZE: u64 = BLOCK as u64;
/// log2 of [`BLOCK_SIZE`].
pub(crate) const BLOCK_BITS: u8 = 12;
/// Where the superblock begins, in bytes.
pub(crate) const SUPER_OFFSET: u64 = 1024;
/// Bytes from there to its block's end, which its checksum is over.
pub(crate) const SUPER_AREA: usize = BLOCK - 1024;
pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;

/// The superblock's checksum is there.
pub(crate) const COMPAT_CHECKSUM: u32 = 0x1;
/// An inode's time is the one of its modification.
pub(crate) const COMPAT_MTIME: u32 = 0x2;
/// Some file is chunk-based.
pub(crate) const INCOMPAT_CHUNKED_FILE: u32 = 0x4;

/// Bytes of a slot in the inodes' area: an inode's number counts these.
pub(crate) const SLOT_SIZE: u64 = 32;
/// Bytes of an extended inode.
pub(crate) const INODE_SIZE: u64 = 64;
/// Bytes of a directory entry without its name.
pub(crate) const DIRENT_SIZE: usize = 12;
/// Bytes of the header of an inode's extended attributes.
pub(crate) const XATTR_HEADER_SIZE: u64 = 12;
/// Longest name of a directory entry, in bytes.
pub(crate) const NAME_MAX: usize = 255;
/// Longest target of a symbolic link, in bytes.
pub(crate) const SYMLINK_MAX: usize = 4095;
/// The block address of a chunk that's a hole.
pub(crate) const HOLE: u32 = u32::MAX;
/// The mask of a chunk-based file's `log2(blocks of a chunk)`.
pub(crate) const CHUNK_BITS_MASK: u16 = 0x1f;
/// A chunk-based file has 8-byte indexes rather than 4-byte addresses.
pub(crate) const CHUNK_INDEXES: u16 = 0x20;

/// How an inode's data lie on the disk.
pub(crate) mod layout {
    pub(crate) const FLAT_PLAIN: u16 = 0;
    pub(crate) const FLAT_INLINE: u16 = 2;
    pub(crate) const CHUNK_BASED: u16 = 4;
}

/// `S_IFMT` and its values.
pub(crate) mod file_type {
    pub(crate) const MASK: u16 = 0o170_000;
    pub(crate) const SOCKET: u16 = 0o140_000;
    pub(crate) const SYMLINK: u16 = 0o120_000;
    pub(crate) const REGULAR: u16 = 0o100_000;
    pub(crate) const BLOCK_DEVICE: u16 = 0o060_000;
    pub(crate) const DIRECTORY: u16 = 0o040_000;
    pub(crate) const CHAR_DEVICE: u16 = 0o020_000;
    pub(crate) const FIFO: u16 = 0o010_000;
}

/// The prefixes of extended attributes' names that have a number, longest first.
const XATTR_PREFIXES: [(u8, &[u8], bool); 5] = [
    (2, b"system.posix_acl_access", true),
    (3, b"system.posix_acl_default", true),
    (6, b"security.", false),
    (4, b"trusted.", false),
    (1, b"user.", false),
];

/// Splits an extended attribute's name into its prefix's number and the rest. `None` for names
/// that the format can't express, which no Linux file system stores by itself either.
pub(crate) fn split_xattr_name(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|&(index, prefix, whole)| {
        let rest = name.strip_prefix(prefix)?;
        (whole == rest.is_empty()).then_some((index, rest))
    })
}

/// The prefix of number `index`.
pub(crate) fn xattr_prefix(index: u8) -> Option<&'static [u8]> {
    XATTR_PREFIXES.iter().find(|prefix| prefix.0 == index).map(|prefix| prefix.1)
}

/// The superblock, 128 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SuperBlock {
    pub(crate) magic: U32,
    pub(crate) checksum: U32,
    pub(crate) feature_compat: U32,
    pub(crate) block_bits: u8,
    pub(crate) extension_slots: u8,
    pub(crate) root_nid: U16,
    pub(crate) inodes: U64,
    pub(crate) build_time: U64,
    pub(crate) build_time_nsec: U32,
    pub(crate) blocks: U32,
    pub(crate) meta_block: U32,
    pub(crate) xattr_block: U32,
    pub(crate) uuid: [u8; 16],
    pub(crate) volume_name: [u8; 16],
    pub(crate) feature_incompat: U32,
    pub(crate) compression: U16,
    pub(crate) extra_devices: U16,
    pub(crate) device_table: U16,
    pub(crate) directory_block_bits: u8,
    pub(crate) xattr_prefix_count: u8,
    pub(crate) xattr_prefix_start: U32,
    pub(crate) packed_nid: U64,
    pub(crate) reserved: [u8; 24],
}

/// An extended inode.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ExtendedInode {
    /// Bit 0: extended; bits 1 to 3: [`layout`].
    pub(crate) format: U16,
    pub(crate) xattr_count: U16,
    pub(crate) mode: U16,
    pub(crate) reserved: U16,
    pub(crate) size: U64,
    /// A block address, a device number or a chunk format, by the kind of file.
    pub(crate) data: U32,
    pub(crate) ino: U32,
    pub(crate) uid: U32,
    pub(crate) gid: U32,
    pub(crate) mtime: U64,
    pub(crate) mtime_nsec: U32,
    pub(crate) nlink: U32,
    pub(crate) reserved2: [u8; 16],
}

/// The header of an inode's extended attributes.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct XattrHeader {
    pub(crate) name_filter: U32,
    pub(crate) shared_count: u8,
    pub(crate) reserved: [u8; 7],
}

/// An extended attribute, followed by the rest of its name and its value.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub(crate) name_len: u8,
    pub(crate) name_index: u8,
    pub(crate) value_len: U16,
}

/// A directory entry; its name lies further on in the same block.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Dirent {
    pub(crate) nid: U64,
    pub(crate) name_offset: U16,
    pub(crate) file_type: u8,
    pub(crate) reserved: u8,
}

/// The file type of a directory entry for a mode, as `d_type` has it.
pub(crate) fn dirent_type(mode: u16) -> u8 {
    match mode & file_type::MASK {
        file_type::REGULAR => 1,
        file_type::DIRECTORY => 2,
        file_type::CHAR_DEVICE => 3,
        file_type::BLOCK_DEVICE => 4,
        file_type::FIFO => 5,
        file_type::SOCKET => 6,
        file_type::SYMLINK => 7,
        _ => 0,
    }
}

/// Encodes a device number as inodes hold it: 12 bits of major, 20 of minor. `None` if it doesn't
/// fit.
pub(crate) fn encode_device(major: u32, minor: u32) -> Option<u32> {
    let fits = major < 1 << 12 && minor < 1 << 20;
    fits.then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// The major and minor number of an inode's device.
pub(crate) fn decode_device(device: u32) -> (u32, u32) {
    ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00))
}

/// The superblock's checksum: CRC-32C without the last inversion, over the rest of its block.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_formats_sizes() {
        assert_eq!(size_of::<SuperBlock>(), 128);
        assert_eq!(size_of::<ExtendedInode>() as u64, INODE_SIZE);
        assert_eq!(size_of::<XattrHeader>() as u64, XATTR_HEADER_SIZE);
        assert_eq!(size_of::<XattrEntry>(), 4);
        assert_eq!(size_of::<Dirent>(), DIRENT_SIZE);
    }

    #[test]
    fn crc32c_has_the_check_value_of_its_definition() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn device_numbers_survive_encoding() {
        for (major, minor) in [(0, 0), (1, 3), (259, 0xf_ffff), (0xfff, 0x1_2345)] {
            assert_eq!(decode_device(encode_device(major, minor).unwrap()), (major, minor));
        }
        assert_eq!(encode_device(0x1000, 0), None);
        assert_eq!(encode_device(0, 0x10_0000), None);
    }

    #[test]
    fn names_without_a_numbered_prefix_are_not_split() {
        assert_eq!(split_xattr_name(b"user.a"), Some((1, &b"a"[..])));
        assert_eq!(split_xattr_name(b"system.posix_acl_access"), Some((2, &b""[..])));
        for name in [&b"user."[..], b"system.nfs4_acl", b"system.posix_acl_accessx", b"com.apple"] {
            assert_eq!(split_xattr_name(name), None);
        }
    }
}
