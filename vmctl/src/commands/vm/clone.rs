//! `vmctl clone`: several VMs out of one that runs, or out of a snapshot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::config::{DriveSpec, MacAddr, VmSpec};
use api::v1::{
    DriveOverride, LoadSnapshotParams, NetworkOverride, NewIdentity, NewMac, VsockOverride,
};
use clap::Args;
use log::LevelFilter;
use rustix::io::Errno;
use tempfile::TempDir;

use super::restore;
use super::snapshot::{SnapshotDir, fork_into};
use crate::errors::CliError;
use crate::registry::{Draft, Origin, Registry, numbered};

/// The first context identifier that's given to a clone.
const FIRST_CID: u32 = 1000;

/// Makes VMs out of one that runs on meanwhile, or out of a snapshot.
///
/// They share its memory and its disks' contents until they write to them, and have their own
/// Ethernet addresses, vsock identifiers and sockets. Each network interface needs a TAP of its own:
/// `--net eth0=tap%d` gives the first clone `tap1`.
///
/// What a clone writes to a disk is in an overlay, which goes with it at `vmctl vm rm`, unless a
/// snapshot or a fork of it was taken. The overlays of a VM's clones are in a hidden directory beside
/// its disk, those of a snapshot's in that snapshot's.
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

    /// A TAP for an interface; `%d` is replaced by the clone's number. May be given several times.
    #[arg(long = "net", value_name = "ID=TAP")]
    nets: Vec<String>,

    /// Leaves the clones paused.
    #[arg(long)]
    paused: bool,

    /// Prints each clone as a line of JSON.
    #[arg(long)]
    json: bool,
}

/// What clones are made of.
struct Source {
    dir: SnapshotDir,
    /// What they're named after.
    base: String,
    /// Files that go with the last clone that needs them; directories after what's in them.
    made: Vec<PathBuf>,
    /// The snapshot's directory, if it was made for the clones.
    fork: Option<TempDir>,
}

pub(super) fn clone(
    registry: &Registry,
    args: &CloneArgs,
    level: LevelFilter,
) -> Result<u8, CliError> {
    let mut source = source(registry, args)?;
    let outcome = clone_from(registry, args, level, &source);
    if let Some(fork) = source.fork.take()
        && registry.is_owned(fork.path())?
    {
        let dir = &source.dir;
        // The clones have them mapped; their disks' images stay where they are.
        [dir.state(), dir.memory(), dir.config()]
            .iter()
            .for_each(|path| drop(fs::remove_file(path)));
        let _ = fork.keep();
    }
    outcome
}

/// Finds the snapshot, or makes it of a VM.
fn source(registry: &Registry, args: &CloneArgs) -> Result<Source, CliError> {
    let path = Path::new(&args.source);
    if args.source.contains('/') || path.join("vm.state").is_file() {
        let dir = SnapshotDir::new(&fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
        let name = dir.dir.file_stem().map(|name| name.to_string_lossy().into_owned());
        let base = args.name.clone().or(name).unwrap_or_else(|| "clone".to_owned());
        return Ok(Source { dir, base, made: Vec::new(), fork: None });
    }
    let mut entry = registry.find(&args.source)?;
    let place = fs::canonicalize(place(&entry.record.config));
    let fork = place.and_then(|place| {
        tempfile::Builder::new()
            .prefix(&format!(".{}-clones-", entry.record.name))
            .tempdir_in(place)
    });
    let fork = fork.map_err(|source| CliError::System {
        what: "a directory for the clones can't be made",
        source,
    })?;
    let dir = SnapshotDir::new(fork.path());
    let report = fork_into(&mut entry, &dir)?;
    // The VM's own images among them are those of a clone.
    let mut made = entry.record.owned.clone();
    made.splice(0..0, report.drives.into_iter().map(|drive| drive.path_on_host));
    made.push(fork.path().to_owned());
    let base = args.name.clone().unwrap_or(entry.record.name);
    Ok(Source { dir, base, made, fork: Some(fork) })
}

/// Where the images of a VM's clones go: beside its own, where there is room, and where the file
/// system may share blocks.
fn place(config: &VmSpec) -> PathBuf {
    let writable = config.drives.iter().filter(|drive| drive.is_read_only != Some(true));
    let mut images = writable.filter_map(|drive| drive.path_on_host.as_deref());
    let image = images.find(|image| fs::metadata(image).is_ok_and(|metadata| metadata.is_file()));
    image.and_then(Path::parent).map_or_else(std::env::temp_dir, Path::to_owned)
}

fn clone_from(
    registry: &Registry,
    args: &CloneArgs,
    level: LevelFilter,
    source: &Source,
) -> Result<u8, CliError> {
    let config = source.dir.read_config()?;
    let (entries, _) = registry.scan()?;
    let taken: Vec<_> = entries.iter().map(|entry| entry.record.name.clone()).collect();
    let mut cids: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.record.config.vsock.as_ref().map(|vsock| vsock.guest_cid))
        .collect();
    let names =
        numbered(&source.base).filter(|name| !taken.contains(name)).take(args.count as usize);
    for (number, name) in (1_u32..).zip(names) {
        let mut params = restore::load_params(&source.dir);
        params.resume_vm = !args.paused;
        params.network_overrides = taps(&args.nets, number)?;
        set_identity(&config, &mut params, &mut cids, &name)?;
        params.drive_overrides = overlays(&config, &source.dir, &name);
        let origin = Origin::Clone { of: args.source.clone() };
        let draft = Draft { name: Some(name), origin, foreground: false, api_socket: None };
        let entry = restore::start(registry, draft, config.clone(), params, &source.made, level)?;
        restore::say(&entry, args.json)?;
    }
    Ok(api::exit::STOPPED)
}

/// Gives a clone images of its own over those that its guest may write.
fn overlays(config: &VmSpec, dir: &SnapshotDir, name: &str) -> Vec<DriveOverride> {
    let writable = config.drives.iter().filter(|drive| drive.is_read_only != Some(true));
    let overlay = |drive: &DriveSpec| DriveOverride {
        drive_id: drive.drive_id.clone(),
        path_on_host: dir.dir.join(format!("{name}-{}.qcow2", drive.drive_id)),
        format: None,
        concat: None,
        overlay: true,
    };
    writable.filter(|drive| drive.path_on_host.is_some()).map(overlay).collect()
}

fn taps(nets: &[String], number: u32) -> Result<Vec<NetworkOverride>, CliError> {
    let parse = |text: &String| {
        let (id, tap) = text.split_once('=').ok_or_else(|| CliError::BadValue {
            flag: "--net",
            value: text.clone(),
            problem: "expected ID=TAP",
        })?;
        let host_dev_name = tap.replace("%d", &number.to_string());
        Ok(NetworkOverride { iface_id: id.to_owned(), host_dev_name, socket: None })
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
