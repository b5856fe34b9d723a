//! What a newcomer and CI call: demo, test, lab, kernel, bench.

mod cache;
mod cpio;
mod dirs;
mod lab;
mod packages;
mod process;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

/// The project's own tasks, run as `cargo xtask TASK`.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Run a command in an emulated machine in which KVM can run Linux.
    Lab(lab::Args),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Lab(args) => lab::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
