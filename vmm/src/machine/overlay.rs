//! Overlays for a machine that comes out of a snapshot: it writes to images of its own, over the
//! snapshot's, which several machines read at once.

use std::io;
use std::path::{Path, PathBuf};

use api::config::{DiskFormat, DriveConfig, MAX_BACKING_FILES};
use api::v1::DriveOverride;
use devices::disk::{self, BackingFile, DiskBackend, NewImage};

use super::{fork, virtio};
use crate::error::VmmError;

/// Images that were just made. They are removed when this is dropped, unless they're to be
/// [kept](Self::keep).
#[derive(Debug, Default)]
pub(crate) struct Overlays {
    images: Vec<NewImage>,
}

impl Overlays {
    /// Makes an empty image over that of each drive for which `changes` asks for one, and writes it
    /// into the drive's configuration.
    ///
    /// # Errors
    /// When a drive can't have one, or the image can't be made. Then there is none.
    pub(crate) fn create(
        drives: &mut [DriveConfig],
        changes: &[DriveOverride],
    ) -> Result<Self, VmmError> {
        let mut overlays = Self::default();
        for change in changes.iter().filter(|change| change.overlay) {
            let found = drives.iter_mut().enumerate().find(|(_, it)| it.id == change.drive_id);
            let Some((index, drive)) = found else {
                return Err(refuse(change, "the snapshot has no drive of this identifier"));
            };
            let image = check(drive, change)?;
            let (target, image) = absolute(&change.path_on_host, &image)
                .map_err(|source| VmmError::snapshot(making(change), source))?;
            overlays.images.push(create(drive, index, change, &target, &image)?);
            *drive = fork::over(drive, image, target);
        }
        Ok(overlays)
    }

    /// Leaves them to the machine.
    pub(crate) fn keep(mut self) {
        self.images.clear();
    }
}

impl Drop for Overlays {
    fn drop(&mut self) {
        fork::remove(&mut self.images);
    }
}

/// Returns the image that the overlay is to build upon.
fn check(drive: &DriveConfig, change: &DriveOverride) -> Result<PathBuf, VmmError> {
    let image = drive.image().ok_or_else(|| {
        refuse(change, "it has no image here: its vhost-user back end would have to make one")
    })?;
    if drive.read_only {
        return Err(refuse(change, "the guest can't write it: leave it out, and it's shared"));
    }
    if change.format.is_some_and(|format| format != DiskFormat::Qcow2) {
        return Err(refuse(change, "its format is qcow2"));
    }
    if change.concat.is_some() {
        return Err(refuse(change, "nothing follows a qcow2 image"));
    }
    if drive.backing.len() >= MAX_BACKING_FILES {
        let reason = format!(
            "it builds upon {MAX_BACKING_FILES} images already: join them by `qemu-img convert`"
        );
        return Err(refuse(change, reason));
    }
    Ok(image.to_owned())
}

fn absolute(target: &Path, image: &Path) -> io::Result<(PathBuf, PathBuf)> {
    Ok((std::path::absolute(target)?, std::path::absolute(image)?))
}

/// Makes the image at `target` over `image`, which is `drive`'s.
fn create(
    drive: &DriveConfig,
    index: usize,
    change: &DriveOverride,
    target: &Path,
    image: &Path,
) -> Result<NewImage, VmmError> {
    // Opened as those below are: nobody may write what several build upon.
    let mut below = drive.clone();
    below.read_only = true;
    let len = virtio::open_disk(&below, index)?.len_bytes();
    let below = BackingFile { path: image.to_owned(), format: virtio::disk_format(drive.format) };
    disk::create_overlay(target, len, &below)
        .map_err(|source| VmmError::snapshot(making(change), source))
}

fn making(change: &DriveOverride) -> String {
    format!("make {}", change.path_on_host.display())
}

fn refuse(change: &DriveOverride, reason: impl Into<String>) -> VmmError {
    let what = format!("make an overlay for the drive {:?}", change.drive_id);
    VmmError::snapshot(what, reason.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use api::config::{VmConfig, VmSpec};
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    const LEN: usize = 1 << 20;

    fn drives(directory: &TempDir) -> Vec<DriveConfig> {
        let image = |name: &str| {
            let path = directory.path().join(name);
            fs::write(&path, vec![7; LEN]).unwrap();
            path
        };
        let spec: VmSpec = serde_json::from_value(json!({
            "boot-source": { "kernel_image_path": "/" },
            "drives": [
                { "drive_id": "a", "path_on_host": image("a.img"), "is_root_device": false,
                  "io_engine": "Async" },
                { "drive_id": "shared", "path_on_host": image("shared.img"),
                  "is_root_device": false, "is_read_only": true },
            ]
        }))
        .unwrap();
        let config: VmConfig = spec.validate().unwrap();
        config.drives
    }

    fn change(directory: &TempDir, id: &str, name: &str) -> DriveOverride {
        DriveOverride {
            drive_id: id.to_owned(),
            path_on_host: directory.path().join(name),
            format: None,
            concat: None,
            overlay: true,
        }
    }

    #[test]
    fn several_machines_get_images_of_their_own_over_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let mut open = Vec::new();
        for name in ["one.qcow2", "two.qcow2"] {
            let mut drives = drives(&directory);
            let overlays = Overlays::create(&mut drives, &[change(&directory, "a", name)]).unwrap();
            overlays.keep();
            assert_eq!(drives[0].image(), Some(&*directory.path().join(name)));
            assert_eq!(drives[0].format, DiskFormat::Qcow2);
            assert_eq!(drives[0].backing[0].path_on_host, directory.path().join("a.img"));
            let disk = virtio::open_disk(&drives[0], 0).unwrap();
            assert_eq!(disk.len_bytes(), LEN as u64);
            open.push(disk);
        }
        assert_eq!(fs::read(directory.path().join("a.img")).unwrap(), vec![7; LEN]);
    }

    #[test]
    fn overlays_of_a_load_that_fails_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let changes = [change(&directory, "a", "new"), change(&directory, "shared", "other")];
        let error = Overlays::create(&mut drives(&directory), &changes).unwrap_err();
        assert!(error.to_string().contains("\"shared\""), "{error}");
        assert!(!directory.path().join("new").exists());
        drop(Overlays::create(&mut drives(&directory), &changes[..1]).unwrap());
        assert!(!directory.path().join("new").exists());
    }

    #[test]
    fn file_that_exists_is_refused_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mine");
        fs::write(&path, "mine").unwrap();
        let changes = [change(&directory, "a", "mine")];
        Overlays::create(&mut drives(&directory), &changes).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn what_cannot_have_an_overlay_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut drives = drives(&directory);
        let raw = DriveOverride { format: Some(DiskFormat::Raw), ..change(&directory, "a", "new") };
        let more = DriveOverride { concat: Some(Vec::new()), ..change(&directory, "a", "new") };
        for change in
            [raw, more, change(&directory, "b", "new"), change(&directory, "shared", "new")]
        {
            Overlays::create(&mut drives, &[change]).unwrap_err();
        }
        // Somebody writes the image.
        let _disk = virtio::open_disk(&drives[0], 0).unwrap();
        Overlays::create(&mut drives, &[change(&directory, "a", "new")]).unwrap_err();
        assert!(!directory.path().join("new").exists());
    }
}
