//! Counts what processes use of the host: CPU time by cgroups, memory by `smaps`.

mod cgroup;
mod smaps;

use std::io;
use std::path::{Path, PathBuf};

pub use cgroup::{Cgroup, CpuTime};
pub use smaps::{Sums, own_pss_kib, sums};

/// Why something can't be counted.
#[derive(Debug, thiserror::Error)]
pub enum MeterError {
    /// There's no cgroup v2, or it isn't ours to write to.
    #[error("cgroup v2 is mounted nowhere")]
    NoCgroups,
    /// A file of the kernel's can't be used.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What couldn't be done with it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the kernel's says something else than expected.
    #[error("{} has an unknown format", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// Processes haven't ended in time.
    #[error("processes are left in {}", path.display())]
    Left {
        /// Their cgroup.
        path: PathBuf,
    },
}

/// Makes an error of a file's.
fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MeterError {
    let path = path.to_owned();
    move |source| MeterError::File { what, path, source }
}
