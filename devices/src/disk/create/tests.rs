use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::disk::{Disk, DiskBackend, DiskErrorKind, DiskOptions, Format};

/// Tells whether other software can look at our images.
pub(in crate::disk) fn have_qemu_img() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    if !found {
        println!("qemu-img isn't installed: nobody else looks at the images");
    }
    found
}

/// Runs `qemu-img`, and returns what it prints.
pub(in crate::disk) fn qemu_img(arguments: &[&OsStr]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {printed}{complaints}");
    printed
}

fn base(directory: &TempDir) -> BackingFile {
    let path = directory.path().join("base.img");
    std::fs::write(&path, [7; 4096]).unwrap();
    BackingFile { path, format: Format::Raw }
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn overlay_is_private_and_understood_by_other_software() {
    let directory = TempDir::new().unwrap();
    let below = base(&directory);
    let path = directory.path().join("top.qcow2");
    let image = create_overlay(&path, 1 << 30, &below).unwrap();
    assert_eq!(image.path(), path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(&directory), ["base.img", "top.qcow2"]);
    if have_qemu_img() {
        qemu_img(&["check".as_ref(), path.as_os_str()]);
        let info = qemu_img(&["info".as_ref(), path.as_os_str()]);
        for expected in [
            "(1073741824 bytes)",
            "cluster_size: 65536",
            "compat: 1.1",
            "backing file format: raw",
            &format!("backing file: {}", below.path.display()),
        ] {
            assert!(info.contains(expected), "{expected:?} isn't in {info}");
        }
    }
    // Only those who name what's below get it.
    let error = Disk::open(&DiskOptions::new(&path)).unwrap_err();
    assert_eq!(error.kind(), DiskErrorKind::OtherFile);
    let options = DiskOptions { backing: vec![below], ..DiskOptions::new(&path) };
    assert_eq!(Disk::open(&options).unwrap().len_bytes(), 1 << 30);
    image.remove().unwrap();
    assert_eq!(names(&directory), ["base.img"]);
}

#[test]
fn new_image_replaces_nothing_and_a_failure_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let below = base(&directory);
    let kind = |target: &Path, len| create_overlay(target, len, &below).unwrap_err().kind();
    let at = |name: &str| directory.path().join(name);
    std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
    assert_eq!(kind(&below.path, 512), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(&at("dangling"), 512), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(directory.path(), 512), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(&at("absent/top.qcow2"), 512), io::ErrorKind::NotFound);
    assert_eq!(kind(&at("top.qcow2"), 0), io::ErrorKind::InvalidInput);
    assert_eq!(kind(&at("top.qcow2"), 513), io::ErrorKind::InvalidInput);
    let long = BackingFile { path: at(&"x/".repeat(600)), format: Format::Raw };
    let error = create_overlay(&at("top.qcow2"), 512, &long).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(names(&directory), ["base.img", "dangling"]);
    assert_eq!(fs::read(&below.path).unwrap(), [7; 4096]);
}

#[test]
fn name_that_is_taken_meanwhile_is_not_replaced() {
    let directory = TempDir::new().unwrap();
    let target = directory.path().join("target");
    let new = Unnamed::create(&target).unwrap();
    fs::write(&target, "mine").unwrap();
    assert_eq!(new.publish().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    assert_eq!(names(&directory), ["target"]);
}

#[test]
fn clone_is_a_file_of_its_own_or_nothing_at_all() {
    let directory = TempDir::new().unwrap();
    let below = base(&directory);
    let image = File::open(&below.path).unwrap();
    let target = directory.path().join("clone.img");
    match clone_image(&image, &target).unwrap() {
        Some(clone) => {
            clone.sync().unwrap();
            fs::write(&below.path, [8; 4096]).unwrap();
            assert_eq!(fs::read(&target).unwrap(), [7; 4096]);
        }
        None => assert_eq!(names(&directory), ["base.img"], "this file system shares no blocks"),
    }
    let taken = clone_image(&image, &below.path).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    // Two file systems never do.
    let elsewhere = Path::new("/proc/self/clone.img");
    assert!(clone_image(&image, elsewhere).is_err());
    let shared_memory = TempDir::new_in("/dev/shm").unwrap();
    assert!(clone_image(&image, &shared_memory.path().join("clone.img")).unwrap().is_none());
    assert!(names(&shared_memory).is_empty());
}
