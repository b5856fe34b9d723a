//! What goes wrong with a build.

use std::io;
use std::path::PathBuf;

use crate::ImageError;

/// Where in a Dockerfile something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name, as it was given.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// The line's text, without blanks around it.
    pub text: String,
}

impl Place {
    pub(super) fn wrong(&self, problem: impl Into<String>) -> BuildError {
        BuildError::Dockerfile { place: self.clone(), problem: problem.into() }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: `{}`", self.file, self.line, self.text)
    }
}

/// Why an image couldn't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The Dockerfile, or what it asks for, is wrong.
    #[error("{place}: {problem}")]
    Dockerfile {
        /// The instruction.
        place: Place,
        /// What's wrong with it.
        problem: String,
    },
    /// A command failed.
    #[error("{place}: the command exited with code {code}")]
    Command {
        /// The instruction.
        place: Place,
        /// The command's exit code.
        code: i32,
    },
    /// A command couldn't be run.
    #[error("{place}: the command can't be run")]
    Run {
        /// The instruction.
        place: Place,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An image that an instruction names can't be had.
    #[error("{place}: the image can't be had")]
    Base {
        /// The instruction.
        place: Place,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `--platform` is malformed.
    #[error("{problem}")]
    Platform {
        /// What's wrong with it.
        problem: String,
    },
    /// An instruction's image can't be had or made.
    #[error("{place}: the image store can't do it")]
    Image {
        /// The instruction.
        place: Place,
        /// Why not.
        source: Box<ImageError>,
    },
    /// A file of the context can't be read.
    #[error("cannot read {}", path.display())]
    Context {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There's no such stage.
    #[error("the Dockerfile has no stage named {name}")]
    NoSuchStage {
        /// The name that was asked for.
        name: String,
    },
}
