//! What can go wrong with images.

use std::io;
use std::path::PathBuf;

use crate::ReferenceError;

/// What a registry or an archive says, fit for a message: short, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut shown: String = text.trim().chars().take(MAX_CHARS).map(printable).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// An error and its causes, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    shown(&text)
}

/// Why something couldn't be done with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The store has no such image.
    #[error("no such image: {reference}")]
    NotFound {
        /// How it was named.
        reference: String,
    },
    /// Several images' identifiers begin so.
    #[error("{reference} is the beginning of several images' identifiers")]
    Ambiguous {
        /// The beginning.
        reference: String,
    },
    /// The image is in use.
    #[error("{message}")]
    InUse {
        /// By what.
        message: String,
    },
    /// The registry has no such image, tag or platform.
    #[error("{reference}: {problem}")]
    NotInRegistry {
        /// What was asked for.
        reference: String,
        /// What it said.
        problem: String,
    },
    /// The registry wants other credentials, or some.
    #[error("{registry} refuses access to {what}: {problem}")]
    Denied {
        /// The registry.
        registry: String,
        /// The repository.
        what: String,
        /// What it said.
        problem: String,
    },
    /// The registry can't be reached, or said what makes no sense.
    #[error("{registry} can't be used")]
    Registry {
        /// The registry.
        registry: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What came isn't what was asked for, or is no image: a wrong digest, a hostile layer, an
    /// unknown format.
    #[error("{what} is damaged or no image: {problem}")]
    Invalid {
        /// What: a digest, a file.
        what: String,
        /// What's wrong.
        problem: String,
    },
    /// What was asked for makes no sense.
    #[error("{message}")]
    Request {
        /// What of it.
        message: String,
    },
    /// A file can't be read, written or made.
    #[error("can't {what} {}", path.display())]
    File {
        /// What was tried: a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store's database.
    #[error("the image store {} can't be used", path.display())]
    Store {
        /// The database.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
