//! `vmctl start|attach`.

use clap::{ArgAction, Args};
use runtime::{AttachOptions, Engine};

use super::for_each;
use super::run::Keys;
use super::session::Connection;
use super::values::keys;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::output;

/// Start one or more stopped containers.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct StartArgs {
    /// Attach STDOUT/STDERR and forward signals.
    #[arg(long, short)]
    attach: bool,

    /// Attach container's STDIN.
    #[arg(long, short)]
    interactive: bool,

    /// Override the key sequence for detaching a container.
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT, value_parser = Keys::parse)]
    detach_keys: Keys,

    /// The containers; one to attach to.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Attach local standard input, output, and error streams to a running container.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct AttachArgs {
    /// Do not attach STDIN.
    #[arg(long)]
    no_stdin: bool,

    /// Proxy all received signals to the process.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    sig_proxy: bool,

    /// Override the key sequence for detaching a container.
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT, value_parser = Keys::parse)]
    detach_keys: Keys,

    /// The container.
    container: String,
}

pub(super) fn start(engine: &Engine, args: &StartArgs) -> Result<u8, CliError> {
    if args.attach || args.interactive {
        return start_attached(engine, args);
    }
    for_each(&args.containers, |name| {
        engine.start(name, None).map_err(ContainerError::from)?;
        output::print(&format!("{name}\n"))
    })
}

fn start_attached(engine: &Engine, args: &StartArgs) -> Result<u8, CliError> {
    let [name] = args.containers.as_slice() else {
        return Err(ContainerError::options(
            "you cannot start and attach multiple containers at once",
        )
        .into());
    };
    let (record, _) = engine.find(name).map_err(ContainerError::from)?;
    let connection = Connection {
        tty: record.config.tty,
        stdin: args.interactive && record.config.open_stdin,
        stdout: true,
        stderr: true,
        sig_proxy: true,
        detach_keys: args.detach_keys.0.clone(),
    };
    connection.check()?;
    let session = engine.start(name, Some(options(&connection))).map_err(ContainerError::from)?;
    match session {
        Some(session) => connection.relay(session),
        None => Ok(api::exit::STOPPED),
    }
}

pub(super) fn attach(engine: &Engine, args: &AttachArgs) -> Result<u8, CliError> {
    let (record, _) = engine.find(&args.container).map_err(ContainerError::from)?;
    let connection = Connection {
        tty: record.config.tty,
        stdin: !args.no_stdin && record.config.open_stdin,
        stdout: true,
        stderr: true,
        sig_proxy: args.sig_proxy,
        detach_keys: args.detach_keys.0.clone(),
    };
    connection.check()?;
    let session = engine.attach(&record.id, options(&connection)).map_err(ContainerError::from)?;
    connection.relay(session)
}

fn options(connection: &Connection) -> AttachOptions {
    AttachOptions {
        stdin: connection.stdin,
        stdout: connection.stdout,
        stderr: connection.stderr,
        size: connection.size(),
    }
}
