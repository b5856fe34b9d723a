//! Containers, each as a virtual machine of its own: Docker's commands, by its names and with its
//! flags.

mod attach;
mod commit;
mod control;
mod copy;
mod exec;
mod flags;
mod inspect;
mod logs;
mod ls;
mod observe;
mod run;
mod session;
mod stats;
mod supervise;
pub(crate) mod values;

use std::ffi::OsString;

use clap::{Args, Subcommand};
use log::LevelFilter;
use runtime::{Engine, EngineOptions};

pub(crate) use self::control::pruned_text;
pub(crate) use self::flags::Pull;
pub(crate) use self::inspect::container_value;
pub(crate) use self::ls::LsArgs as PsArgs;
pub(crate) use self::supervise::{SuperviseArgs, supervise};
use crate::errors::containers::ContainerError;
use crate::errors::{self, CliError};
use crate::output;

/// The command that stays with a container.
pub(crate) const SUPERVISE: &str = "supervise-container";

/// Manage containers.
///
/// A container is named by its name, its identifier, or the beginning of that.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

/// A command of `vmctl container`.
#[derive(Debug, Subcommand)]
enum GroupCommand {
    #[command(flatten)]
    Shared(Box<ContainerCommand>),
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ls::LsArgs),
    Inspect(inspect::InspectArgs),
    Prune(control::PruneArgs),
}

/// A command of `vmctl` itself and of `vmctl container`. Each is documented with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    Run(Box<run::RunArgs>),
    Create(Box<run::CreateArgs>),
    Start(attach::StartArgs),
    Stop(control::StopArgs),
    Restart(control::RestartArgs),
    Kill(control::KillArgs),
    Rm(control::RmArgs),
    Logs(logs::LogsArgs),
    Exec(exec::ExecArgs),
    Attach(attach::AttachArgs),
    Wait(control::WaitArgs),
    Top(observe::TopArgs),
    Stats(stats::StatsArgs),
    Port(observe::PortArgs),
    Rename(control::RenameArgs),
    Pause(control::PauseArgs),
    Unpause(control::UnpauseArgs),
    Diff(observe::DiffArgs),
    Commit(commit::CommitArgs),
    Cp(copy::CpArgs),
}

/// Runs a command of `vmctl container`; returns the exit code.
pub(crate) fn run_group(args: &GroupArgs, level: LevelFilter) -> Result<u8, CliError> {
    match &args.command {
        GroupCommand::Shared(command) => run(command, level),
        GroupCommand::Ls(args) => ps(args, level),
        GroupCommand::Inspect(args) => inspect::run(&engine(level)?, args),
        GroupCommand::Prune(args) => control::prune(&engine(level)?, args),
    }
}

/// Runs `vmctl ps`.
pub(crate) fn ps(args: &PsArgs, level: LevelFilter) -> Result<u8, CliError> {
    ls::run(&engine(level)?, args)
}

/// Runs a command; returns the exit code.
pub(crate) fn run(command: &ContainerCommand, level: LevelFilter) -> Result<u8, CliError> {
    let engine = engine(level)?;
    match command {
        ContainerCommand::Run(args) => run::run(&engine, args),
        ContainerCommand::Create(args) => run::create(&engine, args),
        ContainerCommand::Start(args) => attach::start(&engine, args),
        ContainerCommand::Stop(args) => control::stop(&engine, args),
        ContainerCommand::Restart(args) => control::restart(&engine, args),
        ContainerCommand::Kill(args) => control::kill(&engine, args),
        ContainerCommand::Rm(args) => control::rm(&engine, args),
        ContainerCommand::Logs(args) => logs::run(&engine, args),
        ContainerCommand::Exec(args) => exec::run(&engine, args),
        ContainerCommand::Attach(args) => attach::attach(&engine, args),
        ContainerCommand::Wait(args) => control::wait(&engine, args),
        ContainerCommand::Top(args) => observe::top(&engine, args),
        ContainerCommand::Stats(args) => stats::run(&engine, args),
        ContainerCommand::Port(args) => observe::port(&engine, args),
        ContainerCommand::Rename(args) => control::rename(&engine, args),
        ContainerCommand::Pause(args) => control::pause(&engine, args),
        ContainerCommand::Unpause(args) => control::unpause(&engine, args),
        ContainerCommand::Diff(args) => observe::diff(&engine, args),
        ContainerCommand::Commit(args) => commit::run(&engine, args),
        ContainerCommand::Cp(args) => copy::run(&engine, args),
    }
}

/// The containers of this user. What supervises them logs as much as this process.
pub(crate) fn engine(level: LevelFilter) -> Result<Engine, CliError> {
    let program = std::env::current_exe()
        .map_err(|source| CliError::System { what: "this program can't be found", source })?;
    let mut supervisor = vec![program.into_os_string()];
    supervisor.extend(match level {
        LevelFilter::Info => Some(OsString::from("-v")),
        LevelFilter::Debug => Some(OsString::from("-vv")),
        LevelFilter::Trace => Some(OsString::from("-vvv")),
        _ => None,
    });
    supervisor.push(OsString::from(SUPERVISE));
    let options = EngineOptions { supervisor: Some(supervisor), ..EngineOptions::default() };
    Ok(Engine::open(options).map_err(ContainerError::from)?)
}

/// Does something with each of several, and says of each what became of it: one that fails doesn't
/// keep the others from being tried.
pub(crate) fn for_each<T: AsRef<str>>(
    names: &[T],
    mut act: impl FnMut(&str) -> Result<(), CliError>,
) -> Result<u8, CliError> {
    let mut code = api::exit::STOPPED;
    for name in names {
        if let Err(error) = act(name.as_ref()) {
            errors::report(&error);
            code = api::exit::FAILURE;
        }
    }
    Ok(code)
}

/// How many containers something is done with at a time.
const AT_ONCE: usize = 50;

/// Does something with each of several, many at a time, and prints in their order the names of those
/// that it was done to; `act` says whether it was. One that fails doesn't keep the others from being
/// tried.
pub(crate) fn for_all(
    names: &[String],
    act: impl Fn(&str) -> Result<bool, CliError> + Sync,
) -> Result<u8, CliError> {
    let mut code = api::exit::STOPPED;
    for names in names.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let act = &act;
            let acts: Vec<_> =
                names.iter().map(|name| (name, scope.spawn(move || act(name)))).collect();
            for (name, handle) in acts {
                let done = handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                let said = done.and_then(|done| match done {
                    true => output::print(&format!("{name}\n")),
                    false => Ok(()),
                });
                if let Err(error) = said {
                    errors::report(&error);
                    code = api::exit::FAILURE;
                }
            }
        });
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn several_are_tried_at_once_and_each_of_them() {
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let together = Barrier::new(names.len());
        let code = for_all(&names, |name| {
            together.wait();
            match name {
                "b" => Err(ContainerError::options("not this one").into()),
                _ => Ok(false),
            }
        });
        assert_eq!(code.unwrap(), api::exit::FAILURE);
        assert_eq!(for_all(&names, |_| Ok(false)).unwrap(), api::exit::STOPPED);
    }
}
