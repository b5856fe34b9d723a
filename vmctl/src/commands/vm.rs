//! `vmctl vm`: VMs that run, and those that have ended.

mod attach;
mod clone;
mod console;
mod control;
mod list;
mod restore;
mod snapshot;
mod streams;

use std::time::Duration;

use api::http::ClientError;
use clap::{Args, Subcommand};
use log::LevelFilter;

pub(crate) use self::clone::CloneArgs;
use crate::errors::CliError;
use crate::registry::status::Status;
use crate::registry::{Entry, Registry};
use crate::vm::Connection;

/// How long a VMM may take to answer what it can answer at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Shows and controls VMs.
///
/// A VM is named by its name, its identifier, or the beginning of that.
#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    command: VmCommand,
}

/// A command of `vmctl vm`. Each is documented with its arguments, unless several share these.
#[derive(Debug, Subcommand)]
enum VmCommand {
    #[command(visible_alias = "ps")]
    Ls(list::LsArgs),
    Inspect(list::InspectArgs),
    /// Makes VMs stand still: their vCPUs and their devices.
    Pause(control::ChangeArgs),
    /// Lets paused VMs go on.
    Resume(control::ChangeArgs),
    Stop(control::StopArgs),
    /// Ends VMs at once, whatever their guests do.
    Kill(control::ChangeArgs),
    Rm(list::RmArgs),
    Prune(list::PruneArgs),
    Snapshot(snapshot::SnapshotArgs),
    Restore(restore::RestoreArgs),
    Clone(CloneArgs),
    Fork(snapshot::ForkArgs),
    Attach(Box<attach::AttachArgs>),
    Detach(attach::DetachArgs),
    Console(console::ConsoleArgs),
    Metrics(streams::MetricsArgs),
    Events(streams::EventsArgs),
    Logs(streams::LogsArgs),
}

/// Runs a command; returns the exit code.
pub(crate) fn run(args: &VmArgs, level: LevelFilter) -> Result<u8, CliError> {
    let registry = Registry::open()?;
    match &args.command {
        VmCommand::Ls(args) => list::ls(&registry, args),
        VmCommand::Inspect(args) => list::inspect(&registry, args),
        VmCommand::Pause(args) => control::pause(&registry, args),
        VmCommand::Resume(args) => control::resume(&registry, args),
        VmCommand::Stop(args) => control::stop(&registry, args),
        VmCommand::Kill(args) => control::kill(&registry, args),
        VmCommand::Rm(args) => list::rm(&registry, args),
        VmCommand::Prune(args) => list::prune(&registry, args),
        VmCommand::Snapshot(args) => snapshot::snapshot(&registry, args),
        VmCommand::Restore(args) => restore::run(&registry, args, level),
        VmCommand::Clone(args) => clone::clone(&registry, args, level),
        VmCommand::Fork(args) => snapshot::fork(&registry, args),
        VmCommand::Attach(args) => attach::attach(&registry, args),
        VmCommand::Detach(args) => attach::detach(&registry, args),
        VmCommand::Console(args) => console::run(&registry, args),
        VmCommand::Metrics(args) => streams::metrics(&registry, args),
        VmCommand::Events(args) => streams::events(&registry, args),
        VmCommand::Logs(args) => streams::logs(&registry, args),
    }
}

/// Runs `vmctl clone`.
pub(crate) fn run_clone(args: &CloneArgs, level: LevelFilter) -> Result<u8, CliError> {
    clone::clone(&Registry::open()?, args, level)
}

/// Connects to a VM's API.
///
/// # Errors
/// Its VMM is gone, or doesn't answer.
fn connect(entry: &Entry) -> Result<Connection, CliError> {
    if entry.process().is_none() && !entry.is_starting() {
        return Err(not_running(entry));
    }
    Connection::open(&entry.record.api_socket, ANSWER_LIMIT).map_err(refused(entry))
}

/// Says that a VM isn't as it must be for the command, and how it fares.
fn not_running(entry: &Entry) -> CliError {
    let status = Box::new(entry.status());
    CliError::NotRunning { name: entry.record.name.clone(), status }
}

/// Says which VM didn't do what it was asked for.
fn refused(entry: &Entry) -> impl FnOnce(ClientError) -> CliError {
    let name = entry.record.name.clone();
    move |error| CliError::Request { name, error }
}

/// Whether a VM stands still.
///
/// # Errors
/// It has ended, or isn't as far.
fn is_paused(entry: &Entry) -> Result<bool, CliError> {
    match entry.status() {
        Status::Running => Ok(false),
        Status::Paused => Ok(true),
        status => {
            let (name, status) = (entry.record.name.clone(), Box::new(status));
            Err(CliError::NotRunning { name, status })
        }
    }
}
