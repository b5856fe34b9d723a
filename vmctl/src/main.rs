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
    let level = cli.log_level();
    let result = match &cli.command {
        Command::Shared(command) => commands::container::run(command, level),
        Command::Ps(args) => commands::container::ps(args, level),
        Command::Images(command) => commands::image::run(command, level),
        Command::ListImages(args) => commands::image::images(args, level),
        Command::Rmi(args) => commands::image::rmi(args, level),
        Command::Build(args) => commands::build::run(args, level),
        Command::Login(args) => commands::image::login(args, level),
        Command::Logout(args) => commands::image::logout(args, level),
        Command::Inspect(args) => commands::inspect::run(args, level),
        Command::System(command) => commands::system::run(command, level),
        Command::Version(args) => commands::system::version(args),
        Command::Container(args) => commands::container::run_group(args, level),
        Command::Image(args) => commands::image::run_group(args, level),
        Command::Network(args) => commands::network::run(args, level),
        Command::Volume(args) => commands::volume::run(args, level),
        Command::SystemGroup(args) => commands::system::run_group(args, level),
        Command::Supervise(args) => commands::container::supervise(args),
        Command::Boot(args) => commands::boot::run(args, level, started_ns),
        Command::Vm(args) => commands::vm::run(args, level),
        Command::Clone(args) => commands::vm::run_clone(args, level),
        Command::Snapshot(args) => commands::snapshot::run(args),
        Command::Compare(args) => commands::compare::run(args, level),
        Command::Bench(args) => commands::bench::run(args, level),
        Command::Completion(args) => commands::generate::completion(args),
        Command::Man(args) => commands::generate::man(args),
        Command::Lab(args) => commands::lab::run(args, level),
        Command::Doctor(args) => commands::doctor::run(args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => errors::report(&error),
    }
}
