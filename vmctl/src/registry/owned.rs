//! Files that were made for VMs, such as the disks of clones: each goes with the last VM on whose
//! record it is. A user's own images are on nobody's.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::system;
use super::record::{VmRecord, images};
use super::{Entry, Registry, RegistryError};

impl Registry {
    /// Forgets a VM that has ended: its directory, the sockets that it left elsewhere, and what was
    /// made for it and no other.
    ///
    /// # Errors
    /// Its VMM lives, or a file can't be removed.
    pub(crate) fn remove(&self, entry: &Entry) -> Result<(), RegistryError> {
        let _lock = self.lock()?;
        if entry.is_alive() {
            return Err(RegistryError::Alive { name: entry.record.name.clone() });
        }
        // Somebody may have taken over some of it since the record was read.
        let mut owned = VmRecord::load(&entry.dir).map(|record| record.owned).unwrap_or_default();
        let (others, _) = self.scan()?;
        let is_shared = |path: &Path| {
            let has = |other: &Entry| other.record.owned.iter().any(|it| it == path);
            others.iter().any(|other| other.record.id != entry.record.id && has(other))
        };
        // Directories come after what's in them: a clone's clones are in one within its own.
        owned.sort_by_key(|path| Reverse(path.components().count()));
        for path in owned.iter().filter(|path| !is_shared(path)) {
            remove_owned(path).map_err(system("remove", path))?;
        }
        entry.remove()
    }

    /// Whether a VM's record has the file.
    ///
    /// # Errors
    /// The registry can't be read.
    pub(crate) fn is_owned(&self, path: &Path) -> Result<bool, RegistryError> {
        let (entries, _) = self.scan()?;
        Ok(entries.iter().any(|entry| entry.record.owned.iter().any(|it| it == path)))
    }

    /// Has these images stay when the VMs go that they were made for: something else builds upon
    /// them.
    ///
    /// # Errors
    /// The registry can't be read or written.
    pub(crate) fn disown(&self, images: &[PathBuf]) -> Result<(), RegistryError> {
        let _lock = self.lock()?;
        let (entries, _) = self.scan()?;
        for mut entry in entries {
            let is_needed = |path: &PathBuf| images.iter().any(|image| image.starts_with(path));
            if entry.record.owned.iter().any(is_needed) {
                entry.update(|record| record.owned.retain(|path| !is_needed(path)))?;
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Notes what it's made of once it has started, and which of `candidates` it needs: images, and
    /// directories that they are in.
    ///
    /// # Errors
    /// The record can't be written.
    pub(crate) fn set_owned(
        &mut self,
        config: api::config::VmSpec,
        candidates: &[PathBuf],
    ) -> Result<(), RegistryError> {
        let needed = images(&config);
        let is_needed = |path: &&PathBuf| needed.iter().any(|image| image.starts_with(path));
        let owned = candidates.iter().filter(is_needed).cloned().collect();
        self.update(|record| (record.config, record.owned) = (config, owned))
    }
}

/// Removes a file, or a directory unless something is left in it.
fn remove_owned(path: &Path) -> io::Result<()> {
    let is_dir = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !is_dir {
        return fs::remove_file(path);
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            log::warn!("{} stays: there are other files in it", path.display());
            Ok(())
        }
        outcome => outcome,
    }
}
