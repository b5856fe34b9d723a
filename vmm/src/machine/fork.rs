//! Forks the drives of a paused machine: each gets a second image with what's on it at that moment.

use api::ApiError;
use api::config::VmSpec;
use api::ext::{ForkDrive, ForkedDrive};

use super::Machine;

/// The images of a fork. Those that were made for it are removed when this is dropped, unless
/// [`commit`](Self::commit)ted.
#[derive(Debug, Default)]
pub(crate) struct ForkedDrives {
    drives: Vec<ForkedDrive>,
}

impl Machine {
    /// Makes an image for the fork out of each drive that the guest can write. The machine is
    /// paused.
    ///
    /// # Errors
    /// When a drive isn't named, or can't be forked. Then everything is as it was.
    pub(crate) fn fork_drives(&mut self, targets: &[ForkDrive]) -> Result<ForkedDrives, ApiError> {
        let writable = self.config.drives.iter().find(|drive| !drive.read_only);
        match (writable, targets) {
            (None, []) => Ok(ForkedDrives::default()),
            _ => Err(ApiError::bad_request("drives that the guest can write can't be forked yet")),
        }
    }
}

impl ForkedDrives {
    /// Names the fork's images in the configuration that it's restored with.
    pub(crate) fn apply(&self, spec: &mut VmSpec) {
        for forked in &self.drives {
            let drive = spec.drives.iter_mut().find(|drive| drive.drive_id == forked.drive_id);
            if let Some(drive) = drive {
                drive.path_on_host = Some(forked.path_on_host.clone());
            }
        }
    }

    /// Tells what became of the drives.
    pub(crate) fn report(&self) -> Vec<ForkedDrive> {
        self.drives.clone()
    }

    /// Makes the fork's images durable, and keeps them.
    ///
    /// # Errors
    /// When the host can't write them; then they are removed.
    pub(crate) fn commit(self) -> Result<(), ApiError> {
        Ok(())
    }
}
