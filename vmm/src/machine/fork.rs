//! Forks the drives of a paused machine: each gets a second image with what's on it at that moment.
//!
//! ```text
//!  the file system shares blocks:       it doesn't:
//!
//!   image ──clone──▶ fork's image        image, from now on only read
//!     │                                    ├──▶ overlay, the fork's image
//!     ▼                                    └──▶ overlay, beside the image
//!   the VM writes on                            │
//!                                               ▼ the VM writes on
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::ApiError;
use api::config::{
    BackingFile, DiskFormat, DriveBackend, DriveConfig, DriveSpec, IoEngine, MAX_BACKING_FILES,
    VmSpec,
};
use api::ext::{ForkDrive, ForkedDrive};
use devices::disk::{self, DiskBackend, NewImage};
use devices::virtio::block::{BlockControl, DiskChange};

use super::registry::Handle;
use super::state::DeviceKey;
use super::{Machine, virtio};

/// How many names are tried for the image that a VM goes on with.
const MAX_NAMES: u32 = 1000;

/// The images of a fork. Those that were made for it are removed when this is dropped, unless
/// [kept](Self::keep). A VM that goes on with another image does so in any case.
#[derive(Debug, Default)]
pub(crate) struct ForkedDrives {
    drives: Vec<Forked>,
    images: Vec<NewImage>,
    /// What the fork's images build upon.
    frozen: Vec<File>,
}

/// A drive's two ways.
#[derive(Debug)]
struct Forked {
    /// The drive of the fork.
    drive: DriveConfig,
    report: ForkedDrive,
}

impl Machine {
    /// Makes an image for the fork out of each drive that the guest can write. The machine is
    /// paused.
    ///
    /// # Errors
    /// When a drive isn't named, or can't be forked. Then everything is as it was.
    pub(crate) fn fork_drives(&mut self, targets: &[ForkDrive]) -> Result<ForkedDrives, ApiError> {
        if let Some(pmem) = self.config.pmem.iter().find(|pmem| !pmem.read_only) {
            return Err(refuse(format!(
                "the guest can write its persistent memory {:?}, which can't be forked: make it \
                 read_only",
                pmem.id
            )));
        }
        let control = |id: &str| match self.devices.handle(&DeviceKey::Block(id.to_owned())) {
            Some(Handle::Block { control, .. }) => Some(Arc::clone(control)),
            _ => None,
        };
        let origins = plan(&self.config.drives, targets, control)?;
        fork(&mut self.config.drives, &origins)
    }
}

impl ForkedDrives {
    fn add(&mut self, drive: DriveConfig, overlay_of: Option<PathBuf>, origin: Option<PathBuf>) {
        let path_on_host = drive.image().unwrap_or(Path::new("")).to_owned();
        let drive_id = drive.id.clone();
        let report = ForkedDrive { drive_id, path_on_host, overlay_of, origin_path: origin };
        self.drives.push(Forked { drive, report });
    }

    /// Names the fork's images in the configuration that it's restored with.
    pub(crate) fn apply(&self, spec: &mut VmSpec) {
        for Forked { drive: forked, .. } in &self.drives {
            if let Some(drive) = spec.drives.iter_mut().find(|drive| drive.drive_id == forked.id) {
                *drive = DriveSpec::from(forked.clone());
            }
        }
    }

    /// Tells what became of the drives.
    pub(crate) fn report(&self) -> Vec<ForkedDrive> {
        self.drives.iter().map(|forked| forked.report.clone()).collect()
    }

    /// Makes the fork's images durable.
    ///
    /// # Errors
    /// When the host can't write them.
    pub(crate) fn sync(&self) -> Result<(), ApiError> {
        for image in &self.images {
            image.sync().map_err(|error| failed(&making(image.path()), &error))?;
        }
        for image in &self.frozen {
            image.sync_all().map_err(|error| failed("write a drive's image", &error))?;
        }
        Ok(())
    }

    /// Keeps the fork's images: all else of the fork is in its place.
    pub(crate) fn keep(mut self) {
        self.images.clear();
    }
}

impl Drop for ForkedDrives {
    fn drop(&mut self) {
        remove(&mut self.images);
    }
}

/// A drive that's to be forked.
struct Origin {
    /// Its place in the configuration.
    index: usize,
    control: Arc<BlockControl>,
    target: PathBuf,
}

/// Finds out which drives are to be forked, and refuses what can be before anything is done.
fn plan(
    drives: &[DriveConfig],
    targets: &[ForkDrive],
    control: impl Fn(&str) -> Option<Arc<BlockControl>>,
) -> Result<Vec<Origin>, ApiError> {
    let mut paths = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let id = &target.drive_id;
        let path = check_target(drives, target)?;
        if targets[..index].iter().any(|other| other.drive_id == *id) {
            return Err(refuse(format!("the drive {id:?} is named twice")));
        }
        if paths.contains(&path) {
            return Err(refuse(format!("two drives can't both go to {}", path.display())));
        }
        paths.push(path);
    }
    let mut origins = Vec::new();
    for (index, drive) in drives.iter().enumerate().filter(|(_, drive)| !drive.read_only) {
        let id = &drive.id;
        if drive.image().is_none() {
            return Err(refuse(format!(
                "the drive {id:?} has no image here: its vhost-user back end would have to fork it"
            )));
        }
        let Some(target) = targets.iter().position(|target| target.drive_id == *id) else {
            return Err(refuse(format!(
                "the guest can write the drive {id:?}: name it in \"drives\", with the file that \
                 its fork goes to"
            )));
        };
        let control = control(id).ok_or_else(|| unknown(id))?;
        origins.push(Origin { index, control, target: paths[target].clone() });
    }
    Ok(origins)
}

/// Checks one target by itself, and returns its absolute path.
fn check_target(drives: &[DriveConfig], target: &ForkDrive) -> Result<PathBuf, ApiError> {
    let id = &target.drive_id;
    let drive = drives.iter().find(|drive| drive.id == *id).ok_or_else(|| unknown(id))?;
    if drive.read_only {
        return Err(refuse(format!(
            "the drive {id:?} is read-only: the fork shares it, so leave it out"
        )));
    }
    let path = &target.path_on_host;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&making(path), &error)),
        Ok(_) => return Err(refuse(format!("{} exists already", path.display()))),
    }
    std::path::absolute(path).map_err(|error| failed(&making(path), &error))
}

/// Forks all of `origins`, or none.
fn fork(drives: &mut [DriveConfig], origins: &[Origin]) -> Result<ForkedDrives, ApiError> {
    let mut attempt = Attempt::default();
    for origin in origins {
        let drive = &drives[origin.index];
        if !attempt.clone_image(drive, origin)? {
            attempt.overlay(drive, origin)?;
        }
    }
    Ok(attempt.complete(drives))
}

/// A fork of which something can still fail. Dropped, it leaves everything as it was.
#[derive(Default)]
struct Attempt<'a> {
    forked: ForkedDrives,
    /// How the VM goes on with an image of its own: the drive's place, and what it will be.
    changes: Vec<(DiskChange<'a>, usize, DriveConfig)>,
    /// Those images.
    overlays: Vec<NewImage>,
    /// Those below.
    frozen: Vec<Arc<dyn DiskBackend>>,
}

impl<'a> Attempt<'a> {
    /// Makes a file that shares the image's blocks; returns whether the file system can.
    fn clone_image(&mut self, drive: &DriveConfig, origin: &Origin) -> Result<bool, ApiError> {
        let disk = origin.control.disk();
        disk.settle().map_err(|error| failed(&writing(drive), &error))?;
        let Some(image) = disk.file() else { return Ok(false) };
        let cloned = disk::clone_image(image, &origin.target);
        match cloned.map_err(|error| failed(&making(&origin.target), &error))? {
            None => Ok(false),
            Some(image) => {
                let mut drive = drive.clone();
                drive.backend = DriveBackend::Image(origin.target.clone());
                self.forked.images.push(image);
                self.forked.add(drive, None, None);
                Ok(true)
            }
        }
    }

    /// Lets the fork and the VM go on with an image each, over the present one.
    fn overlay(&mut self, drive: &DriveConfig, origin: &'a Origin) -> Result<(), ApiError> {
        if drive.backing.len() >= MAX_BACKING_FILES {
            return Err(refuse(format!(
                "the drive {:?} builds upon {MAX_BACKING_FILES} images already: join them by \
                 `qemu-img convert`",
                drive.id
            )));
        }
        let disk = origin.control.disk();
        let len = disk.len_bytes();
        let image = self.freeze(drive, disk)?;
        let below =
            disk::BackingFile { path: image.clone(), format: virtio::disk_format(drive.format) };
        let target = disk::create_overlay(&origin.target, len, &below)
            .map_err(|error| failed(&making(&origin.target), &error))?;
        // It's removed from here on if anything fails.
        self.forked.images.push(target);
        let overlay = create_beside(&image, &origin.target, len, &below)?;
        let path = overlay.path().to_owned();
        // Before the guest goes on: what it flushes there must be found after a crash of the host.
        // The fork's own image has time until it's committed.
        let synced = overlay.sync();
        self.overlays.push(overlay);
        synced.map_err(|error| failed(&making(&path), &error))?;

        let next = over(drive, image.clone(), path.clone());
        let disk =
            virtio::open_disk(&next, origin.index).map_err(|error| ApiError::from_chain(&error))?;
        let change = origin.control.prepare_change(disk);
        let change = change.map_err(|error| ApiError::from_chain(&error))?;
        self.changes.push((change, origin.index, next));
        let forked = over(drive, image.clone(), origin.target.clone());
        self.forked.add(forked, Some(image), Some(path));
        Ok(())
    }

    /// Has nobody write the image of `disk` any more, and returns where it is.
    fn freeze(
        &mut self,
        drive: &DriveConfig,
        disk: Arc<dyn DiskBackend>,
    ) -> Result<PathBuf, ApiError> {
        let writing = || writing(drive);
        let (Some(path), Some(file)) = (drive.image(), disk.file()) else {
            return Err(ApiError::internal(format!("the drive {:?} has no image", drive.id)));
        };
        let path = fs::canonicalize(path).map_err(|error| failed(&writing(), &error))?;
        let same = is_same(file, &path).map_err(|error| failed(&writing(), &error))?;
        if !same {
            return Err(refuse(format!(
                "the drive {:?} has another image open than is at {} now",
                drive.id,
                path.display()
            )));
        }
        let handle = file.try_clone().map_err(|error| failed(&writing(), &error))?;
        disk.freeze().map_err(|error| failed(&writing(), &error))?;
        self.frozen.push(disk);
        self.forked.frozen.push(handle);
        Ok(path)
    }

    /// Has the VM go on.
    fn complete(mut self, drives: &mut [DriveConfig]) -> ForkedDrives {
        for (change, index, next) in self.changes.drain(..) {
            change.commit_unannounced();
            drives[index] = next;
        }
        self.overlays.clear();
        self.frozen.clear();
        std::mem::take(&mut self.forked)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // What reads a frozen image goes before that can be written again.
        self.changes.clear();
        remove(&mut self.overlays);
        for disk in self.frozen.drain(..) {
            if let Err(error) = disk.thaw() {
                log::error!("can't lock a drive's image for writing again: {error}");
            }
        }
    }
}

/// Returns the drive that builds upon what `drive` was.
pub(super) fn over(drive: &DriveConfig, image: PathBuf, overlay: PathBuf) -> DriveConfig {
    let mut next = drive.clone();
    next.backing.insert(0, BackingFile { path_on_host: image, format: drive.format });
    next.backend = DriveBackend::Image(overlay);
    next.format = DiskFormat::Qcow2;
    // Its engine is for raw images.
    next.io_engine = drive.io_engine.filter(|engine| *engine != IoEngine::Async);
    next
}

/// Creates the image that the VM goes on with, beside `image`: `disk.img` is followed by
/// `disk.img.1.qcow2`, that by `disk.img.2.qcow2`. What's over a block device is beside `target`.
fn create_beside(
    image: &Path,
    target: &Path,
    len: u64,
    below: &disk::BackingFile,
) -> Result<NewImage, ApiError> {
    let is_block = fs::metadata(image).is_ok_and(|image| image.file_type().is_block_device());
    let directory = if is_block { target } else { image }.parent().unwrap_or(Path::new("/"));
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let (base, last) = numbered(&name);
    let first = last.saturating_add(1);
    for number in first..first.saturating_add(MAX_NAMES) {
        let path = directory.join(format!("{base}.{number}.qcow2"));
        match disk::create_overlay(&path, len, below) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map_err(|error| failed(&making(&path), &error)),
        }
    }
    Err(refuse(format!("{} names beside {} are taken", MAX_NAMES, image.display())))
}

/// Splits a name that [`create_beside`] gave into the first image's and its number; any other
/// name's is 0.
fn numbered(name: &str) -> (&str, u32) {
    name.strip_suffix(".qcow2")
        .and_then(|stem| stem.rsplit_once('.'))
        .and_then(|(base, number)| Some((base, number.parse().ok()?)))
        .filter(|(base, number)| !base.is_empty() && *number > 0)
        .unwrap_or((name, 0))
}

/// Tells whether `file` is what's at `path`.
fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let (open, there) = (file.metadata()?, fs::metadata(path)?);
    Ok((open.dev(), open.ino(), open.rdev()) == (there.dev(), there.ino(), there.rdev()))
}

/// Removes what was made.
pub(super) fn remove(images: &mut Vec<NewImage>) {
    for image in images.drain(..) {
        let path = image.path().to_owned();
        if let Err(error) = image.remove() {
            log::warn!("can't remove {}, which isn't used: {error}", path.display());
        }
    }
}

fn writing(drive: &DriveConfig) -> String {
    format!("use the image of the drive {:?}", drive.id)
}

fn making(path: &Path) -> String {
    format!("make {}", path.display())
}

fn unknown(id: &str) -> ApiError {
    refuse(format!("this VM has no drive of the identifier {id:?}"))
}

fn refuse(message: String) -> ApiError {
    ApiError::bad_request(message)
}

fn failed(what: &str, error: &io::Error) -> ApiError {
    refuse(format!("can't {what}: {error}"))
}

#[cfg(test)]
mod tests;
