//! What can be asked of containers: one method per command.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use image::{ImageError, Images};
use network::{NetworkError, Networks};

mod changes;
mod control;
mod create;
mod defaults;
mod files;
mod filters;
mod info;
mod list;
mod observe;
mod prune;
mod run;
#[cfg(test)]
mod tests;

pub use self::files::Files;
use crate::events::{self, EventLog};
use crate::paths::Paths;
use crate::record::Summary;
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

    /// The data root.
    pub fn data_root(&self) -> &Path {
        self.paths.data()
    }

    /// The images, opened when they're needed: most commands don't need them.
    ///
    /// # Errors
    /// The store can't be opened.
    pub fn images(&self) -> Result<Images, RuntimeError> {
        Images::open(self.paths.data()).map_err(image_error)
    }

    /// The networks, opened when they're needed.
    ///
    /// # Errors
    /// Their directory can't be made.
    pub fn networks(&self) -> Result<Networks, RuntimeError> {
        Networks::open(self.paths.data()).map_err(network_error)
    }

    fn event_log(&self) -> EventLog {
        EventLog::new(self.paths.events())
    }

    /// Notes an event of a container: its labels, image and name with it. That it can't be written
    /// is no failure of what was done.
    pub(crate) fn emit_container(
        &self,
        action: &str,
        summary: &Summary,
        further: impl IntoIterator<Item = (&'static str, String)>,
    ) {
        let own = [("image", summary.image.clone()), ("name", summary.name.clone())];
        let own = own.into_iter().chain(further).map(|(name, value)| (name.to_owned(), value));
        let mut attributes = summary.labels.clone();
        attributes.extend(own);
        self.record_event(&events::event("container", action, &summary.id, attributes));
    }

    /// Notes an event: of a volume here, of a network or an image by whoever changed it. That it
    /// can't be written is no failure of what was done.
    pub fn emit(
        &self,
        kind: &str,
        action: &str,
        id: &str,
        attributes: impl IntoIterator<Item = (&'static str, String)>,
    ) {
        let attributes: BTreeMap<_, _> =
            attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.record_event(&events::event(kind, action, id, attributes));
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
