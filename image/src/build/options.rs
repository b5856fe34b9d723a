//! What a build is told, and what it asks of its caller.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use crate::Reference;

/// What a build is of.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// What errors call the Dockerfile.
    pub name: String,
    /// The Dockerfile's text.
    pub text: String,
    /// The directory that `COPY` and `ADD` take files from.
    pub context: PathBuf,
    /// A file that says what the context hides, in place of its own `.dockerignore`.
    pub ignore_file: Option<PathBuf>,
    /// `--build-arg`, by name.
    pub build_args: BTreeMap<String, String>,
    /// The stage to build, by name or number; the last one unless said.
    pub target: Option<String>,
    /// Whether every step is done anew.
    pub no_cache: bool,
    /// `OS/ARCHITECTURE[/VARIANT]` of images that `FROM` names; the host's unless said.
    pub platform: Option<String>,
    /// Labels on top of the Dockerfile's.
    pub labels: BTreeMap<String, String>,
    /// Names that the image gets.
    pub tags: Vec<Reference>,
}

/// Why the caller couldn't do its part.
pub type HostError = Box<dyn std::error::Error + Send + Sync>;

/// What a build needs that the image store can't do.
pub trait BuildHost {
    /// Sees that the image of a `FROM` or a `COPY --from` is in the store.
    ///
    /// # Errors
    /// It can't be had.
    fn provide(&mut self, reference: &str, platform: Option<&str>) -> Result<(), HostError>;

    /// Runs a command and returns how it ended; its output is the caller's to show.
    ///
    /// # Errors
    /// It can't be started, or what it changed can't be had.
    fn run(&mut self, request: &RunRequest) -> Result<RunOutcome, HostError>;

    /// Hears a line about the build's progress, as Docker's builder writes them.
    fn say(&mut self, line: &str);

    /// Hears of something that may not be what was meant.
    fn warn(&mut self, line: &str);
}

/// A command to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunRequest {
    /// The image whose files it sees.
    pub image_id: String,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// `NAME=VALUE`: all of it, the image's included.
    pub env: Vec<String>,
    /// `USER[:GROUP]`, names of the image's or numbers; empty for root.
    pub user: String,
    /// The working directory, absolute.
    pub cwd: String,
    /// A file that must be there while it runs.
    pub script: Option<Script>,
}

/// A here-document that is a program by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Where it must be: an absolute path, which no layer keeps.
    pub path: String,
    /// Its text.
    pub content: String,
}

/// How a command ended.
#[derive(Debug)]
pub struct RunOutcome {
    /// Its exit code, or 128 and the signal's number.
    pub code: i32,
    /// What it changed, as a layer: an uncompressed archive at its start. Not needed when it failed.
    pub layer: Option<File>,
}
