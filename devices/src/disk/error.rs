//! Why a disk can't be opened.

use std::io;
use std::path::{Path, PathBuf};

use super::Format;

/// Why a disk can't be opened. Every message names the image's path.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is no such file.
    #[error("disk image {} doesn't exist", .path.display())]
    NotFound {
        /// The image.
        path: PathBuf,
    },
    /// It is a directory, a socket, a character device, …
    #[error("disk image {} is neither a regular file nor a block device", .path.display())]
    NotAnImage {
        /// The image.
        path: PathBuf,
    },
    /// It may be read, but not written.
    #[error("disk image {} can't be opened for writing", .path.display())]
    ReadOnly {
        /// The image.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// The host refuses to open, lock or read it.
    #[error("can't open disk image {}", .path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// Another VMM or tool has it open, and at least one of the two writes.
    #[error("disk image {} is in use by another process", .path.display())]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// It has no bytes at all.
    #[error("disk image {} is empty", .path.display())]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// Its length isn't a whole number of blocks.
    #[error("disk image {} has {len} bytes, not a multiple of {block_size}", .path.display())]
    Length {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The block size in bytes.
        block_size: u32,
    },
    /// Its header refers to another file, which the user didn't name.
    #[error("disk image {} refers to another file, {other:?}, which isn't opened", .path.display())]
    OtherFile {
        /// The image.
        path: PathBuf,
        /// The file that it refers to.
        other: String,
    },
    /// The disk is made of it twice.
    #[error("disk image {} builds upon itself", .path.display())]
    Repeated {
        /// The image.
        path: PathBuf,
    },
    /// It isn't a valid image of its format, or uses a feature of it that isn't supported.
    #[error("disk image {} can't be used as {format}", .path.display())]
    Format {
        /// The image.
        path: PathBuf,
        /// The format that it was opened as.
        format: Format,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The I/O engine that was asked for can't be had.
    #[error("disk image {} can't use the io_uring engine", .path.display())]
    Engine {
        /// The image.
        path: PathBuf,
        /// What stands against it.
        source: io::Error,
    },
    /// Its file system or device doesn't do I/O past the page cache.
    #[error("disk image {} can't be used with cache=direct", .path.display())]
    Direct {
        /// The image.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
}

/// [`DiskError`] without its details, for whoever chooses a hint or an exit code by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are DiskError's")]
pub enum DiskErrorKind {
    NotFound,
    NotAnImage,
    ReadOnly,
    Open,
    InUse,
    Empty,
    Length,
    OtherFile,
    Repeated,
    Format,
    Engine,
    Direct,
}

impl DiskError {
    /// Returns the image that it is about: the disk's, or one below.
    pub fn path(&self) -> &Path {
        match self {
            Self::NotFound { path }
            | Self::NotAnImage { path }
            | Self::ReadOnly { path, .. }
            | Self::Open { path, .. }
            | Self::InUse { path }
            | Self::Empty { path }
            | Self::Length { path, .. }
            | Self::OtherFile { path, .. }
            | Self::Repeated { path }
            | Self::Format { path, .. }
            | Self::Engine { path, .. }
            | Self::Direct { path, .. } => path,
        }
    }

    /// Returns the error's kind.
    pub fn kind(&self) -> DiskErrorKind {
        match self {
            Self::NotFound { .. } => DiskErrorKind::NotFound,
            Self::NotAnImage { .. } => DiskErrorKind::NotAnImage,
            Self::ReadOnly { .. } => DiskErrorKind::ReadOnly,
            Self::Open { .. } => DiskErrorKind::Open,
            Self::InUse { .. } => DiskErrorKind::InUse,
            Self::Empty { .. } => DiskErrorKind::Empty,
            Self::Length { .. } => DiskErrorKind::Length,
            Self::OtherFile { .. } => DiskErrorKind::OtherFile,
            Self::Repeated { .. } => DiskErrorKind::Repeated,
            Self::Format { .. } => DiskErrorKind::Format,
            Self::Engine { .. } => DiskErrorKind::Engine,
            Self::Direct { .. } => DiskErrorKind::Direct,
        }
    }
}
