//! How large an archive or file system may be.

/// Bounds on what a layer's archive, or the merged file system, may make us write or keep in
/// memory. Each is inclusive.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries of an archive, and files of a merged file system.
    pub entries: u64,
    /// Bytes of the uncompressed archive, what follows its end included.
    pub archive_bytes: u64,
    /// Size of one file in bytes, holes included.
    pub file_bytes: u64,
    /// Bytes of a path, or a hard link's target.
    pub path_bytes: usize,
    /// Components of a path.
    pub path_depth: usize,
    /// Bytes of all extended attributes of one file, names included. More than 128 KiB can't be
    /// expressed.
    pub xattr_bytes_per_file: usize,
    /// Bytes of all different extended attributes.
    pub xattr_bytes: u64,
    /// Bytes of one entry's extended headers (long names, pax records, sparse maps).
    pub extended_header_bytes: u64,
    /// Bytes of the metadata (inodes, directories, chunk maps).
    pub metadata_bytes: u64,
}

impl Default for Limits {
    /// What no honest image reaches: 4 Mi entries, 2 TiB of archive, paths as Linux has them.
    fn default() -> Self {
        Self {
            entries: 4 << 20,
            archive_bytes: 2 << 40,
            file_bytes: 8 << 40,
            path_bytes: 4096,
            path_depth: 512,
            xattr_bytes_per_file: 128 << 10,
            xattr_bytes: 64 << 20,
            extended_header_bytes: 1 << 20,
            metadata_bytes: 4 << 30,
        }
    }
}

/// Which of the [`Limits`] was reached.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// [`Limits::entries`].
    #[error("more than {0} entries")]
    Entries(u64),
    /// [`Limits::archive_bytes`].
    #[error("an archive of more than {0} bytes")]
    ArchiveBytes(u64),
    /// [`Limits::file_bytes`].
    #[error("a file of more than {0} bytes")]
    FileBytes(u64),
    /// [`Limits::path_bytes`].
    #[error("a path of more than {0} bytes")]
    PathBytes(usize),
    /// [`Limits::path_depth`].
    #[error("a path of more than {0} components")]
    PathDepth(usize),
    /// [`Limits::xattr_bytes_per_file`], or more attributes on one file than the format can hold.
    #[error("extended attributes of more than {0} bytes, or more than 255, on one file")]
    FileXattrs(usize),
    /// [`Limits::xattr_bytes`].
    #[error("different extended attributes of more than {0} bytes")]
    XattrBytes(u64),
    /// [`Limits::metadata_bytes`].
    #[error("metadata of more than {0} bytes")]
    MetadataBytes(u64),
    /// The format's 32-bit block addresses: 16 TiB.
    #[error("more data than block addresses can express")]
    Addresses,
}
