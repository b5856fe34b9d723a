//! Boots virtual machines and runs containers as virtual machines, from the command line.

mod cli;
mod clock;
mod commands;
mod errors;
mod format;
mod kernel_cache;
mod options;
mod output;
mod registry;
mod size;
mod terminal;
mod vm;
mod vmm_process;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let started_ns = clock::monotonic_ns();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return errors::report_usage(&error),
    };
    env_logger::Builder::new().filter_level(cli.log_level()).init();
    let result = match &cli.command {
        Command::Shared(command) => commands::container::run(command, cli.log_level()),
        Command::Ps(args) => commands::container::ps(args, cli.log_level()),
        Command::Inspect(args) => commands::inspect::run(args, cli.log_level()),
        Command::Container(args) => commands::container::run_group(args, cli.log_level()),
        Command::Supervise(args) => commands::container::supervise(args),
        Command::Boot(args) => commands::boot::run(args, cli.log_level(), started_ns),
        Command::Vm(args) => commands::vm::run(args, cli.log_level()),
        Command::Clone(args) => commands::vm::run_clone(args, cli.log_level()),
        Command::Snapshot(args) => commands::snapshot::run(args),
        Command::Completion(args) => commands::generate::completion(args),
        Command::Man(args) => commands::generate::man(args),
        Command::Doctor(args) => commands::doctor::run(args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => errors::report(&error),
    }
}
