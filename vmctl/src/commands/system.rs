//! What's there as a whole: `vmctl info|version|events|system`.

mod df;
mod events;
mod info;
mod prune;
mod version;

use clap::{Args, Subcommand};
use log::LevelFilter;

pub(crate) use self::version::{VersionArgs, version};
use super::container::engine;
use crate::errors::CliError;

/// Manage what's kept on this host.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

/// A command of `vmctl system`.
#[derive(Debug, Subcommand)]
enum GroupCommand {
    #[command(flatten)]
    Shared(SystemCommand),
    Df(df::DfArgs),
    Prune(prune::PruneArgs),
}

/// A command of `vmctl` itself and of `vmctl system`. Each is documented with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    Info(info::InfoArgs),
    Events(events::EventsArgs),
}

/// Runs a command of `vmctl system`; returns the exit code.
pub(crate) fn run_group(args: &GroupArgs, level: LevelFilter) -> Result<u8, CliError> {
    match &args.command {
        GroupCommand::Shared(command) => run(command, level),
        GroupCommand::Df(args) => df::run(&engine(level)?, args),
        GroupCommand::Prune(args) => prune::run(&engine(level)?, args),
    }
}

/// Runs a command; returns the exit code.
pub(crate) fn run(command: &SystemCommand, level: LevelFilter) -> Result<u8, CliError> {
    let engine = engine(level)?;
    match command {
        SystemCommand::Info(args) => info::run(&engine, args),
        SystemCommand::Events(args) => events::run(&engine, args),
    }
}
