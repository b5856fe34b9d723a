//! File systems and disks.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create, fsmount,
    fsopen, mount as mount_at, unmount,
};

use super::{done, not_done};
use crate::results::AttemptResult;
use crate::{files, places};

/// Mounts a file system in memory, and unmounts it. Where no directory can be made for it, it's
/// mounted nowhere, for which the kernel wants the same right.
pub fn mount() -> AttemptResult {
    let what = "mount";
    let Some(directory) = places::Directory::make() else {
        return match mount_nowhere() {
            Ok(()) => {
                done(what, "a tmpfs was mounted, though at no place: no directory could be made")
            }
            Err(error) => {
                not_done(what, &error, "a tmpfs could not be mounted, not even at no place")
            }
        };
    };
    let path = directory.path();
    match mount_at("none", path, "tmpfs", MountFlags::empty(), c"size=64k") {
        Ok(()) => match unmount(path, UnmountFlags::DETACH) {
            Ok(()) => {
                done(what, format!("a tmpfs was mounted at {} and unmounted", path.display()))
            }
            Err(error) => {
                done(what, format!("a tmpfs is mounted at {} and stays: {error}", path.display()))
            }
        },
        Err(error) => not_done(
            what,
            &error.into(),
            format!("a tmpfs could not be mounted at {}", path.display()),
        ),
    }
}

fn mount_nowhere() -> io::Result<()> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(())
}

/// Reads the first sector of a disk, past all file systems: by its device, or by one that it makes.
pub fn raw_disk() -> AttemptResult {
    let what = "raw-disk";
    let Some(disk) = first_disk() else {
        return AttemptResult {
            what: what.into(),
            detail: "no disk is visible in /sys/block".into(),
            ..AttemptResult::default()
        };
    };
    let (name, size) = (&disk.name, disk.bytes);
    match read_sector(&Path::new("/dev").join(name)) {
        Ok(()) => {
            done(what, format!("the first sector of /dev/{name}, a disk of {size} bytes, was read"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match read_made(&disk) {
            Ok(path) => done(
                what,
                format!(
                    "the first sector of {name}, a disk of {size} bytes, was read by a device made at {}",
                    path.display()
                ),
            ),
            Err(error) => not_done(
                what,
                &error,
                format!(
                    "{name} is visible, has no device here, and none that serves could be made"
                ),
            ),
        },
        Err(error) => {
            not_done(what, &error, format!("/dev/{name} is there, and could not be read"))
        }
    }
}

/// A disk.
struct Disk {
    name: String,
    number: (u32, u32),
    bytes: u64,
}

/// The first disk that isn't made of memory or files, if there's one, or the first of all.
fn first_disk() -> Option<Disk> {
    let mut names: Vec<String> = fs::read_dir("/sys/block")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let virtual_one = |name: &String| {
        ["loop", "ram", "zram", "nbd", "dm-", "md"].iter().any(|kind| name.starts_with(kind))
    };
    names.sort_by_key(|name| (virtual_one(name), name.clone()));
    names.into_iter().filter_map(disk).find(|disk| disk.bytes > 0)
}

fn disk(name: String) -> Option<Disk> {
    let read = |file: &str| files::read(format!("/sys/block/{name}/{file}")).ok();
    let number = read("dev")?;
    let (major, minor) = number.trim().split_once(':')?;
    let sectors: u64 = read("size")?.trim().parse().ok()?;
    let number = (major.parse().ok()?, minor.parse().ok()?);
    Some(Disk { name, number, bytes: sectors.saturating_mul(512) })
}

fn read_sector(path: &Path) -> io::Result<()> {
    File::open(path)?.read_exact(&mut [0; 512])
}

/// Makes a device where one can be made, reads from it and removes it. Returns where that was.
fn read_made(disk: &Disk) -> io::Result<PathBuf> {
    let (major, minor) = disk.number;
    let mut last = io::Error::from(rustix::io::Errno::ROFS);
    for path in places::candidates() {
        let made = mknodat(CWD, &path, FileType::BlockDevice, Mode::RUSR, makedev(major, minor));
        let read = made.map_err(io::Error::from).and_then(|()| {
            let made = places::Removed(path.clone());
            read_sector(&made.0)
        });
        match read {
            Ok(()) => return Ok(path),
            // A directory that isn't there says nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // What forbids devices says more than what forbids files.
            Err(error) if is_read_only(&last) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

fn is_read_only(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ReadOnlyFilesystem
}
