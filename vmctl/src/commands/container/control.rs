//! `vmctl stop|restart|kill|rm|wait|rename|pause|unpause` and `vmctl container prune`.

use clap::{ArgAction, Args};
use runtime::{Engine, Object, RuntimeError};

use super::values::{names, policy};
use super::{for_all, for_each};
use crate::commands::confirm;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::filters::Filters;
use crate::format::human;
use crate::output;

/// Stop one or more running containers.
///
/// Each gets its stop signal, and is killed if it hasn't ended in time.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    how: How,

    /// The containers.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Restart one or more containers.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    how: How,

    /// The containers.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// How containers are stopped.
#[derive(Debug, Args)]
struct How {
    /// Signal to send to the container.
    #[arg(long, short, value_name = "SIGNAL", value_parser = policy::signal)]
    signal: Option<i32>,

    /// Seconds to wait before killing the container; -1 to wait for ever.
    #[arg(
        long,
        short = 't',
        alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    time: Option<i32>,
}

/// Kill one or more running containers.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct KillArgs {
    /// Signal to send to the container.
    #[arg(long, short, value_name = "SIGNAL", default_value = "KILL", value_parser = policy::signal)]
    signal: i32,

    /// The containers.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Remove one or more containers.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct RmArgs {
    /// Force the removal of a running container (uses SIGKILL).
    #[arg(long, short)]
    force: bool,

    /// Remove anonymous volumes associated with the container.
    #[arg(long, short)]
    volumes: bool,

    /// The containers.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,

    /// Says more on standard error: once what happens, twice for debugging, three times everything.
    #[arg(id = "verbose", long = "verbose", global = true, action = ArgAction::Count)]
    _verbose: u8,
}

/// Block until one or more containers stop, then print their exit codes.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct WaitArgs {
    /// The containers.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Rename a container.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct RenameArgs {
    /// The container.
    container: String,

    /// Its new name.
    #[arg(value_parser = names::name)]
    new_name: String,
}

/// Pause all processes within one or more containers: their VMs stand still.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct PauseArgs {
    /// The containers.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Unpause all processes within one or more containers.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct UnpauseArgs {
    /// The containers.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Remove all stopped containers.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct PruneArgs {
    /// Do not prompt for confirmation.
    #[arg(long, short)]
    force: bool,

    /// Provide filter values: until=TIME, label=NAME[=VALUE].
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

pub(super) fn stop(engine: &Engine, args: &StopArgs) -> Result<u8, CliError> {
    let signal = args.how.signal.map(|number| number.to_string());
    for_all(&args.containers, |name| {
        engine.stop(name, signal.as_deref(), args.how.time).map_err(ContainerError::from)?;
        Ok(true)
    })
}

pub(super) fn restart(engine: &Engine, args: &RestartArgs) -> Result<u8, CliError> {
    let signal = args.how.signal.map(|number| number.to_string());
    for_all(&args.containers, |name| {
        engine.restart(name, signal.as_deref(), args.how.time).map_err(ContainerError::from)?;
        Ok(true)
    })
}

pub(super) fn kill(engine: &Engine, args: &KillArgs) -> Result<u8, CliError> {
    let signal = args.signal.to_string();
    for_all(&args.containers, |name| {
        engine.kill(name, Some(&signal)).map_err(ContainerError::from)?;
        Ok(true)
    })
}

pub(super) fn rm(engine: &Engine, args: &RmArgs) -> Result<u8, CliError> {
    for_all(&args.containers, |name| {
        match engine.remove(name, args.force, args.volumes) {
            // With force it's as wanted.
            Err(RuntimeError::NotFound { what: Object::Container, .. }) if args.force => Ok(false),
            result => Ok(result.map(|()| true).map_err(ContainerError::from)?),
        }
    })
}

pub(super) fn wait(engine: &Engine, args: &WaitArgs) -> Result<u8, CliError> {
    for_each(&args.containers, |name| {
        let code = engine.wait(name).map_err(ContainerError::from)?;
        output::print(&format!("{code}\n"))
    })
}

pub(super) fn rename(engine: &Engine, args: &RenameArgs) -> Result<u8, CliError> {
    engine.rename(&args.container, &args.new_name).map_err(ContainerError::from)?;
    Ok(api::exit::STOPPED)
}

pub(super) fn pause(engine: &Engine, args: &PauseArgs) -> Result<u8, CliError> {
    for_all(&args.containers, |name| {
        engine.pause(name).map_err(ContainerError::from)?;
        Ok(true)
    })
}

pub(super) fn unpause(engine: &Engine, args: &UnpauseArgs) -> Result<u8, CliError> {
    for_all(&args.containers, |name| {
        engine.unpause(name).map_err(ContainerError::from)?;
        Ok(true)
    })
}

pub(super) fn prune(engine: &Engine, args: &PruneArgs) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &["until", "label", "label!"])
        .map_err(ContainerError::from)?;
    if !args.force && !confirm("This will remove all stopped containers.")? {
        return Ok(api::exit::STOPPED);
    }
    let pruned = engine.prune(filters.values()).map_err(ContainerError::from)?;
    output::print(&pruned_text("Deleted Containers:", &pruned))?;
    Ok(api::exit::STOPPED)
}

/// What a prune has removed, as Docker says it.
pub(crate) fn pruned_text(title: &str, pruned: &runtime::Pruned) -> String {
    let mut text = String::new();
    if !pruned.removed.is_empty() {
        text = format!("{title}\n{}\n\n", pruned.removed.join("\n"));
    }
    text + &format!("Total reclaimed space: {}\n", human::size(pruned.freed_bytes))
}
