//! One VM of the registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::config::VmSpec;

use super::files::{is_locked, is_served, remove_dead_socket, system};
use super::process::LiveProcess;
use super::record::unix_ms;
use super::{ProcessIdentity, RegistryError, VmRecord};

/// A VM and its directory.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) dir: PathBuf,
    pub(crate) record: VmRecord,
}

impl Entry {
    /// Takes hold of its VMM; none if that has ended, or was never started.
    pub(crate) fn process(&self) -> Option<LiveProcess> {
        self.record.process.as_ref()?.open()
    }

    /// Whether its VMM lives, or is just being started.
    pub(crate) fn is_alive(&self) -> bool {
        self.process().is_some() || self.is_starting()
    }

    /// Whether somebody is about to start its VMM.
    pub(crate) fn is_starting(&self) -> bool {
        self.record.process.is_none() && is_locked(&self.dir.join("lock"))
    }

    /// Whether whoever was to start its VMM ended before that.
    pub(super) fn is_abandoned(&self) -> bool {
        self.record.process.is_none()
            && !is_locked(&self.dir.join("lock"))
            && !is_served(&self.record.api_socket)
    }

    /// Notes what it's made of, before its VMM is started.
    ///
    /// # Errors
    /// The record can't be written.
    pub(crate) fn set_config(
        &mut self,
        config: VmSpec,
        console_socket: Option<&Path>,
    ) -> Result<(), RegistryError> {
        self.update(|record| {
            record.config = config;
            record.console_socket = console_socket.map(Path::to_owned);
        })
    }

    /// Notes its VMM's process.
    ///
    /// # Errors
    /// The process isn't there, or the record can't be written.
    pub(crate) fn set_process(&mut self, pid: u32) -> Result<(), RegistryError> {
        let process =
            ProcessIdentity::of(pid).map_err(system("identify the vmm process of", &self.dir))?;
        self.update(|record| record.process = Some(process))
    }

    /// Notes that `vmctl` is about to kill it.
    ///
    /// # Errors
    /// The record can't be written.
    pub(crate) fn set_killed(&mut self) -> Result<(), RegistryError> {
        self.update(|record| record.killed_unix_ms = Some(unix_ms()))
    }

    /// Whether another `vmctl` has killed it, and perhaps removed it, since the record was read.
    pub(crate) fn was_killed(&self) -> bool {
        match VmRecord::load(&self.dir) {
            Ok(record) => record.killed_unix_ms.is_some(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    /// Changes the record as it's on file now: others may have changed it since it was read here.
    pub(crate) fn update(
        &mut self,
        change: impl FnOnce(&mut VmRecord),
    ) -> Result<(), RegistryError> {
        let failed = |source| system("write", &self.dir)(source);
        let mut record = VmRecord::load(&self.dir).map_err(failed)?;
        change(&mut record);
        record.store(&self.dir).map_err(failed)?;
        self.record = record;
        Ok(())
    }

    /// How long ago it was entered.
    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(unix_ms().saturating_sub(self.record.created_unix_ms))
    }

    /// Removes the sockets that its VMM left, if that has ended.
    pub(crate) fn remove_sockets(&self) {
        if self.is_alive() {
            return;
        }
        for socket in self.record.sockets() {
            if remove_dead_socket(socket) {
                log::info!("removed {}, which {} left", socket.display(), self.record.name);
            }
        }
    }

    /// Forgets it, but for what it [owns](super::owned): its directory and the sockets that it left
    /// elsewhere.
    ///
    /// # Errors
    /// Its VMM lives, or a file can't be removed.
    pub(super) fn remove(&self) -> Result<(), RegistryError> {
        if self.is_alive() {
            return Err(RegistryError::Alive { name: self.record.name.clone() });
        }
        self.remove_sockets();
        self.remove_dir()
    }

    /// Removes the directory, whether or not somebody holds its lock: for whoever holds it.
    pub(super) fn remove_dir(&self) -> Result<(), RegistryError> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(system("remove", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }
}
