//! What goes wrong with comparisons.

use std::io;
use std::path::PathBuf;

use compare::ways::WayError;
use thiserror::Error;

/// Why a comparison ended without success.
#[derive(Debug, Error)]
pub(crate) enum CompareError {
    /// It can't be begun.
    #[error(transparent)]
    Way(#[from] WayError),
    /// The live page can't be served.
    #[error(transparent)]
    Serve(#[from] compare::serve::ServeError),
    /// The program that measures inside is missing.
    #[error("compare-probe wasn't found: it's not beside vmctl, nor where VMCTL_PROBE says")]
    NoProbe,
    /// A report's file can't be written.
    #[error("{} can't be written", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A report's file can't be read.
    #[error("{} can't be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file has no report in it.
    #[error("{} is no report of vmctl compare: {problem}", path.display())]
    NoReport {
        /// The file.
        path: PathBuf,
        /// What's wrong with it.
        problem: String,
    },
}

impl CompareError {
    /// What can be done about it.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Serve(compare::serve::ServeError::Remote(_)) => {
                Some("--allow-remote allows it; the page is plain HTTP")
            }
            Self::NoProbe => Some("`cargo xtask demo` puts it there"),
            Self::NoReport { .. } => Some("reports are written by `vmctl compare --save FILE`"),
            _ => None,
        }
    }
}
