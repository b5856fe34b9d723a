//! What comes first: the agent's own root and file systems.

use std::fs;
use std::io;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move};

use crate::mounting::INERT;

/// Makes a fresh tmpfs the agent's root and mounts what the kernel offers.
///
/// The initramfs itself can't be left by `pivot_root(2)`, which the container's processes need to
/// do; a file system that was moved over it can.
pub(crate) fn prepare() -> io::Result<()> {
    let base = "/base";
    make_dir(base)?;
    mount("base", base, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755")?;
    std::env::set_current_dir(base)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    for (target, kind, flags, options) in [
        ("/proc", "proc", INERT, c""),
        ("/sys", "sysfs", INERT, c""),
        ("/dev", "devtmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=755"),
        ("/run", "tmpfs", INERT, c"mode=755"),
        ("/sys/fs/cgroup", "cgroup2", INERT, c"nsdelegate,memory_recursiveprot"),
    ] {
        make_dir(target)?;
        mount(kind, target, kind, flags, options)?;
    }
    for dir in ["/image", "/upper", "/container", "/shares", "/files"] {
        make_dir(dir)?;
    }
    crate::cgroup::delegate()?;
    kernel_defaults();
    Ok(())
}

/// Docker's defaults of kernel parameters for containers: pings and low ports need no privilege.
fn kernel_defaults() {
    for (name, value) in [
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.ping_group_range", "0 2147483647"),
    ] {
        if let Err(error) = set_sysctl(name, value) {
            eprintln!("agent: {name}: {error}");
        }
    }
}

/// Sets a kernel parameter, by its name with dots.
pub(crate) fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    if name.contains(['/', '\0']) || name.contains("..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value)
}

/// Writes everything, takes the container's file systems off, and powers the machine off.
pub(crate) fn power_off() -> io::Error {
    rustix::fs::sync();
    // ACPI's S5: the VMM ends the machine.
    let Err(error) = rustix::system::reboot(rustix::system::RebootCommand::PowerOff) else {
        return io::Error::other("the machine goes on after its end");
    };
    error.into()
}

/// Takes the container's file systems off, so that its drive is clean.
pub(crate) fn unmount_all() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let ours = ["/container", "/upper", "/image", "/shares"];
    let below = |target: &str| {
        ours.iter().any(|dir| {
            target.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    // The last mounted goes first.
    for line in mounts.lines().rev() {
        let Some(target) = line.split(' ').nth(1).map(unescape) else { continue };
        if below(&target)
            && let Err(error) = rustix::mount::unmount(&*target, UnmountFlags::empty())
        {
            eprintln!("agent: cannot unmount {target}: {error}");
            // A lazy one at least takes what's below it along.
            let _ = rustix::mount::unmount(&*target, UnmountFlags::DETACH);
        }
    }
}

/// Undoes the octal escapes of `/proc/self/mounts`.
fn unescape(text: &str) -> String {
    let (mut result, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        result.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (code, after.get(3..)) {
            (Some(code), Some(left)) => {
                result.push(char::from(code));
                rest = left;
            }
            _ => {
                result.push('\\');
                rest = after;
            }
        }
    }
    result + rest
}

fn make_dir(path: &str) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_with_spaces_are_read() {
        assert_eq!(unescape("/container/a\\040b\\134"), "/container/a b\\");
        assert_eq!(unescape("/plain\\"), "/plain\\");
    }

    #[test]
    fn kernel_parameters_stay_below_their_directory() {
        for name in ["net/../../etc", "..", "kernel...x"] {
            assert!(set_sysctl(name, "1").is_err(), "{name}");
        }
    }
}
