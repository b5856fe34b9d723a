//! `vmctl clone`: several VMs out of one that runs, or out of a snapshot.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use api::config::{MacAddr, VmSpec};
use api::v1::{
    DriveOverride, LoadSnapshotParams, NetworkOverride, NewIdentity, NewMac, VsockOverride,
};
use clap::Args;
use log::LevelFilter;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::restore;
use super::snapshot::{SnapshotDir, fork_into};
use crate::errors::CliError;
use crate::registry::{Draft, Origin, Registry, numbered};

/// The first context identifier that's given to a clone.
const FIRST_CID: u32 = 1000;

/// Makes VMs out of one that runs on meanwhile, or out of a snapshot.
///
/// They share its memory until they write to it, and have disks of their own (shared in the same
/// way where the file system can do that), their own Ethernet addresses, vsock identifiers and
/// sockets. Each network interface needs a TAP of its own: `--net ID=TAP`, in which `{n}` is
/// replaced by the clone's number.
#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// The VM's name or identifier, or a snapshot's directory.
    source: String,

    /// How many VMs to make.
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    /// The clones' name, to which their number is added; the VM's name unless given.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// A TAP for an interface; `{n}` is replaced by the clone's number. May be given several times.
    #[arg(long = "net", value_name = "ID=TAP")]
    nets: Vec<String>,

    /// Leaves the clones paused.
    #[arg(long)]
    paused: bool,

    /// Prints each clone as a line of JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn clone(
    registry: &Registry,
    args: &CloneArgs,
    level: LevelFilter,
) -> Result<u8, CliError> {
    let (dir, base, forked) = source(registry, args)?;
    let outcome = clone_from(registry, args, level, &dir, &base);
    if forked {
        // Who uses the files has them mapped or open; the disks were moved to the clones.
        let _ = fs::remove_dir_all(&dir.dir);
    }
    outcome
}

/// The snapshot to make clones of, what they're named after, and whether it was made for them.
fn source(registry: &Registry, args: &CloneArgs) -> Result<(SnapshotDir, String, bool), CliError> {
    let path = Path::new(&args.source);
    if args.source.contains('/') || path.join("vm.state").is_file() {
        let dir = SnapshotDir::new(path);
        let name = dir.dir.file_stem().map(|name| name.to_string_lossy().into_owned());
        let base = args.name.clone().or(name).unwrap_or_else(|| "clone".to_owned());
        return Ok((dir, base, false));
    }
    let entry = registry.find(&args.source)?;
    // Beside the VM's own disks there is room, and the file system may share blocks.
    let place = entry
        .record
        .config
        .drives
        .iter()
        .find_map(|drive| drive.path_on_host.as_ref()?.parent().map(Path::to_owned))
        .unwrap_or_else(std::env::temp_dir);
    let dir =
        SnapshotDir::new(&place.join(format!(".{}-fork-{}", entry.record.id, std::process::id())));
    if let Err(error) = fork_into(&entry, &dir) {
        let _ = fs::remove_dir_all(&dir.dir);
        return Err(error);
    }
    Ok((dir, args.name.clone().unwrap_or(entry.record.name), true))
}

fn clone_from(
    registry: &Registry,
    args: &CloneArgs,
    level: LevelFilter,
    dir: &SnapshotDir,
    base: &str,
) -> Result<u8, CliError> {
    let config = dir.read_config()?;
    let (entries, _) = registry.scan()?;
    let taken: Vec<_> = entries.iter().map(|entry| entry.record.name.clone()).collect();
    let mut cids: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.record.config.vsock.as_ref().map(|vsock| vsock.guest_cid))
        .collect();
    let names = numbered(base).filter(|name| !taken.contains(name)).take(args.count as usize);
    for (number, name) in (1_u32..).zip(names) {
        let mut params = restore::load_params(dir);
        params.resume_vm = !args.paused;
        params.network_overrides = taps(&args.nets, number)?;
        set_identity(&config, &mut params, &mut cids, &name)?;
        params.drive_overrides = copy_drives(&config, &name)?;
        let copies: Vec<_> =
            params.drive_overrides.iter().map(|drive| drive.path_on_host.clone()).collect();
        let origin = Origin::Clone { of: args.source.clone() };
        let draft = Draft { name: Some(name), origin, foreground: false, api_socket: None };
        match restore::start(registry, draft, config.clone(), params, level) {
            Ok(entry) => restore::say(&entry, args.json)?,
            Err(error) => {
                copies.iter().for_each(|copy| drop(fs::remove_file(copy)));
                return Err(error);
            }
        };
    }
    Ok(api::exit::STOPPED)
}

fn taps(nets: &[String], number: u32) -> Result<Vec<NetworkOverride>, CliError> {
    let parse = |text: &String| {
        let (id, tap) = text.split_once('=').ok_or_else(|| CliError::BadValue {
            flag: "--net",
            value: text.clone(),
            problem: "expected ID=TAP",
        })?;
        let host_dev_name = tap.replace("{n}", &number.to_string());
        Ok(NetworkOverride { iface_id: id.to_owned(), host_dev_name })
    };
    nets.iter().map(parse).collect()
}

/// Gives a clone addresses that no other VM here has.
fn set_identity(
    config: &VmSpec,
    params: &mut LoadSnapshotParams,
    cids: &mut Vec<u64>,
    name: &str,
) -> Result<(), CliError> {
    let mut identity = NewIdentity::default();
    for net in config.network_interfaces.iter().filter(|net| net.guest_mac.is_some()) {
        let guest_mac = random_mac()?;
        identity.mac_addresses.push(NewMac { iface_id: net.iface_id.clone(), guest_mac });
    }
    if let Some(vsock) = &config.vsock {
        let free = (FIRST_CID..u32::MAX).find(|cid| !cids.contains(&u64::from(*cid)));
        cids.extend(free.map(u64::from));
        identity.guest_cid = free;
        let mut path = vsock.uds_path.clone().into_os_string();
        path.push(format!(".{name}"));
        params.vsock_override = Some(VsockOverride { uds_path: PathBuf::from(path) });
    }
    params.new_identity = Some(identity);
    Ok(())
}

/// A random address of those that are given locally.
fn random_mac() -> Result<MacAddr, CliError> {
    let mut bytes = [0; 6];
    let failed =
        |errno: Errno| CliError::System { what: "random bytes can't be had", source: errno.into() };
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
    // Locally administered, and no multicast address.
    bytes[0] = (bytes[0] & 0xfc) | 0x02;
    let text: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.join(":").parse().map_err(|error| CliError::System {
        what: "an Ethernet address can't be made",
        source: io::Error::other(error),
    })
}

/// Gives a clone copies of the drives that its guest may write.
fn copy_drives(config: &VmSpec, name: &str) -> Result<Vec<DriveOverride>, CliError> {
    let mut copies: Vec<DriveOverride> = Vec::new();
    for drive in config.drives.iter().filter(|drive| drive.is_read_only != Some(true)) {
        let Some(from) = &drive.path_on_host else { continue };
        // Not into the fork's own directory, which doesn't last.
        let place = from.parent().filter(|dir| !is_fork(dir)).or_else(|| from.parent()?.parent());
        let to = place.unwrap_or(Path::new("/")).join(format!("{name}-{}.disk", drive.drive_id));
        if let Err(source) = copy_sparse(from, &to) {
            copies.iter().for_each(|copy| drop(fs::remove_file(&copy.path_on_host)));
            return Err(CliError::SnapshotDir { dir: to, what: "written", source });
        }
        copies.push(DriveOverride {
            drive_id: drive.drive_id.clone(),
            path_on_host: to,
            format: None,
            overlay: false,
        });
    }
    Ok(copies)
}

fn is_fork(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// Copies an image to a new file, sharing its blocks where the file system can; its holes stay
/// holes.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = File::options().create_new(true).read(true).write(true).open(to)?;
    let copied = match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(()),
        Err(_) => copy_data(&source, &target),
    };
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied
}

fn copy_data(source: &File, target: &File) -> io::Result<()> {
    let len = source.metadata()?.len();
    target.set_len(len)?;
    let mut buffer = vec![0; 1 << 20];
    let mut position = 0;
    while position < len {
        let start = match seek(source, SeekFrom::Data(position)) {
            Ok(start) => start,
            // Nothing but a hole follows.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(source, SeekFrom::Hole(start))?;
        position = start;
        while position < end {
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
            source.read_exact_at(&mut buffer[..wanted], position)?;
            target.write_all_at(&buffer[..wanted], position)?;
            position += wanted as u64;
        }
    }
    Ok(())
}
