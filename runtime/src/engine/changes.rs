//! What a container's process has changed, kept beyond its end.

use std::fs::File;

use super::Engine;
use crate::RuntimeError;
use crate::error::file;

impl Engine {
    /// Opens what the process of a container with
    /// [`keep_changes`](crate::ContainerConfig::keep_changes) has changed: a layer of an image, as an
    /// uncompressed archive. It can be read even when the container is removed.
    ///
    /// # Errors
    /// There's no such container, its process runs or failed, or its changes couldn't be kept.
    pub fn kept_changes(&self, reference: &str) -> Result<File, RuntimeError> {
        let id = self.store.resolve(reference)?;
        let path = self.store.paths(&id).changes();
        File::open(&path).map_err(file("open", &path))
    }
}
