//! What goes wrong with exercises, and what can be done about it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a command about exercises ended without success.
#[derive(Debug, Error)]
pub(crate) enum LabError {
    /// There are no exercises.
    #[error("no directory of exercises: {looked}")]
    NoLabs {
        /// Where there's none.
        looked: String,
    },
    /// What's given can't be the name of an exercise.
    #[error("{0:?} can't be the name of an exercise")]
    BadName(String),
    /// No exercise has the name.
    #[error("no such exercise: {0}")]
    Unknown(String),
    /// An exercise can't be used as it is.
    #[error("exercise {name}: {problem}")]
    Malformed {
        /// The exercise.
        name: String,
        /// What's wrong with it.
        problem: String,
    },
    /// Something that an exercise needs isn't there.
    #[error("exercise {name} needs what isn't there:{}", list(missing))]
    Missing {
        /// The exercise.
        name: String,
        /// What's missing, and how to get it.
        missing: Vec<(String, String)>,
    },
    /// Nothing can be checked yet.
    #[error("exercise {0} isn't started")]
    NotStarted(String),
    /// Another `vmctl lab` is at it.
    #[error("another vmctl lab command is running")]
    Busy,
    /// A script did not succeed.
    #[error("exercise {name}: {script} {problem}")]
    Script {
        /// The exercise.
        name: String,
        /// The script's file name.
        script: &'static str,
        /// How it ended.
        problem: String,
    },
    /// A signal asked to end.
    #[error("exercise {name}: interrupted by signal {signal}")]
    Interrupted {
        /// The exercise.
        name: String,
        /// The signal's number.
        signal: i32,
    },
    /// Not everything that an exercise left could be removed.
    #[error("exercise {name} left what can't be removed: {}", left.join("; "))]
    Left {
        /// The exercise.
        name: String,
        /// What's left, and why.
        left: Vec<String>,
    },
    /// A file of an exercise, or of its state, can't be read or written.
    #[error("can't {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn list(missing: &[(String, String)]) -> String {
    missing.iter().map(|(what, how)| format!("\n  {what}: {how}")).collect()
}

impl LabError {
    /// For `map_err`: what was tried with a file.
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    /// The exit code of this.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::BadName(_) => api::exit::USAGE,
            Self::Interrupted { signal, .. } => {
                u8::try_from(128 + signal).unwrap_or(api::exit::FAILURE)
            }
            _ => api::exit::FAILURE,
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoLabs { .. } => "--labs DIR or VMCTL_LABS names one".to_owned(),
            Self::BadName(_) => {
                "a name has letters, digits, '-' and '_'; vmctl lab list shows all".to_owned()
            }
            Self::Unknown(_) => "vmctl lab list shows all".to_owned(),
            Self::NotStarted(name) => format!("vmctl lab start {name}"),
            Self::Busy => "wait until it's over; no two may change the same things".to_owned(),
            Self::Script { name, .. } | Self::Left { name, .. } => {
                format!("vmctl lab reset {name} removes what there is of it")
            }
            Self::Malformed { .. } => "docs/labs.md says what an exercise consists of".to_owned(),
            _ => return None,
        })
    }
}
