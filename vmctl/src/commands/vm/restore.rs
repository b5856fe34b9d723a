//! `vmctl vm restore`: a VM out of a snapshot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::config::{ConsoleMode, VmSpec};
use api::event::Event;
use api::http::ClientError;
use api::v1::{
    ConsoleOverride, DriveOverride, LoadSnapshotParams, MemoryBackend, MemoryBackendType,
    NetworkOverride, VsockOverride,
};
use clap::{Args, ValueEnum};
use log::LevelFilter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::snapshot::SnapshotDir;
use crate::commands::boot::detached::{Started, wait_until_up};
use crate::commands::boot::supervise::{Signals, take_signals};
use crate::errors::CliError;
use crate::output;
use crate::registry::{Draft, Entry, Origin, Registry};
use crate::vm::Connection;
use crate::vmm_process::{Launch, Tie, VmmProcess};

/// How long a VMM has to listen on its API's socket once its process has started.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);

/// How often a socket that's about to listen is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// How long the guest has to power off at SIGTERM, in seconds.
const SHUTDOWN_TIMEOUT_S: u32 = 30;

/// Brings a VM back that `vmctl vm snapshot` or `vmctl vm fork` saved, and leaves it to itself.
///
/// Prints its identifier. Its console is a socket, for `vmctl vm console`.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The snapshot's directory.
    dir: PathBuf,

    /// The VM's name; one is made up unless given.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// A TAP in place of the one that an interface had; may be given several times.
    #[arg(long = "net", value_name = "ID=TAP", value_parser = pair)]
    nets: Vec<(String, String)>,

    /// An image in place of the one that a drive had; may be given several times.
    #[arg(long = "disk", value_name = "ID=PATH", value_parser = pair)]
    disks: Vec<(String, String)>,

    /// A Unix socket in place of the one on which the guest's ports were reached.
    #[arg(long, value_name = "PATH")]
    vsock: Option<PathBuf>,

    /// Leaves the VM paused.
    #[arg(long)]
    paused: bool,

    /// Gets memory page by page, as the guest touches it, from a page fault handler that listens on
    /// this Unix socket.
    #[arg(long, value_name = "SOCKET")]
    uffd: Option<PathBuf>,

    /// Reads the memory that this working set names before the VM goes on.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["uffd", "record_working_set"])]
    working_set: Option<PathBuf>,

    /// Notes in a file which memory the guest touches, in which order, until the VM ends or is
    /// paused; `--working-set` takes it.
    #[arg(long, value_name = "FILE", conflicts_with = "uffd")]
    record_working_set: Option<PathBuf>,

    /// Whether the guest's clocks advance by the time since the snapshot, or continue from there.
    #[arg(long, value_name = "HOW", default_value = "advance")]
    clock: Clock,

    /// Logs which pages are written from the start, as `vmctl vm snapshot --diff` needs.
    #[arg(long)]
    track_dirty_pages: bool,

    /// Prints the VM as JSON.
    #[arg(long)]
    json: bool,
}

/// What a restored guest's clocks do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Clock {
    /// They say what time it is now.
    Advance,
    /// They go on from the snapshot, as if no time had passed.
    Continue,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((id, value)) if !id.is_empty() && !value.is_empty() => {
            Ok((id.to_owned(), value.to_owned()))
        }
        _ => Err("expected ID=VALUE".to_owned()),
    }
}

pub(super) fn run(
    registry: &Registry,
    args: &RestoreArgs,
    level: LevelFilter,
) -> Result<u8, CliError> {
    let dir = SnapshotDir::new(&args.dir);
    let config = dir.read_config()?;
    let mut params = load_params(&dir);
    if let Some(socket) = &args.uffd {
        let backend_path = absolute(socket);
        params.mem_backend = MemoryBackend { backend_type: MemoryBackendType::Uffd, backend_path };
    }
    params.resume_vm = !args.paused;
    params.track_dirty_pages = args.track_dirty_pages;
    params.working_set_path = args.working_set.as_deref().map(absolute);
    params.record_working_set_path = args.record_working_set.as_deref().map(absolute);
    params.clock_realtime = (args.clock == Clock::Continue).then_some(false);
    params.vsock_override =
        args.vsock.as_ref().map(|path| VsockOverride { uds_path: absolute(path) });
    let net = |(id, tap): &(String, String)| NetworkOverride {
        iface_id: id.clone(),
        host_dev_name: tap.clone(),
        socket: None,
    };
    params.network_overrides = args.nets.iter().map(net).collect();
    let disk = |(id, path): &(String, String)| DriveOverride {
        drive_id: id.clone(),
        path_on_host: absolute(Path::new(path)),
        format: None,
        concat: None,
        overlay: false,
    };
    params.drive_overrides = args.disks.iter().map(disk).collect();
    let origin = Origin::Restore { snapshot: dir.dir.clone() };
    let draft = Draft { name: args.name.clone(), origin, foreground: false, api_socket: None };
    let entry = start(registry, draft, config, params, &[], level)?;
    say(&entry, args.json)
}

/// Prints a VM that was started.
pub(super) fn say(entry: &Entry, as_json: bool) -> Result<u8, CliError> {
    let record = &entry.record;
    if as_json {
        let line = serde_json::json!({ "id": record.id, "name": record.name });
        output::print_line(&line, &entry.status())?;
    } else {
        output::print(&format!("{}\n", record.id))?;
    }
    Ok(api::exit::STOPPED)
}

/// Loads what's in `dir`, changing nothing.
pub(super) fn load_params(dir: &SnapshotDir) -> LoadSnapshotParams {
    let memory =
        MemoryBackend { backend_type: MemoryBackendType::File, backend_path: dir.memory() };
    LoadSnapshotParams::new(dir.state(), memory)
}

/// Starts a VMM that loads a snapshot, and enters it. `config` is the snapshot's; what `params`
/// changes of it is changed here too. Of the files in `made`, and of the overlays that the VMM makes,
/// the VM owns those that it needs.
///
/// # Errors
/// The VMM can't be started or refuses the snapshot; nothing is left of it then.
pub(super) fn start(
    registry: &Registry,
    draft: Draft,
    mut config: VmSpec,
    mut params: LoadSnapshotParams,
    made: &[PathBuf],
    level: LevelFilter,
) -> Result<Entry, CliError> {
    let mut reservation = registry.reserve(draft)?;
    let console = reservation.entry.dir.join("console.sock");
    let has_console =
        config.console.as_ref().is_none_or(|console| console.mode != ConsoleMode::None);
    if has_console {
        let path = Some(console.clone());
        params.console_override = Some(ConsoleOverride { mode: ConsoleMode::Socket, path });
    }
    apply(&mut config, &params);
    let load = || {
        let entry = &mut reservation.entry;
        entry.set_config(config, has_console.then_some(console.as_path()))?;
        let mut signals = take_signals()?;
        let tie = Tie::Detached;
        let shutdown_timeout_s = SHUTDOWN_TIMEOUT_S;
        let mut vmm =
            VmmProcess::start(&Launch { entry, config: None, tie, shutdown_timeout_s, level })?;
        entry.set_process(vmm.pid())?;
        let mut api = connect(entry, &mut vmm, &mut signals)?;
        api.load_snapshot(&params).map_err(super::refused(entry))?;
        own(entry, &mut api, &params, made)?;
        vmm.release();
        Ok(())
    };
    match load() {
        Ok(()) => Ok(reservation.publish()),
        Err(error) => {
            reservation.withdraw();
            Err(error)
        }
    }
}

/// Enters what a VM out of a snapshot is made of.
///
/// # Errors
/// The VMM doesn't say, or it can't be written. Then the overlays are gone.
fn own(
    entry: &mut Entry,
    api: &mut Connection,
    params: &LoadSnapshotParams,
    made: &[PathBuf],
) -> Result<(), CliError> {
    let overlays = params.drive_overrides.iter().filter(|drive| drive.overlay);
    let overlays: Vec<_> = overlays.map(|drive| drive.path_on_host.clone()).collect();
    let candidates = [&overlays, made].concat();
    let config = api.config().map_err(super::refused(entry));
    let entered = config.and_then(|config| Ok(entry.set_owned(config, &candidates)?));
    if entered.is_err() {
        // These are this VM's, which the caller ends: the VMM would have refused others' files.
        overlays.iter().for_each(|overlay| drop(std::fs::remove_file(overlay)));
    }
    entered
}

/// Writes into a configuration what a snapshot is loaded with in place of it.
fn apply(config: &mut VmSpec, params: &LoadSnapshotParams) {
    for net in &mut config.network_interfaces {
        let change = params.network_overrides.iter().find(|change| change.iface_id == net.iface_id);
        if let Some(change) = change {
            net.host_dev_name.clone_from(&change.host_dev_name);
            net.socket.clone_from(&change.socket);
        }
    }
    for drive in &mut config.drives {
        let change = params.drive_overrides.iter().find(|change| change.drive_id == drive.drive_id);
        if let Some(change) = change {
            drive.path_on_host = Some(change.path_on_host.clone());
        }
    }
    if let (Some(vsock), Some(change)) = (&mut config.vsock, &params.vsock_override) {
        vsock.uds_path.clone_from(&change.uds_path);
    }
    if let Some(change) = &params.console_override {
        let console = config.console.get_or_insert_default();
        console.mode = change.mode;
        console.path.clone_from(&change.path);
    }
}

/// Connects to the API of a VMM that was just started.
fn connect(
    entry: &Entry,
    vmm: &mut VmmProcess,
    signals: &mut Signals,
) -> Result<Connection, CliError> {
    match wait_until_up(vmm, signals, |event| matches!(event, Event::ProcessStarted { .. }))? {
        Started::Yes => {}
        Started::Failed(failure) => {
            return Err(CliError::Vm { place: None, failure: Box::new(failure) });
        }
    }
    let deadline = std::time::Instant::now() + LISTEN_LIMIT;
    loop {
        match Connection::open(&entry.record.api_socket, super::ANSWER_LIMIT) {
            Err(ClientError::NoSocket { .. } | ClientError::Refused { .. })
                if std::time::Instant::now() < deadline => {}
            outcome => return outcome.map_err(super::refused(entry)),
        }
        // No event tells that a socket listens; the VMM's end is one.
        let timeout = Timespec::try_from(LOOK).ok();
        let ended =
            poll(&mut [PollFd::from_borrowed_fd(vmm.ended(), PollFlags::IN)], timeout.as_ref());
        if ended.is_ok_and(|ready| ready != 0) {
            // It says why on its status pipe.
            return match wait_until_up(vmm, signals, |_| false)? {
                Started::Failed(failure) => {
                    Err(CliError::Vm { place: None, failure: Box::new(failure) })
                }
                Started::Yes => Err(CliError::Interrupted),
            };
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
