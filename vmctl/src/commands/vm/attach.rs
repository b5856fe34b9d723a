//! `vmctl vm attach|detach`: devices of a VM that runs.

use api::config::FilesystemSpec;
use clap::Args;
use serde_json::json;

use super::{connect, refused};
use crate::commands::boot::devices::{DiskArg, NetArg, ShareArg};
use crate::errors::CliError;
use crate::output;
use crate::registry::Registry;

/// Adds a disk, a network interface or shared directories to a VM while it runs; the guest sees it at
/// once.
#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// The VM.
    name: String,

    /// A block device, with the options of `vmctl boot --disk`.
    #[arg(
        long,
        value_name = "PATH[,OPTION...]",
        required_unless_present_any = ["net", "shares"],
        conflicts_with_all = ["net", "shares"]
    )]
    disk: Option<DiskArg>,

    /// A network interface on an existing TAP, with the options of `vmctl boot --net`.
    #[arg(long, value_name = "tap=NAME[,OPTION...]", conflicts_with = "shares")]
    net: Option<NetArg>,

    /// A directory, as for `vmctl boot --share`; may be given several times. The guest mounts all
    /// of them by the name that's printed.
    #[arg(long = "share", value_name = "[NAME=]DIR[:ro]")]
    shares: Vec<ShareArg>,

    /// Prints the device as JSON.
    #[arg(long)]
    json: bool,
}

/// Takes a disk, a network interface or shared directories away from a VM, once its guest has let go of it.
#[derive(Debug, Args)]
pub(super) struct DetachArgs {
    /// The VM.
    name: String,

    /// The device, as `vmctl vm attach` printed it.
    id: String,

    /// Prints the device as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn attach(registry: &Registry, args: &AttachArgs) -> Result<u8, CliError> {
    let entry = registry.find(&args.name)?;
    let mut api = connect(&entry)?;
    let config = api.config().map_err(refused(&entry))?;
    let taken: Vec<_> = config
        .drives
        .iter()
        .map(|drive| drive.drive_id.clone())
        .chain(config.network_interfaces.iter().map(|net| net.iface_id.clone()))
        .chain(config.filesystems.iter().map(|filesystem| filesystem.fs_id.clone()))
        .collect();
    let id = if let Some(disk) = &args.disk {
        let mut spec = disk.spec.clone();
        name(&mut spec.drive_id, "disk", &taken);
        // The VMM has another working directory.
        spec.path_on_host =
            spec.path_on_host.map(|path| std::path::absolute(&path).unwrap_or(path));
        api.attach_drive(&spec).map_err(refused(&entry))?;
        spec.drive_id
    } else if !args.shares.is_empty() {
        let mut spec = filesystem(&args.shares);
        name(&mut spec.fs_id, "shares", &taken);
        api.attach_filesystem(&spec).map_err(refused(&entry))?;
        spec.fs_id
    } else {
        let mut spec = args.net.as_ref().map(|net| net.spec.clone()).unwrap_or_default();
        name(&mut spec.iface_id, "net", &taken);
        api.attach_net(&spec).map_err(refused(&entry))?;
        spec.iface_id
    };
    say(&id, "attached", args.json)
}

fn filesystem(shares: &[ShareArg]) -> FilesystemSpec {
    let mut spec = FilesystemSpec::default();
    for share in shares {
        let mut share = share.spec.clone();
        share.path = std::path::absolute(&share.path).unwrap_or(share.path);
        spec.shares.push(share);
    }
    spec
}

/// Gives a device that has no name the first of `disk0`, `disk1`, … that's free.
fn name(id: &mut String, prefix: &str, taken: &[String]) {
    if id.is_empty() {
        let mut names = (0..).map(|number| format!("{prefix}{number}"));
        *id = names.find(|name| !taken.contains(name)).unwrap_or_default();
    }
}

pub(super) fn detach(registry: &Registry, args: &DetachArgs) -> Result<u8, CliError> {
    let entry = registry.find(&args.name)?;
    let mut api = connect(&entry)?;
    let config = api.config().map_err(refused(&entry))?;
    let done = if config.drives.iter().any(|drive| drive.drive_id == args.id) {
        api.detach_drive(&args.id)
    } else if config.network_interfaces.iter().any(|net| net.iface_id == args.id) {
        api.detach_net(&args.id)
    } else if config.filesystems.iter().any(|filesystem| filesystem.fs_id == args.id) {
        api.detach_filesystem(&args.id)
    } else {
        let drives = config.drives.iter().map(|drive| drive.drive_id.as_str());
        let nets = config.network_interfaces.iter().map(|net| net.iface_id.as_str());
        let filesystems = config.filesystems.iter().map(|filesystem| filesystem.fs_id.as_str());
        return Err(CliError::NoDevice {
            name: entry.record.name,
            id: args.id.clone(),
            known: drives.chain(nets).chain(filesystems).collect::<Vec<_>>().join(", "),
        });
    };
    done.map_err(refused(&entry))?;
    say(&args.id, "detached", args.json)
}

fn say(id: &str, what: &str, as_json: bool) -> Result<u8, CliError> {
    if as_json {
        output::print_line(&json!({ "id": id }), &json!({ what: true }))?;
    } else {
        output::print(&format!("{id}\n"))?;
    }
    Ok(api::exit::STOPPED)
}
