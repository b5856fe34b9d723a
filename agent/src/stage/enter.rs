//! A stage's place: the container's namespaces, made or joined.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::{Place, StageSpec};
use crate::fault::{Context, ErrorKind, Result};
use crate::mounting::{INERT, bind, make_read_only, mount};
use crate::paths::ROOT;
use crate::sys;

/// What's hidden from containers, as by Docker.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What containers may only read, as by Docker.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Enters the place. From here on `/` is the container's root.
///
/// A container has namespaces of its own for processes (so that its main process is number 1), mounts
/// and cgroups. The network, the host's name and System V's IPC are the VM's: there's nobody else to
/// share them with, and the agent can set them at any time.
pub(crate) fn enter(spec: &StageSpec) -> Result<()> {
    match &spec.place {
        Place::New { read_only, console, .. } => {
            make(spec.privileged, *read_only, console.as_deref())
        }
        Place::Of(leader) => join(*leader),
        Place::Here => Ok(()),
    }
}

fn join(leader: i32) -> Result<()> {
    let open = |name: &str| {
        File::open(format!("/proc/{leader}/ns/{name}"))
            .context(ErrorKind::NoSuchProcess, || "the container isn't running".into())
    };
    let (cgroup, mount) = (open("cgroup")?, open("mnt")?);
    for (namespace, kind) in
        [(&cgroup, LinkNameSpaceType::ControlGroup), (&mount, LinkNameSpaceType::Mount)]
    {
        move_into_link_name_space(namespace.as_fd(), Some(kind))
            .internal("cannot enter the container's namespaces")?;
    }
    Ok(())
}

fn make(privileged: bool, read_only: bool, console: Option<&str>) -> Result<()> {
    sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP)
        .internal("cannot make the container's namespaces")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).internal("cannot make mounts private")?;
    mount("proc", &format!("{ROOT}/proc"), "proc", INERT, "")?;
    let cgroup_flags = if privileged { INERT } else { INERT | MountFlags::RDONLY };
    mount("cgroup", &format!("{ROOT}/sys/fs/cgroup"), "cgroup2", cgroup_flags, "")?;
    if let Some(terminal) = console {
        bind(&format!("{ROOT}/dev/pts/{terminal}"), &format!("{ROOT}/dev/console"), false)?;
    }
    if !privileged {
        hide()?;
    }
    if read_only {
        make_read_only(ROOT)?;
    }
    pivot().internal("cannot change to the container's root")
}

fn hide() -> Result<()> {
    for path in MASKED {
        let path = format!("{ROOT}{path}");
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                mount("tmpfs", &path, "tmpfs", INERT | MountFlags::RDONLY, "size=0,nr_inodes=1")?;
            }
            Ok(_) => bind("/dev/null", &path, false)?,
            // This kernel doesn't have it.
            Err(_) => {}
        }
    }
    for path in READ_ONLY {
        let path = format!("{ROOT}{path}");
        if Path::new(&path).exists() {
            bind(&path, &path, true)?;
            make_read_only(&path)?;
        }
    }
    Ok(())
}

/// Makes the container's root the root, and lets go of the old one.
fn pivot() -> std::io::Result<()> {
    std::env::set_current_dir(ROOT)?;
    // The old root comes to lie above the new one, at the same place, and is taken off there.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}
