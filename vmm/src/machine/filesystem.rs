//! Directories of the host's that the guest mounts.

use api::ApiError;
use api::config::{Field, FilesystemConfig, FilesystemSpec};
use api::event::ErrorKind;
use devices::virtio::fs::{Fs, FsConfig, FsError, ShareConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Machine;
use super::registry::{Handle, Made};
use super::state::DeviceKey;
use crate::error::VmmError;

/// How many files one file system keeps open on the host at most: enough for a guest to work on a
/// tree of that size without opening any of it twice.
const MAX_OPEN_FILES: u64 = 1 << 16;

/// Makes the file system at `index` of the configuration.
///
/// # Errors
/// [`VmmError::Device`], about the share that can't be had.
pub(super) fn make(filesystem: &FilesystemConfig, index: usize) -> Result<Made, VmmError> {
    let share = |share: &api::config::ShareConfig| ShareConfig {
        name: share.name.clone(),
        path: share.path.clone(),
        read_only: share.read_only,
    };
    let settings = FsConfig {
        tag: filesystem.tag.clone(),
        shares: filesystem.shares.iter().map(share).collect(),
        max_open_files: max_open_files(),
    };
    let device = Fs::new(&settings).map_err(|source| {
        let (key, kind) = match &source {
            FsError::Tag(_) => ("tag".to_owned(), ErrorKind::ConfigInvalid),
            FsError::Shares(_) | FsError::Name(_) => {
                ("shares".to_owned(), ErrorKind::ConfigInvalid)
            }
            FsError::NotFound { path } | FsError::Kind { path } | FsError::Open { path, .. } => {
                let place = filesystem.shares.iter().position(|share| share.path == *path);
                let place = place.unwrap_or_default();
                (format!("shares[{place}].path"), ErrorKind::ShareUnusable)
            }
            FsError::Proc(_) | FsError::Worker(_) => (String::new(), ErrorKind::Internal),
        };
        VmmError::Device {
            what: format!("file system {:?}", filesystem.id),
            field: Field::filesystem(index, &key),
            kind,
            source: Box::new(source),
        }
    })?;
    Ok(Made { device: Box::new(device), handle: Handle::Fs })
}

/// Raises the limit of open files as far as this process may, and returns a file system's part of it:
/// half. The rest is for everything else.
fn max_open_files() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(u64::MAX).min(2 * MAX_OPEN_FILES);
    let current = current.unwrap_or(u64::MAX);
    let limit = if current < wanted {
        let raised = Rlimit { current: Some(wanted), maximum };
        setrlimit(Resource::Nofile, raised).map_or(current, |()| wanted)
    } else {
        current
    };
    usize::try_from((limit / 2).min(MAX_OPEN_FILES)).unwrap_or_default()
}

impl Machine {
    /// Adds a file system to the running guest, and returns its identifier.
    pub(crate) fn plug_filesystem(&mut self, spec: FilesystemSpec) -> Result<String, ApiError> {
        let filesystem = self.config.check_filesystem(spec)?;
        let key = DeviceKey::Fs(filesystem.id.clone());
        self.plug(key, |config| config.filesystems.push(filesystem))
    }

    /// Asks the guest to give a file system up.
    pub(crate) fn unplug_filesystem(&mut self, id: &str) -> Result<(), ApiError> {
        self.unplug(&DeviceKey::Fs(id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use api::config::VmSpec;
    use serde_json::json;

    use super::*;

    fn filesystem(path: &str) -> FilesystemConfig {
        let spec: VmSpec = serde_json::from_value(json!({
            "boot-source": { "kernel_image_path": "/" },
            "filesystems": [{ "fs_id": "f", "shares": [{ "path": "/" }, { "path": path }] }]
        }))
        .unwrap();
        spec.validate().unwrap().filesystems.remove(0)
    }

    #[test]
    fn share_that_cannot_be_had_is_named_by_its_place() {
        make(&filesystem("/proc"), 0).unwrap();
        for path in ["/nonexistent", "/dev/null"] {
            let error = make(&filesystem(path), 2).err().unwrap();
            let VmmError::Device { field, kind, .. } = &error else { panic!("{error}") };
            assert_eq!(field.to_string(), "filesystems[2].shares[1].path");
            assert_eq!(*kind, ErrorKind::ShareUnusable);
        }
    }

    #[test]
    fn file_system_has_half_of_the_files_that_may_be_open() {
        let files = max_open_files() as u64;
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(files <= limit / 2 && files > 0);
    }
}
