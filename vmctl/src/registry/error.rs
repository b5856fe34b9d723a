//! What can go wrong with the registry.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a VM can't be entered, found or removed.
#[derive(Debug, Error)]
pub(crate) enum RegistryError {
    /// The root belongs to somebody else, or others may write it.
    #[error("{}: the directory isn't this user's alone", root.display())]
    Unsafe {
        /// The root.
        root: PathBuf,
    },
    /// Paths of sockets below the root would be too long.
    #[error("{}: the path is too long for a directory of sockets", root.display())]
    RootTooLong {
        /// The root.
        root: PathBuf,
    },
    /// A name has characters that a name may not have.
    #[error(
        "{name:?} can't be a VM's name: letters, digits, '_', '.' and '-', at most 64, the first \
         a letter or a digit"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// Another VM has the name.
    #[error("there's a VM called {name} already ({id})")]
    NameTaken {
        /// The name.
        name: String,
        /// The other VM.
        id: String,
        /// Whether its process lives.
        runs: bool,
    },
    /// No VM has the name or the identifier.
    #[error("there's no VM called {reference}")]
    NotFound {
        /// What was looked for.
        reference: String,
        /// The names of those whose processes live.
        running: Vec<String>,
        /// The names of all others.
        ended: Vec<String>,
    },
    /// Several identifiers begin so.
    #[error("{reference} is the beginning of {} VMs' identifiers", candidates.len())]
    Ambiguous {
        /// What was looked for.
        reference: String,
        /// Those that it may mean.
        candidates: Vec<String>,
    },
    /// A VM that runs can't be removed.
    #[error("{name} still runs")]
    Alive {
        /// Its name.
        name: String,
    },
    /// A file can't be read or written.
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

impl RegistryError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unsafe { .. } | Self::RootTooLong { .. } => {
                "VMCTL_RUNTIME_DIR names another directory for VMs' sockets".to_owned()
            }
            Self::NameTaken { name, runs: true, .. } => {
                format!("choose another name, or end that VM: vmctl vm stop {name}")
            }
            Self::NameTaken { name, runs: false, .. } => {
                format!("it has ended; vmctl vm rm {name} forgets it")
            }
            Self::NotFound { running, ended, .. } => known_vms(running, ended),
            Self::Ambiguous { candidates, .. } => format!("it may be {}", candidates.join(", ")),
            Self::Alive { name } => format!("vmctl vm stop {name}, or vmctl vm rm --force {name}"),
            Self::BadName { .. } | Self::File { .. } => return None,
        })
    }

    /// Whether the command line is wrong, rather than the host's state.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::BadName { .. })
    }
}

fn known_vms(running: &[String], ended: &[String]) -> String {
    match (running, ended) {
        ([], []) => "there are no VMs; vmctl boot --detach starts one".to_owned(),
        ([], ended) => format!("none runs; ended ones: {}", ended.join(", ")),
        (running, _) => format!("running ones: {}", running.join(", ")),
    }
}
