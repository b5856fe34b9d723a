use std::os::unix::fs::FileExt;

use api::config::VmConfig;
use devices::disk::{Disk, DiskErrorKind, DiskOptions, Engine, Format};
use devices::virtio::block::{Block, BlockConfig};
use serde_json::json;
use tempfile::TempDir;

use super::*;

/// The length of each image in bytes.
const LEN: usize = 1 << 20;

/// A machine's drives, as far as forking them goes.
struct Rig {
    directory: TempDir,
    config: VmConfig,
    blocks: Vec<Block>,
}

impl Rig {
    /// In a file system that shares no blocks: the tests are of overlays unless they say otherwise.
    fn new() -> Self {
        Self::in_directory(TempDir::new_in("/dev/shm").unwrap())
    }

    /// Two drives that the guest can write, and one that it can't.
    fn in_directory(directory: TempDir) -> Self {
        let image = |name: &str, fill: u8| {
            let path = directory.path().join(name);
            fs::write(&path, vec![fill; LEN]).unwrap();
            path
        };
        let spec: VmSpec = serde_json::from_value(json!({
            "boot-source": { "kernel_image_path": "/" },
            "drives": [
                { "drive_id": "a", "path_on_host": image("a.img", 1), "is_root_device": false,
                  "io_engine": "Async" },
                { "drive_id": "b", "path_on_host": image("b.img", 2), "is_root_device": false,
                  "io_engine": "Sync" },
                { "drive_id": "shared", "path_on_host": image("shared.img", 3),
                  "is_root_device": false, "is_read_only": true },
            ]
        }))
        .unwrap();
        let config = spec.validate().unwrap();
        let blocks = config.drives.iter().enumerate().map(|(index, drive)| {
            let disk = virtio::open_disk(drive, index).unwrap();
            Block::new(&BlockConfig::default(), disk).unwrap()
        });
        let blocks = blocks.collect();
        Self { directory, config, blocks }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn target(&self, id: &str, name: &str) -> ForkDrive {
        ForkDrive { drive_id: id.to_owned(), path_on_host: self.at(name) }
    }

    fn plan(&self, targets: &[ForkDrive]) -> Result<Vec<Origin>, ApiError> {
        plan(&self.config.drives, targets, |id| {
            let index = self.config.drives.iter().position(|drive| drive.id == id)?;
            Some(Arc::clone(self.blocks[index].control()))
        })
    }

    fn fork(&mut self, targets: &[ForkDrive]) -> Result<ForkedDrives, ApiError> {
        let origins = self.plan(targets)?;
        fork(&mut self.config.drives, &origins)
    }

    fn both(&self, number: u32) -> [ForkDrive; 2] {
        ["a", "b"].map(|id| self.target(id, &format!("{id}-fork{number}")))
    }

    /// The names of all files.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The configuration that a fork is restored with.
    fn forked(&self, forked: &ForkedDrives) -> VmConfig {
        let mut spec = VmSpec::from(self.config.clone());
        forked.apply(&mut spec);
        spec.validate().unwrap()
    }
}

const BEFORE: [&str; 3] = ["a.img", "b.img", "shared.img"];

fn refusal(outcome: Result<ForkedDrives, ApiError>) -> String {
    outcome.unwrap_err().message
}

#[test]
fn fork_and_origin_build_upon_what_was_and_both_can_be_opened() {
    let mut rig = Rig::new();
    let forked = rig.fork(&rig.both(1)).unwrap();
    let restored = rig.forked(&forked);
    assert_eq!(
        forked.report(),
        ["a", "b"].map(|id| ForkedDrive {
            drive_id: id.to_owned(),
            path_on_host: rig.at(&format!("{id}-fork1")),
            overlay_of: Some(rig.at(&format!("{id}.img"))),
            origin_path: Some(rig.at(&format!("{id}.img.1.qcow2"))),
        })
    );
    for (drive, name) in rig.config.drives.iter().zip(["a.img", "b.img"]) {
        let below = BackingFile { path_on_host: rig.at(name), format: DiskFormat::Raw };
        assert_eq!(drive.image(), Some(&*rig.at(&format!("{name}.1.qcow2"))));
        assert_eq!((drive.format, &drive.backing), (DiskFormat::Qcow2, &vec![below]));
    }
    assert_eq!(rig.config.drives[0].io_engine, None, "there's none of its kind for qcow2");
    assert_eq!(rig.config.drives[1].io_engine, Some(IoEngine::Sync));
    assert_eq!(restored.drives[2], rig.config.drives[2], "shared as it is");
    forked.sync().unwrap();
    forked.keep();
    // The origin has its images open, and runs on.
    for (index, drive) in restored.drives.iter().enumerate() {
        let disk = virtio::open_disk(drive, index).unwrap();
        assert_eq!(disk.len_bytes(), LEN as u64);
        assert_eq!(rig.blocks[index].control().disk().len_bytes(), LEN as u64);
    }
    let refused = virtio::open_disk(&rig.config.drives[0], 0).unwrap_err();
    assert!(ApiError::from_chain(&refused).message.contains("in use"), "{refused}");
    // What is below has no writer, and gets none.
    let options = DiskOptions { format: Some(Format::Raw), ..DiskOptions::new(rig.at("a.img")) };
    assert_eq!(Disk::open(&options).unwrap_err().kind(), DiskErrorKind::InUse);
    assert!(fs::read(rig.at("a.img")).unwrap() == vec![1; LEN]);
}

#[test]
fn fork_after_fork_makes_the_chain_longer_until_it_is_too_long() {
    let mut rig = Rig::new();
    for number in 1..=3 {
        rig.fork(&rig.both(number)).unwrap().keep();
    }
    let drive = &rig.config.drives[0];
    assert_eq!(drive.image(), Some(&*rig.at("a.img.3.qcow2")));
    let below: Vec<_> = drive.backing.iter().map(|file| file.path_on_host.clone()).collect();
    assert_eq!(below, ["a.img.2.qcow2", "a.img.1.qcow2", "a.img"].map(|name| rig.at(name)));
    assert_eq!(drive.backing[1].format, DiskFormat::Qcow2);
    assert_eq!(drive.backing[2].format, DiskFormat::Raw);

    let file = drive.backing[0].clone();
    rig.config.drives[1].backing = vec![file; MAX_BACKING_FILES];
    let names = rig.names();
    let message = refusal(rig.fork(&rig.both(4)));
    assert!(message.contains("builds upon 32 images"), "{message}");
    assert_eq!(rig.names(), names, "neither of the two");
}

#[test]
fn name_that_is_taken_is_passed_over() {
    let mut rig = Rig::new();
    fs::write(rig.at("a.img.1.qcow2"), "mine").unwrap();
    std::os::unix::fs::symlink("nowhere", rig.at("a.img.2.qcow2")).unwrap();
    rig.fork(&rig.both(1)).unwrap().keep();
    assert_eq!(rig.config.drives[0].image(), Some(&*rig.at("a.img.3.qcow2")));
    assert_eq!(fs::read(rig.at("a.img.1.qcow2")).unwrap(), b"mine");
}

#[test]
fn fork_that_is_not_committed_is_removed_and_its_origin_runs_on() {
    let mut rig = Rig::new();
    drop(rig.fork(&rig.both(1)).unwrap());
    let expected = ["a.img", "a.img.1.qcow2", "b.img", "b.img.1.qcow2", "shared.img"];
    assert_eq!(rig.names(), expected);
    rig.fork(&rig.both(1)).unwrap().keep();
    assert_eq!(rig.config.drives[0].image(), Some(&*rig.at("a.img.2.qcow2")));
}

#[test]
fn failure_at_any_drive_leaves_all_as_they_were() {
    let mut rig = Rig::new();
    let before = rig.config.clone();
    // Found out at the second drive only.
    let lost = [rig.target("a", "a-fork"), rig.target("b", "absent/b-fork")];
    assert!(refusal(rig.fork(&lost)).contains("absent/b-fork"));
    // Its image isn't the one that is open.
    fs::rename(rig.at("b.img"), rig.at("moved.img")).unwrap();
    fs::write(rig.at("b.img"), vec![0; LEN]).unwrap();
    let message = refusal(rig.fork(&rig.both(1)));
    assert!(message.contains("another image open"), "{message}");
    fs::rename(rig.at("moved.img"), rig.at("b.img")).unwrap();

    assert_eq!(rig.config, before);
    assert_eq!(rig.names(), BEFORE);
    // Locked for writing as before.
    for name in ["a.img", "b.img"] {
        let options = DiskOptions { read_only: true, ..DiskOptions::new(rig.at(name)) };
        assert_eq!(Disk::open(&options).unwrap_err().kind(), DiskErrorKind::InUse, "{name}");
    }
    rig.fork(&rig.both(1)).unwrap();
}

#[test]
fn targets_that_do_not_fit_are_refused_before_anything_is_done() {
    let mut rig = Rig::new();
    let a = || rig.target("a", "a-fork");
    let b = |name: &str| rig.target("b", name);
    for (targets, expected) in [
        (vec![a()], "the guest can write the drive \"b\": name it"),
        (vec![], "the guest can write the drive \"a\""),
        (vec![a(), b("b-fork"), rig.target("c", "c")], "no drive of the identifier \"c\""),
        (vec![a(), b("b-fork"), rig.target("shared", "s")], "\"shared\" is read-only"),
        (vec![a(), b("b-fork"), b("b-other")], "\"b\" is named twice"),
        (vec![a(), b("a-fork")], "two drives can't both go to"),
        (vec![a(), b("b.img")], "b.img exists already"),
        (vec![a(), b("shared.img")], "shared.img exists already"),
    ] {
        let message = rig.plan(&targets).err().unwrap().message;
        assert!(message.contains(expected), "{message}");
    }
    rig.config.drives[1].backend = DriveBackend::VhostUser("socket".into());
    let message = refusal(rig.fork(&rig.both(1)));
    assert!(message.contains("vhost-user back end"), "{message}");
    assert_eq!(rig.names(), BEFORE);
}

#[test]
fn image_goes_on_elsewhere_if_the_file_system_shares_blocks() {
    let mut rig = Rig::in_directory(TempDir::new().unwrap());
    let before = rig.config.clone();
    let forked = rig.fork(&rig.both(1)).unwrap();
    if forked.report()[0].overlay_of.is_some() {
        println!("{} shares no blocks: nothing to see", rig.directory.path().display());
        return;
    }
    assert_eq!(rig.config, before, "the origin goes on with its own");
    let restored = rig.forked(&forked);
    forked.sync().unwrap();
    forked.keep();
    for (index, drive) in restored.drives.iter().enumerate().take(2) {
        assert_eq!((drive.format, drive.backing.len()), (DiskFormat::Raw, 0));
        File::options()
            .write(true)
            .open(rig.at(["a.img", "b.img"][index]))
            .unwrap()
            .write_all_at(&[9; 512], 0)
            .unwrap();
        let content = fs::read(drive.image().unwrap()).unwrap();
        assert!(content == vec![[1, 2][index]; LEN]);
        assert_eq!(
            virtio::open_disk(drive, index).unwrap().engine(),
            [Engine::IoUring, Engine::Sync][index]
        );
    }
}

#[test]
fn numbers_follow_the_first_images_name() {
    for (name, expected) in [
        ("disk.img", ("disk.img", 0)),
        ("disk.img.1.qcow2", ("disk.img", 1)),
        ("disk.img.41.qcow2", ("disk.img", 41)),
        ("disk.qcow2", ("disk.qcow2", 0)),
        ("disk.0.qcow2", ("disk.0.qcow2", 0)),
        (".1.qcow2", (".1.qcow2", 0)),
        ("disk.99999999999.qcow2", ("disk.99999999999.qcow2", 0)),
    ] {
        assert_eq!(numbered(name), expected);
    }
}
