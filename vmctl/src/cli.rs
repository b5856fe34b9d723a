//! The command line as a whole; each command's own flags are with the command.

use clap::{ArgAction, Parser, Subcommand};
use log::LevelFilter;

use crate::commands::boot::BootArgs;
use crate::commands::doctor::DoctorArgs;

/// Boots virtual machines with KVM.
#[derive(Debug, Parser)]
#[command(name = "vmctl", version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Says more on standard error: -v what happens, -vv for debugging, -vvv everything.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

/// A command of `vmctl`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Boots a guest kernel as a virtual machine and connects this terminal to its console.
    Boot(Box<BootArgs>),
    /// Shows what this host can do, and what to do about what it can't.
    Doctor(DoctorArgs),
}

impl Cli {
    /// How much to log, here and in the processes that are started.
    pub(crate) fn log_level(&self) -> LevelFilter {
        match self.verbose {
            0 => LevelFilter::Warn,
            1 => LevelFilter::Info,
            2 => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        }
    }
}
