//! Volumes, and the removal of what isn't used.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::Engine;
use super::filters::{has_labels, parse_time};
use crate::error::{RuntimeError, file};
use crate::files;
use crate::options::{Pruned, Volume};
use crate::record::State;
use crate::supervisor;
use crate::usage::disk_bytes;
use crate::volumes::Volumes;

impl Engine {
    /// Removes all containers that don't run.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn prune(&self, filters: &BTreeMap<String, Vec<String>>) -> Result<Pruned, RuntimeError> {
        let wanted = PruneFilters::of(filters)?;
        let mut pruned = Pruned::default();
        for state in self.store.states()? {
            let Some(state) = self.mend(state)? else { continue };
            let id = state.summary.id.as_str();
            if self.has_process(&state) || !wanted.fits(&state) {
                continue;
            }
            let bytes = disk_bytes(&self.store.paths(id).data);
            let Some(life) = self.store.take_life(id)? else { continue };
            match self.discard(id, &life, false) {
                Ok(()) => {
                    pruned.removed.push(id.to_owned());
                    pruned.freed_bytes += bytes;
                }
                // Somebody else was faster.
                Err(RuntimeError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    /// The volumes, by name.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn volumes(&self) -> Result<Vec<Volume>, RuntimeError> {
        self.volume_store().list()
    }

    /// A volume.
    ///
    /// # Errors
    /// There's none of the name.
    pub fn volume(&self, name: &str) -> Result<Volume, RuntimeError> {
        self.volume_store().get(name)
    }

    /// Makes a volume, or returns the one that has the name.
    ///
    /// # Errors
    /// The name is malformed, or it can't be made.
    pub fn create_volume(
        &self,
        name: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Volume, RuntimeError> {
        let registry = self.store.registry()?;
        let (volume, is_new) = self.volume_store().provide(name, labels)?;
        drop(registry);
        if is_new {
            self.emit("volume", "create", &volume.name, [("driver", "local".to_owned())]);
        }
        Ok(volume)
    }

    /// Removes a volume; with `force` it's no failure if there's none.
    ///
    /// # Errors
    /// A container uses it.
    pub fn remove_volume(&self, name: &str, force: bool) -> Result<(), RuntimeError> {
        let registry = self.store.registry()?;
        if let Some(user) = self.store.states()?.iter().find(|state| uses(state, name)) {
            return Err(RuntimeError::conflict(format!(
                "volume {name} is in use by container {}",
                user.summary.name
            )));
        }
        match self.volume_store().remove(name) {
            Err(RuntimeError::NotFound { .. }) if force => return Ok(()),
            outcome => drop(outcome?),
        }
        drop(registry);
        self.emit("volume", "destroy", name, [("driver", "local".to_owned())]);
        Ok(())
    }

    /// Removes the volumes that no container uses: the anonymous ones, with `all` every one.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn prune_volumes(&self, all: bool) -> Result<Pruned, RuntimeError> {
        let registry = self.store.registry()?;
        let (states, store) = (self.store.states()?, self.volume_store());
        store.sweep()?;
        let mut pruned = Pruned::default();
        for volume in store.list()? {
            let is_used = states.iter().any(|state| uses(state, &volume.name));
            if is_used || !(all || volume.anonymous) {
                continue;
            }
            pruned.freed_bytes += store.remove(&volume.name)?;
            pruned.removed.push(volume.name);
        }
        drop(registry);
        for name in &pruned.removed {
            self.emit("volume", "destroy", name, [("driver", "local".to_owned())]);
        }
        Ok(pruned)
    }

    /// Removes the warm templates.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn prune_templates(&self) -> Result<Pruned, RuntimeError> {
        let mut pruned = Pruned::default();
        for dir in self.template_dirs()? {
            // Memory of running VMs that came out of it stays: its file only loses its name.
            pruned.freed_bytes += disk_bytes(&dir);
            files::remove_dir_all(&dir).map_err(file("remove", &dir))?;
            pruned.removed.push(dir.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        Ok(pruned)
    }

    /// Removes the warm templates of images that are gone, as making another one does.
    ///
    /// # Errors
    /// The lock can't be taken.
    pub fn sweep_templates(&self) -> Result<(), RuntimeError> {
        supervisor::sweep_templates(self)
    }

    pub(crate) fn volume_store(&self) -> Volumes {
        Volumes::new(self.paths.volumes())
    }

    pub(super) fn template_dirs(&self) -> Result<Vec<PathBuf>, RuntimeError> {
        let dir = self.paths.templates();
        let children = match fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            children => children.map_err(file("read", &dir))?,
        };
        let dirs = children.flatten().map(|child| child.path()).filter(|path| path.is_dir());
        Ok(dirs.collect())
    }
}

fn uses(state: &State, volume: &str) -> bool {
    state.summary.mounts.iter().any(|name| name == volume)
}

/// What containers can be chosen by that are to be removed.
struct PruneFilters {
    until: Option<std::time::SystemTime>,
    labels: Vec<String>,
    not_labels: Vec<String>,
}

impl PruneFilters {
    fn of(filters: &BTreeMap<String, Vec<String>>) -> Result<Self, RuntimeError> {
        let known = ["until", "label", "label!"];
        if let Some(name) = filters.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(RuntimeError::invalid(format!("invalid filter {name:?}")));
        }
        let values = |name: &str| filters.get(name).cloned().unwrap_or_default();
        let until =
            values("until").iter().map(|text| parse_time(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            until: until.into_iter().min(),
            labels: values("label"),
            not_labels: values("label!"),
        })
    }

    fn fits(&self, state: &State) -> bool {
        let summary = &state.summary;
        let has = |label: &String| has_labels(&summary.labels, std::slice::from_ref(label));
        self.until.is_none_or(|until| summary.created < until)
            && has_labels(&summary.labels, &self.labels)
            && !self.not_labels.iter().any(has)
    }
}
