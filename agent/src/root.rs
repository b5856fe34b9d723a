//! The container's root file system: the image below, changes above, what the kernel offers, the
//! volumes.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use agent_proto::{ContainerSpec, Root, SHARES_TAG, Upper};
use rustix::fs::{FileType, Mode, makedev, mknodat};
use rustix::mount::MountFlags;

use crate::fault::{Context, ErrorKind, Result};
use crate::in_root::{self, Make};
use crate::mounting::{INERT, bind, mount};
use crate::paths::{FILES, IMAGE, ROOT, SHARES, UPPER, UPPER_DATA};
use crate::{drives, files, volumes};

/// The size of `/dev/shm` unless said: Docker's.
const SHM_BYTES: u64 = 64 << 20;

/// A container's root, mounted.
#[derive(Debug)]
pub(crate) struct MountedRoot {
    /// The root's directory.
    pub(crate) dir: File,
    /// Paths that were made to mount something on, relative to the root: not the container's
    /// changes.
    pub(crate) made: Vec<PathBuf>,
}

/// Mounts everything that doesn't depend on the container's namespaces.
pub(crate) fn assemble(spec: &ContainerSpec) -> Result<MountedRoot> {
    mount_overlay(&spec.root)?;
    let dir = File::open(ROOT).internal("cannot open the container's root")?;
    let mut made = Vec::new();
    for target in ["/proc", "/sys", "/dev"] {
        in_root::ensure(&dir, target, Make::Directory, &mut made)?;
    }
    mount_devices(spec.shm_bytes.unwrap_or(SHM_BYTES))?;
    let sys_flags = if spec.privileged { INERT } else { INERT | MountFlags::RDONLY };
    mount("sysfs", &format!("{ROOT}/sys"), "sysfs", sys_flags, "")?;
    for name in files::NAMES {
        // Never configured: there's still a file to mount.
        let source = format!("{FILES}/{name}");
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&source)
            .internal("cannot make a file of /etc")?;
        let target = in_root::ensure(&dir, &format!("/etc/{name}"), Make::File, &mut made)?;
        bind(&source, &in_root::proc_path(&target), false)?;
    }
    if spec.mounts.iter().any(volumes::is_share) {
        mount(SHARES_TAG, SHARES, "virtiofs", MountFlags::empty(), "")?;
    }
    for volume in &spec.mounts {
        volumes::mount_volume(&dir, volume, &mut made)?;
    }
    Ok(MountedRoot { dir, made })
}

fn mount_overlay(root: &Root) -> Result<()> {
    let image = drives::find(&root.image_serial)?;
    mount(&image, IMAGE, "erofs", MountFlags::RDONLY, "")?;
    match &root.upper {
        Upper::Drive { serial } => {
            mount(&drives::find(serial)?, UPPER, "ext4", MountFlags::NOATIME, "")?;
        }
        Upper::Tmpfs { size_bytes } => {
            let size = size_bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            mount("upper", UPPER, "tmpfs", MountFlags::NOATIME, &format!("mode=755{size}"))?;
        }
    }
    for dir in [UPPER_DATA, "/upper/work"] {
        fs::create_dir_all(dir).internal("cannot make a directory for changes")?;
    }
    // The merged root has the upper directory's owner and mode: give it the image's.
    let image_root = fs::metadata(IMAGE).internal("cannot look at the image's root")?;
    fs::set_permissions(UPPER_DATA, image_root.permissions())
        .internal("cannot set the root's mode")?;
    std::os::unix::fs::chown(
        UPPER_DATA,
        Some(std::os::unix::fs::MetadataExt::uid(&image_root)),
        Some(std::os::unix::fs::MetadataExt::gid(&image_root)),
    )
    .internal("cannot set the root's owner")?;
    // Without redirects and metadata copies, the upper directory is a plain list of changes.
    let options = format!(
        "lowerdir={IMAGE},upperdir={UPPER_DATA},workdir=/upper/work,redirect_dir=off,metacopy=off,index=off"
    );
    mount("overlay", ROOT, "overlay", MountFlags::empty(), &options)
}

fn mount_devices(shm_bytes: u64) -> Result<()> {
    let dev = format!("{ROOT}/dev");
    mount("tmpfs", &dev, "tmpfs", MountFlags::NOSUID, "mode=755,size=65536k")?;
    for (name, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ] {
        let path = format!("{dev}/{name}");
        mknodat(
            rustix::fs::CWD,
            &path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(major, minor),
        )
        .context(ErrorKind::Mount, || format!("cannot make {path}"))?;
        // The agent's mask doesn't hold for devices.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
            .internal("cannot set a device's mode")?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
        ("core", "/proc/kcore"),
    ] {
        symlink(target, format!("{dev}/{name}")).internal("cannot make a link in /dev")?;
    }
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    let pts = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount("devpts", &format!("{dev}/pts"), "devpts", quiet, pts)?;
    let shm = format!("mode=1777,size={shm_bytes}");
    mount("shm", &format!("{dev}/shm"), "tmpfs", INERT, &shm)?;
    mount("mqueue", &format!("{dev}/mqueue"), "mqueue", INERT, "")?;
    // A place for the main process's terminal.
    File::create(format!("{dev}/console")).internal("cannot make /dev/console")?;
    Ok(())
}
