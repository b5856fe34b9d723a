//! What VMs leave that didn't end in order.

use std::fs;

use super::files::{is_locked, is_served};
use super::{Broken, Entry, Registry, RegistryError, Reservation};

impl Registry {
    /// Removes the sockets of VMs that have ended, the records of those that a `vmctl` was to stay
    /// with or never came to start, and directories that nothing was written into.
    ///
    /// # Errors
    /// The registry can't be read. A file that can't be removed is only logged.
    pub(crate) fn sweep(&self) -> Result<(), RegistryError> {
        let _lock = self.lock()?;
        let (entries, broken) = self.scan()?;
        for entry in entries {
            if entry.is_abandoned() {
                log_failure(entry.remove());
            } else {
                entry.remove_sockets();
            }
        }
        for broken in broken {
            let is_empty = !broken.dir.join("vm.json").exists();
            if is_empty {
                log_failure(broken.remove());
            }
        }
        Ok(())
    }
}

impl Broken {
    /// Whether a VMM may still use the directory.
    pub(crate) fn is_used(&self) -> bool {
        is_locked(&self.dir.join("lock")) || is_served(&self.dir.join("api.sock"))
    }

    /// Removes the directory, unless somebody uses it.
    ///
    /// # Errors
    /// A file can't be removed.
    pub(crate) fn remove(&self) -> Result<(), RegistryError> {
        if self.is_used() {
            log::warn!("{} is in use and stays", self.dir.display());
            return Ok(());
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(super::files::system("remove", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Reservation {
    /// Gives the place back: the VM wasn't started, or `vmctl` stayed with it to its end.
    pub(crate) fn withdraw(self) {
        forget(&self.entry);
    }

    /// Lets others look after the VM, now that its process is on record.
    pub(crate) fn publish(self) -> Entry {
        self.entry
    }
}

/// Removes what's left of a VM whose process this one has seen end.
pub(crate) fn forget(entry: &Entry) {
    entry.remove_sockets();
    log_failure(entry.remove_dir());
}

fn log_failure(result: Result<(), RegistryError>) {
    if let Err(error) = result {
        log::warn!("{error}");
    }
}
