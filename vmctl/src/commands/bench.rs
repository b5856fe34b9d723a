//! `vmctl bench`.

use clap::{Args, Subcommand};
use compare::model::{WayId, Workload};
use compare::report::distribution::distributions;
use log::LevelFilter;

use crate::commands::compare::{HowArgs, Target, code, is_unicode, measure};
use crate::errors::CliError;
use crate::output;

/// Measure this program by itself.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Boot(BootArgs),
}

/// Measure how starts are spread, over hundreds of them: quantiles and histograms.
#[derive(Debug, Args)]
struct BootArgs {
    /// The image.
    image: String,

    /// The command in place of the image's.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,

    #[command(flatten)]
    how: HowArgs,

    /// Print all samples as JSON, in the format of `vmctl compare --json`.
    #[arg(long)]
    json: bool,

    /// Suppress the progress.
    #[arg(long, short)]
    quiet: bool,
}

/// How many starts are measured unless said.
const RUNS: u32 = 200;

pub(crate) fn run(args: &BenchArgs, level: LevelFilter) -> Result<u8, CliError> {
    let BenchCommand::Boot(args) = &args.command;
    let target = Target {
        image: &args.image,
        command: &args.command,
        how: &args.how,
        ways: args.how.ways_or(&[WayId::MicrovmCold, WayId::MicrovmWarm]),
        runs: args.how.runs_or(RUNS),
        workloads: vec![Workload::Start],
        // A start is a start, and one at a time.
        scale: 1.0,
        most: 1,
        quiet: args.quiet,
    };
    let report = measure(&target, level)?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&distributions(&report, is_unicode()))?;
    }
    Ok(code(&report))
}
