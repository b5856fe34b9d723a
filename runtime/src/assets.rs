//! The files that every container needs: the guest's kernel, the agent, an empty file system.

use std::env;
use std::path::{Path, PathBuf};

use crate::RuntimeError;
use crate::paths::Paths;

/// What's looked for, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asset {
    what: &'static str,
    variable: &'static str,
    name: &'static str,
}

/// The guest's kernel.
pub(crate) const KERNEL: Asset =
    Asset { what: "the guest's kernel", variable: "VMCTL_KERNEL", name: "vmlinux" };

/// The agent's initial RAM disk.
pub(crate) const AGENT: Asset =
    Asset { what: "the agent", variable: "VMCTL_AGENT", name: "agent.cpio" };

impl Asset {
    /// Finds it: where the variable says, else beside this program, in `../lib/vmctl` from there,
    /// in `/usr/lib/vmctl`, or in the data root.
    pub(crate) fn find(self, paths: &Paths) -> Result<PathBuf, RuntimeError> {
        if let Some(path) = env::var_os(self.variable).filter(|path| !path.is_empty()) {
            let path = PathBuf::from(path);
            let looked = format!("{}={} is no file", self.variable, path.display());
            return if path.is_file() { Ok(path) } else { Err(self.missing(looked)) };
        }
        let program = env::current_exe().unwrap_or_default();
        let beside = program.parent().unwrap_or_else(|| Path::new("/"));
        let dirs = [
            beside.to_owned(),
            beside.join("../lib/vmctl"),
            PathBuf::from("/usr/lib/vmctl"),
            paths.assets(),
        ];
        let found = dirs.iter().map(|dir| dir.join(self.name)).find(|path| path.is_file());
        found.ok_or_else(|| {
            let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            self.missing(format!("{} is in none of {}", self.name, dirs.join(", ")))
        })
    }

    fn missing(self, looked: String) -> RuntimeError {
        RuntimeError::AssetMissing { what: self.what, looked }
    }
}
