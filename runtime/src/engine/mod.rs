//! What can be asked of containers: one method per command.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;

use image::{ImageError, Images};
use network::{NetworkError, Networks};

mod run;

use crate::config::ContainerConfig;
use crate::logs::LogReader;
use crate::options::{
    Change, CommitOptions, Created, DiskUsage, EngineEvent, EventOptions, Info, ListOptions,
    Listed, LogOptions, Processes, Pruned, Stats, Volume,
};
use crate::paths::Paths;
use crate::record::{ContainerRecord, PublishedPort, State};
use crate::store::Store;
use crate::{Object, RuntimeError};

/// Where an [`Engine`] finds what it needs; what's absent is looked for at the usual places.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// The data root: `VMCTL_DATA_DIR`, `/var/lib/vmctl`, `$XDG_DATA_HOME/vmctl`.
    pub data_root: Option<PathBuf>,
    /// The run-time root: `VMCTL_RUNTIME_DIR`, `/run/vmctl`, `$XDG_RUNTIME_DIR/vmctl`.
    pub runtime_root: Option<PathBuf>,
    /// The program and the arguments that [`supervise`](crate::supervise) is called by, to which
    /// the container's identifier is added; this program and `supervise` unless said.
    pub supervisor: Option<Vec<OsString>>,
}

/// The containers of this user on this host. It keeps nothing in memory: several processes may have
/// one at once.
///
/// A `reference` is a container's name, its identifier, or the beginning of that.
#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,
    paths: Paths,
    store: Store,
}

/// Events; reading one blocks until it happens.
#[derive(Debug)]
pub struct EventReader {}

impl Iterator for EventReader {
    type Item = Result<EngineEvent, RuntimeError>;

    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}

impl Engine {
    /// Opens the engine, and makes its directories if they aren't there.
    ///
    /// # Errors
    /// A directory can't be made, or isn't this user's.
    pub fn open(options: EngineOptions) -> Result<Self, RuntimeError> {
        let paths = Paths::open(&options)?;
        let store = Store::new(paths.clone());
        Ok(Self { options, paths, store })
    }

    /// The images, opened when they're needed: most commands don't need them.
    pub(crate) fn images(&self) -> Result<Images, RuntimeError> {
        Images::open(self.paths.data()).map_err(image_error)
    }

    /// The networks, opened when they're needed.
    pub(crate) fn networks(&self) -> Result<Networks, RuntimeError> {
        Networks::open(self.paths.data()).map_err(network_error)
    }

    /// Creates a container, without starting it. The image must be there.
    ///
    /// # Errors
    /// The configuration makes no sense, the name is taken, the image isn't there, there's no
    /// command, the source of a bind isn't there.
    pub fn create(&self, config: &ContainerConfig) -> Result<Created, RuntimeError> {
        let _ = (config, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Ends a container in order: its stop signal, then `SIGKILL` when `timeout_s` (its own, then
    /// 10 s, unless said; negative for never) is over. One that doesn't run is left alone.
    ///
    /// # Errors
    /// The signal is unknown, or the supervisor can't be reached.
    pub fn stop(
        &self,
        reference: &str,
        signal: Option<&str>,
        timeout_s: Option<i32>,
    ) -> Result<(), RuntimeError> {
        let _ = (reference, signal, timeout_s, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Stops a container, if it runs, and starts it.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub fn restart(
        &self,
        reference: &str,
        signal: Option<&str>,
        timeout_s: Option<i32>,
    ) -> Result<(), RuntimeError> {
        let _ = (reference, signal, timeout_s, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Sends a signal, `SIGKILL` unless said, to a container's process.
    ///
    /// # Errors
    /// It doesn't run, or the signal is unknown.
    pub fn kill(&self, reference: &str, signal: Option<&str>) -> Result<(), RuntimeError> {
        let _ = (reference, signal, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Removes a container; with `force` one that runs too, with `volumes` its anonymous volumes.
    ///
    /// # Errors
    /// It runs, or a file can't be removed.
    pub fn remove(&self, reference: &str, force: bool, volumes: bool) -> Result<(), RuntimeError> {
        let _ = (reference, force, volumes, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Lists containers, the newest first.
    ///
    /// # Errors
    /// A filter is unknown or malformed, or the directory can't be read.
    pub fn list(&self, options: &ListOptions) -> Result<Vec<Listed>, RuntimeError> {
        let _ = (options, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Finds a container.
    ///
    /// # Errors
    /// There's none, or several.
    pub fn find(&self, reference: &str) -> Result<(ContainerRecord, State), RuntimeError> {
        let _ = (reference, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Reads a container's log.
    ///
    /// # Errors
    /// It keeps none, or it can't be read.
    pub fn logs(&self, reference: &str, options: &LogOptions) -> Result<LogReader, RuntimeError> {
        let _ = (reference, options, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Waits until a container doesn't run, and returns its exit code.
    ///
    /// # Errors
    /// There's no such container.
    pub fn wait(&self, reference: &str) -> Result<i32, RuntimeError> {
        let _ = (reference, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// The processes of a container: the columns of `ps -ef`.
    ///
    /// # Errors
    /// It doesn't run.
    pub fn top(&self, reference: &str) -> Result<Processes, RuntimeError> {
        let _ = (reference, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// What a container uses at the moment; zeros if it doesn't run.
    ///
    /// # Errors
    /// The agent can't be reached.
    pub fn stats(&self, reference: &str) -> Result<Stats, RuntimeError> {
        let _ = (reference, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Unpacks a tar archive into the directory `path` of a running container.
    ///
    /// # Errors
    /// It doesn't run, there's no such directory, or the archive is damaged.
    pub fn copy_in(
        &self,
        reference: &str,
        path: &str,
        archive: &mut dyn Read,
    ) -> Result<(), RuntimeError> {
        let _ = (reference, path, archive, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Packs a file or directory of a running container into a tar archive, under its own name.
    ///
    /// # Errors
    /// It doesn't run, or there's no such file.
    pub fn copy_out(
        &self,
        reference: &str,
        path: &str,
        archive: &mut dyn Write,
    ) -> Result<(), RuntimeError> {
        let _ = (reference, path, archive, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// The published ports of a container, by the container's.
    ///
    /// # Errors
    /// There's no such container.
    pub fn ports(&self, reference: &str) -> Result<Vec<PublishedPort>, RuntimeError> {
        let _ = (reference, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// A container in the shape that `docker inspect` shows it in.
    ///
    /// # Errors
    /// There's no such container.
    pub fn inspect(&self, reference: &str) -> Result<serde_json::Value, RuntimeError> {
        let _ = (reference, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// It's taken or malformed.
    pub fn rename(&self, reference: &str, name: &str) -> Result<(), RuntimeError> {
        let _ = (reference, name, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Makes a container's VM stand still.
    ///
    /// # Errors
    /// It doesn't run, or stands still already.
    pub fn pause(&self, reference: &str) -> Result<(), RuntimeError> {
        let _ = (reference, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Lets a container's VM go on.
    ///
    /// # Errors
    /// It isn't paused.
    pub fn unpause(&self, reference: &str) -> Result<(), RuntimeError> {
        let _ = (reference, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// What differs in a running container from its image.
    ///
    /// # Errors
    /// It doesn't run.
    pub fn diff(&self, reference: &str) -> Result<Vec<Change>, RuntimeError> {
        let _ = (reference, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Makes an image of a running container, and returns its identifier.
    ///
    /// # Errors
    /// It doesn't run, a change makes no sense, or the image can't be stored.
    pub fn commit(&self, reference: &str, options: &CommitOptions) -> Result<String, RuntimeError> {
        let _ = (reference, options, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Removes all containers that don't run.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn prune(&self, filters: &BTreeMap<String, Vec<String>>) -> Result<Pruned, RuntimeError> {
        let _ = (filters, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// The volumes, by name.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn volumes(&self) -> Result<Vec<Volume>, RuntimeError> {
        let _ = &self.options;
        Err(RuntimeError::invalid("not built yet"))
    }

    /// A volume.
    ///
    /// # Errors
    /// There's none of the name.
    pub fn volume(&self, name: &str) -> Result<Volume, RuntimeError> {
        let _ = (name, &self.options);
        Err(RuntimeError::invalid("not built yet"))
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
        let _ = (name, labels, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Removes a volume; with `force` it's no failure if there's none.
    ///
    /// # Errors
    /// A container uses it.
    pub fn remove_volume(&self, name: &str, force: bool) -> Result<(), RuntimeError> {
        let _ = (name, force, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Removes the volumes that no container uses: the anonymous ones, with `all` every one.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn prune_volumes(&self, all: bool) -> Result<Pruned, RuntimeError> {
        let _ = (all, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }

    /// What's used on disk.
    ///
    /// # Errors
    /// A directory can't be read.
    pub fn disk_usage(&self) -> Result<DiskUsage, RuntimeError> {
        let _ = &self.options;
        Err(RuntimeError::invalid("not built yet"))
    }

    /// Removes the warm templates.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn prune_templates(&self) -> Result<Pruned, RuntimeError> {
        let _ = &self.options;
        Err(RuntimeError::invalid("not built yet"))
    }

    /// What's known of the engine.
    ///
    /// # Errors
    /// A directory can't be read.
    pub fn info(&self) -> Result<Info, RuntimeError> {
        let _ = &self.options;
        Err(RuntimeError::invalid("not built yet"))
    }

    /// What happened, and what happens from now on.
    ///
    /// # Errors
    /// The file can't be read, or a filter is unknown.
    pub fn events(&self, options: &EventOptions) -> Result<EventReader, RuntimeError> {
        let _ = (options, &self.options);
        Err(RuntimeError::invalid("not built yet"))
    }
}

/// Says that an image can't be had; that there's none is said as of everything else.
pub(crate) fn image_error(error: ImageError) -> RuntimeError {
    match error {
        ImageError::NotFound { reference } => {
            RuntimeError::NotFound { what: Object::Image, reference }
        }
        error => RuntimeError::Image(Box::new(error)),
    }
}

/// Says that a network can't be had; that there's none is said as of everything else.
pub(crate) fn network_error(error: NetworkError) -> RuntimeError {
    match error {
        NetworkError::Absent(reference) => {
            RuntimeError::NotFound { what: Object::Network, reference }
        }
        error => RuntimeError::Network(Box::new(error)),
    }
}
