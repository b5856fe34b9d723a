//! `vmctl snapshot`: what snapshots' files are, without any VM.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use snapshot::inspect::Verify;
use snapshot::merge::SnapshotPaths;

use crate::errors::CliError;
use crate::output;

/// Looks at snapshots, checks and merges them.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

/// A command of `vmctl snapshot`.
#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Shows what a snapshot is. The exit code is 1 if something stands against a restore here.
    Inspect(InspectArgs),
    /// Shows what a snapshot is after reading and checking all of it.
    Verify(InspectArgs),
    Merge(MergeArgs),
}

/// Which snapshot to look at.
#[derive(Debug, Args)]
struct InspectArgs {
    /// The snapshot's directory, or its state file.
    path: PathBuf,

    /// The memory file, if it's not `vm.mem` beside the state file.
    #[arg(long, value_name = "PATH")]
    memory: Option<PathBuf>,

    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Makes a full snapshot of one and a differential one that was taken after it.
#[derive(Debug, Args)]
struct MergeArgs {
    /// The full snapshot's directory.
    base: PathBuf,

    /// The differential snapshot's directory.
    diff: PathBuf,

    /// The directory that the merged one is written to, which is made.
    out: PathBuf,

    /// Reads and checks both memory files first.
    #[arg(long)]
    verify: bool,

    /// Prints the merged snapshot's header as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs a command; returns the exit code.
pub(crate) fn run(args: &SnapshotArgs) -> Result<u8, CliError> {
    match &args.command {
        SnapshotCommand::Inspect(args) => inspect(args, Verify::Quick),
        SnapshotCommand::Verify(args) => inspect(args, Verify::Content),
        SnapshotCommand::Merge(args) => merge(args),
    }
}

fn inspect(args: &InspectArgs, verify: Verify) -> Result<u8, CliError> {
    let (state, beside) = files(&args.path);
    let memory = args.memory.clone().or_else(|| Some(beside).filter(|path| path.exists()));
    let report = snapshot::inspect(&state, memory.as_deref(), verify)
        .map_err(|error| CliError::Snapshot(Box::new(error)))?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&format!("{report}\n"))?;
    }
    Ok(if report.problems.is_empty() { api::exit::STOPPED } else { api::exit::FAILURE })
}

fn paths((state, memory): &(PathBuf, PathBuf)) -> SnapshotPaths<'_> {
    SnapshotPaths { state, memory }
}

fn merge(args: &MergeArgs) -> Result<u8, CliError> {
    std::fs::create_dir_all(&args.out).map_err(|source| CliError::SnapshotDir {
        dir: args.out.clone(),
        what: "made",
        source,
    })?;
    let [base, diff] = [&args.base, &args.diff].map(|dir| files(dir));
    let out = (args.out.join("vm.state"), args.out.join("vm.mem"));
    let header = snapshot::merge(paths(&base), paths(&diff), paths(&out), args.verify)
        .map_err(|error| CliError::Snapshot(Box::new(error)))?;
    let config = std::fs::copy(args.diff.join("config.json"), args.out.join("config.json"));
    if let Err(error) = config {
        log::warn!("the configuration isn't copied: {error}");
    }
    if args.json {
        output::print_json(&header)?;
    } else {
        output::print(&format!("{}\n", args.out.display()))?;
    }
    Ok(api::exit::STOPPED)
}

/// The state file and the memory file of a directory, or of a state file.
fn files(path: &Path) -> (PathBuf, PathBuf) {
    if path.is_dir() {
        (path.join("vm.state"), path.join("vm.mem"))
    } else {
        (path.to_owned(), path.with_file_name("vm.mem"))
    }
}
