//! `vmctl exec`.

use std::path::PathBuf;

use clap::Args;
use runtime::{Engine, ExecConfig};

use super::run::Keys;
use super::session::Connection;
use super::values::{env, keys};
use crate::errors::containers::ContainerError;
use crate::errors::{self, CliError};

/// Execute a command in a running container.
///
/// The command's exit code is this one's; 126 if it couldn't be executed, 127 if there's no such
/// command.
#[derive(Debug, Args)]
#[command(
    override_usage = "vmctl exec [OPTIONS] CONTAINER COMMAND [ARG...]",
    disable_version_flag = true
)]
pub(crate) struct ExecArgs {
    /// Detached mode: run command in the background.
    #[arg(long, short)]
    detach: bool,

    /// Keep STDIN open even if not attached.
    #[arg(long, short)]
    interactive: bool,

    /// Allocate a pseudo-TTY.
    #[arg(long, short)]
    tty: bool,

    /// Set environment variables: NAME=VALUE, or NAME for the host's value.
    #[arg(long, short, value_name = "VARIABLE", value_parser = env::variable)]
    env: Vec<env::Variable>,

    /// Read in a file of environment variables.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Working directory inside the container.
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,

    /// Username or UID: NAME|UID[:GROUP|GID].
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,

    /// Give extended privileges to the command.
    #[arg(long)]
    privileged: bool,

    /// Override the key sequence for detaching a container.
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT, value_parser = Keys::parse)]
    detach_keys: Keys,

    /// The container, and the command with its arguments.
    #[arg(required = true, trailing_var_arg = true, num_args = 2..,
        value_names = ["CONTAINER", "COMMAND"])]
    words: Vec<String>,
}

/// Runs a command. One that can't be started ends with 126 or 127, as a shell has it.
pub(super) fn run(engine: &Engine, args: &ExecArgs) -> Result<u8, CliError> {
    try_run(engine, args).or_else(|error| {
        errors::report(&error);
        Ok(match error.run_code() {
            code @ (126 | 127) => code,
            _ => api::exit::FAILURE,
        })
    })
}

fn try_run(engine: &Engine, args: &ExecArgs) -> Result<u8, CliError> {
    let (container, command) = args
        .words
        .split_first()
        .ok_or_else(|| ContainerError::options("requires a container and a command"))?;
    let connection = Connection {
        tty: args.tty,
        stdin: args.interactive && !args.detach,
        stdout: true,
        stderr: true,
        sig_proxy: false,
        detach_keys: args.detach_keys.0.clone(),
    };
    connection.check()?;
    let variables = env::variables(&args.env_file, &args.env).map_err(ContainerError::from)?;
    let config = ExecConfig {
        command: command.to_vec(),
        tty: args.tty,
        stdin: connection.stdin,
        user: args.user.clone(),
        // The container's own aren't taken away.
        env: variables
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", value?)))
            .collect(),
        working_dir: args.workdir.clone(),
        privileged: args.privileged,
        size: connection.size(),
        detach: args.detach,
    };
    let session = engine.exec(container, &config).map_err(ContainerError::from)?;
    if args.detach {
        return Ok(api::exit::STOPPED);
    }
    connection.relay(session)
}
