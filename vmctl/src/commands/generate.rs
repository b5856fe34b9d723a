//! `vmctl completion` and `vmctl man`: what shells and `man` are told of this command line.

#[cfg(test)]
mod docs;

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::errors::CliError;
use crate::output;

/// Prints a script that has a shell complete this command's words.
///
/// For bash: `vmctl completion bash >~/.local/share/bash-completion/completions/vmctl`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell.
    shell: Shell,
}

/// Writes a manual page for each command.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The directory, which is made.
    dir: PathBuf,
}

/// Prints the script.
pub(crate) fn completion(args: &CompletionArgs) -> Result<u8, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vmctl", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(api::exit::STOPPED)
}

/// Writes the pages.
pub(crate) fn man(args: &ManArgs) -> Result<u8, CliError> {
    let failed = |source| CliError::SnapshotDir { dir: args.dir.clone(), what: "written", source };
    fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed)?;
    Ok(api::exit::STOPPED)
}
