//! Images: Docker's commands, by its names and with its flags.

mod archive;
mod history;
mod import;
mod inspect;
mod login;
mod ls;
mod progress;
mod prune;
mod rm;
mod transfer;

use clap::{Args, Subcommand};
use image::Reference;
use log::LevelFilter;

pub(crate) use self::inspect::image_value;
pub(crate) use self::login::{LoginArgs, LogoutArgs};
pub(crate) use self::ls::LsArgs as ImagesArgs;
pub(crate) use self::prune::{FILTERS as PRUNE_FILTERS, remove_unused, text as pruned_text};
pub(crate) use self::rm::RmArgs as RmiArgs;
pub(crate) use self::transfer::provide;
use super::container::engine;
use super::stores;
use crate::errors::CliError;

/// Manage images.
///
/// An image is named by its name, its identifier, or the beginning of that. Names are Docker's:
/// nginx is docker.io/library/nginx:latest.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

/// A command of `vmctl image`.
#[derive(Debug, Subcommand)]
enum GroupCommand {
    #[command(flatten)]
    Shared(ImageCommand),
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
    Inspect(inspect::InspectArgs),
    Prune(prune::PruneArgs),
}

/// A command of `vmctl` itself and of `vmctl image`. Each is documented with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    Pull(transfer::PullArgs),
    Push(transfer::PushArgs),
    Tag(rm::TagArgs),
    History(history::HistoryArgs),
    Save(archive::SaveArgs),
    Load(archive::LoadArgs),
    Import(import::ImportArgs),
}

/// Runs a command of `vmctl image`; returns the exit code.
pub(crate) fn run_group(args: &GroupArgs, level: LevelFilter) -> Result<u8, CliError> {
    match &args.command {
        GroupCommand::Shared(command) => run(command, level),
        GroupCommand::Ls(args) => images(args, level),
        GroupCommand::Rm(args) => rmi(args, level),
        GroupCommand::Inspect(args) => inspect::run(&engine(level)?, args),
        GroupCommand::Prune(args) => prune::run(&engine(level)?, args),
    }
}

/// Runs a command; returns the exit code.
pub(crate) fn run(command: &ImageCommand, level: LevelFilter) -> Result<u8, CliError> {
    let engine = engine(level)?;
    let images = stores::images(&engine)?;
    match command {
        ImageCommand::Pull(args) => transfer::pull(&engine, &images, args),
        ImageCommand::Push(args) => transfer::push(&engine, &images, args),
        ImageCommand::Tag(args) => rm::tag(&engine, &images, args),
        ImageCommand::History(args) => history::run(&images, args),
        ImageCommand::Save(args) => archive::save(&images, args),
        ImageCommand::Load(args) => archive::load(&engine, &images, args),
        ImageCommand::Import(args) => import::run(&engine, &images, args),
    }
}

/// Runs `vmctl images`.
pub(crate) fn images(args: &ImagesArgs, level: LevelFilter) -> Result<u8, CliError> {
    ls::run(&stores::images(&engine(level)?)?, args)
}

/// Runs `vmctl rmi`.
pub(crate) fn rmi(args: &RmiArgs, level: LevelFilter) -> Result<u8, CliError> {
    rm::rm(&engine(level)?, args)
}

/// Runs `vmctl login`.
pub(crate) fn login(args: &LoginArgs, level: LevelFilter) -> Result<u8, CliError> {
    login::login(&stores::images(&engine(level)?)?, args)
}

/// Runs `vmctl logout`.
pub(crate) fn logout(args: &LogoutArgs, level: LevelFilter) -> Result<u8, CliError> {
    login::logout(&stores::images(&engine(level)?)?, args)
}

/// Reads a name.
fn reference(text: &str) -> Result<Reference, crate::errors::containers::ContainerError> {
    Ok(text.parse::<Reference>().map_err(image::ImageError::from)?)
}
