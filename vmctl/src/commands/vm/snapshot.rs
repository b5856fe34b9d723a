//! `vmctl vm snapshot|fork`: saving a VM.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::config::{DriveSpec, VmSpec};
use api::ext::{ForkDrive, ForkParams, ForkReport};
use api::v1::{CreateSnapshotParams, SnapshotType};
use clap::Args;
use serde_json::json;

use super::{connect, is_paused, refused};
use crate::errors::{CliError, notice};
use crate::output;
use crate::registry::{Entry, Registry, images};

/// Saves a VM into a directory: its state, its memory and its configuration.
///
/// The VM stands still while it's saved. Its disks aren't saved: they must stay as they are, or be
/// copied while the VM is paused; `vmctl vm fork` takes them along.
#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    /// The VM.
    name: String,

    /// The directory, which is made; NAME.snapshot unless given.
    dir: Option<PathBuf>,

    /// Saves only the memory that was written since the snapshot before. The VM must track its
    /// pages (`track_dirty_pages`), and `vmctl snapshot merge` makes a full snapshot of it.
    #[arg(long)]
    diff: bool,

    /// Whether the VM goes on afterwards: one that ran does unless told otherwise, one that was
    /// paused doesn't.
    #[arg(long, value_name = "BOOL")]
    resume: Option<bool>,

    /// Prints where the files are as JSON.
    #[arg(long)]
    json: bool,
}

/// Saves one consistent point of a VM while it runs on, its disks included.
#[derive(Debug, Args)]
pub(super) struct ForkArgs {
    /// The VM.
    name: String,

    /// The directory, which is made; NAME.snapshot unless given.
    dir: Option<PathBuf>,

    /// Prints where the files are, and how long the VM stood still, as JSON.
    #[arg(long)]
    json: bool,
}

/// The directory of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotDir {
    pub(crate) dir: PathBuf,
}

impl SnapshotDir {
    /// Names the files in `dir`, whose path is made absolute: the VMM may work elsewhere.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()) }
    }

    /// Makes the directory, unless it's there.
    pub(super) fn create(&self) -> Result<(), CliError> {
        fs::create_dir_all(&self.dir).map_err(self.failed("made"))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("vm.state")
    }

    pub(crate) fn memory(&self) -> PathBuf {
        self.dir.join("vm.mem")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    fn disk(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.disk"))
    }

    pub(super) fn write_config(&self, config: &VmSpec) -> Result<(), CliError> {
        let text = serde_json::to_vec_pretty(config).map_err(io::Error::from);
        text.and_then(|text| fs::write(self.config(), text)).map_err(self.failed("written"))
    }

    pub(super) fn read_config(&self) -> Result<VmSpec, CliError> {
        let text = fs::read(self.config()).map_err(self.failed("read"))?;
        serde_json::from_slice(&text).map_err(|error| self.failed("read")(error.into()))
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> CliError {
        let dir = self.dir.clone();
        move |source| CliError::SnapshotDir { dir, what, source }
    }
}

pub(super) fn snapshot(registry: &Registry, args: &SnapshotArgs) -> Result<u8, CliError> {
    let entry = registry.find(&args.name)?;
    let was_paused = is_paused(&entry)?;
    let mut api = connect(&entry)?;
    let dir = target(&entry, args.dir.as_deref());
    dir.create()?;
    let config = api.config().map_err(refused(&entry))?;
    if !was_paused {
        api.pause().map_err(refused(&entry))?;
    }
    let saved = api
        .create_snapshot(&CreateSnapshotParams {
            snapshot_type: if args.diff { SnapshotType::Diff } else { SnapshotType::Full },
            snapshot_path: dir.state(),
            mem_file_path: dir.memory(),
        })
        .map_err(refused(&entry))
        .and_then(|()| dir.write_config(&config));
    // A VM that ran runs on, also when it couldn't be saved.
    let resume = args.resume.unwrap_or(!was_paused) || (saved.is_err() && !was_paused);
    if resume {
        api.resume().map_err(refused(&entry))?;
    }
    saved?;
    registry.disown(&images(&config))?;
    say(&dir, args.json, &json!({ "resumed": resume }))
}

pub(super) fn fork(registry: &Registry, args: &ForkArgs) -> Result<u8, CliError> {
    let mut entry = registry.find(&args.name)?;
    let dir = target(&entry, args.dir.as_deref());
    let report = fork_into(&mut entry, &dir)?;
    // The fork builds upon what the VM builds upon; its own images are copies of the VM's.
    let mut below = entry.record.config.clone();
    for drive in below.drives.iter_mut().filter(|drive| drive.is_read_only != Some(true)) {
        drive.path_on_host = None;
    }
    registry.disown(&images(&below))?;
    say(&dir, args.json, &report)
}

/// Saves one consistent point of a VM that may run on, and notes which images the VM goes on with.
pub(super) fn fork_into(entry: &mut Entry, dir: &SnapshotDir) -> Result<ForkReport, CliError> {
    is_paused(entry)?;
    let mut api = connect(entry)?;
    dir.create()?;
    let before = api.config().map_err(refused(entry))?;
    let writable = before.drives.iter().filter(|drive| drive.is_read_only != Some(true));
    let target = |drive: &DriveSpec| {
        let path_on_host = dir.disk(&drive.drive_id);
        ForkDrive { drive_id: drive.drive_id.clone(), path_on_host }
    };
    let drives = writable.map(target).collect();
    let params = ForkParams { snapshot_path: dir.state(), mem_file_path: dir.memory(), drives };
    let report = api.fork(&params).map_err(refused(entry))?;
    let config = api.config().map_err(refused(entry))?;
    dir.write_config(&of_fork(config.clone(), &report))?;
    note_images(entry, config, &report)?;
    Ok(report)
}

/// Makes a fork's configuration of that which its origin goes on with: their images have the same
/// format, and build upon the same ones.
fn of_fork(mut config: VmSpec, report: &ForkReport) -> VmSpec {
    for forked in &report.drives {
        let drive = config.drives.iter_mut().find(|drive| drive.drive_id == forked.drive_id);
        if let Some(drive) = drive {
            drive.path_on_host = Some(forked.path_on_host.clone());
        }
    }
    config
}

/// Enters the images that a forked VM goes on with, of which those are its own that follow its own.
fn note_images(entry: &mut Entry, config: VmSpec, report: &ForkReport) -> Result<(), CliError> {
    for forked in &report.drives {
        if let (Some(below), Some(next)) = (&forked.overlay_of, &forked.origin_path) {
            notice(&format!(
                "{} writes its drive {} to {} from now on; {}, which that builds upon, must stay as \
                 it is",
                entry.record.name,
                forked.drive_id,
                next.display(),
                below.display()
            ));
        }
    }
    entry.update(|record| {
        let is_own = |below: &PathBuf| record.owned.contains(below);
        let follows = report.drives.iter().filter(|it| it.overlay_of.as_ref().is_some_and(is_own));
        let next: Vec<_> = follows.filter_map(|forked| forked.origin_path.clone()).collect();
        record.owned.splice(0..0, next);
        record.config = config;
    })?;
    Ok(())
}

fn target(entry: &Entry, dir: Option<&Path>) -> SnapshotDir {
    match dir {
        Some(dir) => SnapshotDir::new(dir),
        None => SnapshotDir::new(Path::new(&format!("{}.snapshot", entry.record.name))),
    }
}

fn say(dir: &SnapshotDir, as_json: bool, more: &impl serde::Serialize) -> Result<u8, CliError> {
    if as_json {
        let files = json!({ "dir": dir.dir, "state": dir.state(), "memory": dir.memory() });
        output::print_line(&files, more)?;
    } else {
        output::print(&format!("{}\n", dir.dir.display()))?;
    }
    Ok(api::exit::STOPPED)
}

#[cfg(test)]
mod tests {
    use api::ext::ForkedDrive;
    use serde_json::json;

    use super::*;

    #[test]
    fn forks_configuration_names_its_images_and_all_that_they_build_upon() {
        let drive = |image: &str| {
            json!({
                "drive_id": "data", "path_on_host": image, "format": "qcow2",
                "is_root_device": false,
                "backing": [
                    { "path_on_host": "/data.img.1.qcow2", "format": "qcow2" },
                    { "path_on_host": "/data.img", "format": "raw" },
                ],
            })
        };
        let shared = json!({ "drive_id": "shared", "path_on_host": "/s", "is_root_device": false });
        let config = |image| -> VmSpec {
            serde_json::from_value(json!({ "drives": [shared, drive(image)] })).unwrap()
        };
        let forked = ForkedDrive {
            drive_id: "data".to_owned(),
            path_on_host: PathBuf::from("/fork/data.disk"),
            overlay_of: Some(PathBuf::from("/data.img.1.qcow2")),
            origin_path: Some(PathBuf::from("/data.img.2.qcow2")),
        };
        let report = ForkReport { drives: vec![forked], ..ForkReport::default() };
        let saved = of_fork(config("/data.img.2.qcow2"), &report);
        assert_eq!(saved, config("/fork/data.disk"));
    }
}
