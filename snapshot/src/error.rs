//! Why a snapshot can't be used or made.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::SnapshotId;

/// What is wrong with a snapshot's file, or with reading or writing one.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file can't be opened, read or written.
    #[error("can't {action} {path:?}")]
    Io {
        /// What was to be done, e.g. "read".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It doesn't begin (or, as a memory file, end) like one of ours.
    #[error("{path:?} isn't a {what} of this program")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// It ends before it should.
    #[error("{path:?} is cut off: it has {actual_bytes} of {expected_bytes} bytes")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        actual_bytes: u64,
        /// What its length should be.
        expected_bytes: u64,
    },
    /// Its content isn't what was written.
    #[error("{path:?} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that was found.
        reason: String,
    },
    /// A version of this program wrote it whose format isn't known here.
    #[error(
        "{path:?} has format version {version}, written by vmctl {writer}; this program reads {readable}"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The format's version.
        version: u32,
        /// The version of the program that wrote it, if it says so.
        writer: String,
        /// The versions that are known, in words.
        readable: String,
    },
    /// It was taken on another architecture.
    #[error("{path:?} was taken on {theirs}; this machine is {ours}")]
    Architecture {
        /// The file.
        path: PathBuf,
        /// The snapshot's.
        theirs: String,
        /// This machine's.
        ours: String,
    },
    /// The memory file isn't the one that the state file was written with.
    #[error("{path:?} holds the memory of snapshot {actual}, not of {expected}")]
    OtherSnapshot {
        /// The memory file.
        path: PathBuf,
        /// Whose memory it is.
        actual: SnapshotId,
        /// Whose it should be.
        expected: SnapshotId,
    },
    /// A differential snapshot was given where a full one is needed, or the other way round, or the
    /// two don't belong together.
    #[error("{path:?} can't be used for this: {reason}")]
    Unsuitable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl SnapshotError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn unsuitable(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unsuitable { path: path.to_owned(), reason: reason.into() }
    }
}
