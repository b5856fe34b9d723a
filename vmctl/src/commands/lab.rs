//! `vmctl lab`: exercises for a course, as directories of scripts that a teacher can write.

mod exercise;
mod manifest;
mod needs;
mod script;
mod state;
mod steps;
mod sweep;
mod text;
mod walk;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use log::LevelFilter;
use serde_json::json;

use self::exercise::{Exercise, Labs};
use self::state::States;
use self::walk::Walk;
use super::container::engine;
use crate::errors::labs::LabError;
use crate::errors::{CliError, notice};
use crate::{format, output};

/// Exercises about virtual machines and containers: started, checked, and cleaned up again.
///
/// An exercise is named as `vmctl lab list` shows it, without its number or by its number alone.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// The directory of exercises; unless given, VMCTL_LABS, else those that come with vmctl and
    /// those in the data root's `labs`.
    #[arg(long, global = true, value_name = "DIR")]
    labs: Option<PathBuf>,

    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    #[command(visible_alias = "ls")]
    List(ListArgs),
    Start(NameArgs),
    Show(ShowArgs),
    Check(CheckArgs),
    Reset(ResetArgs),
}

/// Lists the exercises, and how far each is.
#[derive(Debug, Args)]
struct ListArgs {
    /// Prints them as JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// Sets an exercise up, and shows its text.
#[derive(Debug, Args)]
struct NameArgs {
    /// The exercise.
    #[arg(value_name = "NAME")]
    name: String,
}

/// Shows an exercise's text.
#[derive(Debug, Args)]
struct ShowArgs {
    /// The exercise.
    #[arg(value_name = "NAME")]
    name: String,
}

/// Checks how much of an exercise is done.
///
/// The exit code is 0 if all of it is, else 1.
#[derive(Debug, Args)]
struct CheckArgs {
    /// The exercise.
    #[arg(value_name = "NAME")]
    name: String,
}

/// Removes everything that an exercise has made.
#[derive(Debug, Args)]
struct ResetArgs {
    /// All exercises that were started.
    #[arg(long, conflicts_with = "name")]
    all: bool,

    /// The exercise.
    #[arg(value_name = "NAME", required_unless_present = "all")]
    name: Option<String>,
}

/// Runs a command of `vmctl lab`; returns the exit code.
pub(crate) fn run(args: &LabArgs, level: LevelFilter) -> Result<u8, CliError> {
    let engine = engine(level)?;
    let data = engine.data_root();
    let labs = Labs::find(args.labs.as_deref(), data)?;
    let states = States::below(data);
    match &args.command {
        LabCommand::List(args) => list(&labs, &states, args),
        LabCommand::Show(args) => {
            text::show(&labs.exercise(&args.name)?)?;
            Ok(api::exit::STOPPED)
        }
        LabCommand::Start(args) => {
            let exercise = labs.exercise(&args.name)?;
            Walk::new(&engine, &states)?.start(&exercise)?;
            text::show(&exercise)?;
            Ok(api::exit::STOPPED)
        }
        LabCommand::Check(args) => {
            let exercise = labs.exercise(&args.name)?;
            let done = Walk::new(&engine, &states)?.check(&exercise)?;
            Ok(if done { api::exit::STOPPED } else { api::exit::FAILURE })
        }
        LabCommand::Reset(args) => reset(&labs, &Walk::new(&engine, &states)?, args),
    }
}

fn list(labs: &Labs, states: &States, args: &ListArgs) -> Result<u8, CliError> {
    let mut exercises = Vec::new();
    for found in labs.all()? {
        match found {
            Ok(exercise) => exercises.push(exercise),
            // One that's malformed doesn't hide the others.
            Err(problem) => notice(&format::one_line(&format!("left out: {problem}"))),
        }
    }
    if args.json {
        let values = exercises.iter().map(|it| value(it, states)).collect::<Result<Vec<_>, _>>()?;
        output::print_json(&values)?;
        return Ok(api::exit::STOPPED);
    }
    let titles = ["NAME", "MINUTES", "STATE", "TITLE"].map(str::to_owned);
    let row = |exercise: &Exercise| {
        let manifest = &exercise.manifest;
        let state = states.read(&exercise.name)?.shown();
        let cells = [&exercise.name, &*manifest.minutes.to_string(), state, &manifest.title];
        Ok::<_, CliError>(cells.map(str::to_owned).to_vec())
    };
    let rows = exercises.iter().map(row).collect::<Result<Vec<_>, _>>()?;
    output::print(&format::align(&titles, &rows))?;
    Ok(api::exit::STOPPED)
}

fn value(exercise: &Exercise, states: &States) -> Result<serde_json::Value, CliError> {
    let manifest = &exercise.manifest;
    Ok(json!({
        "name": exercise.name,
        "title": manifest.title,
        "summary": manifest.summary,
        "minutes": manifest.minutes,
        "needs": manifest.needs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "wants": manifest.wants.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "images": manifest.images,
        "state": states.read(&exercise.name)?.shown(),
        "directory": exercise.dir.to_string_lossy(),
    }))
}

fn reset(labs: &Labs, walk: &Walk<'_>, args: &ResetArgs) -> Result<u8, CliError> {
    if let Some(name) = &args.name {
        let exercise = labs.exercise(name)?;
        walk.reset(&exercise)?;
        output::print(&format!("{}: nothing is left of it\n", exercise.name))?;
        return Ok(api::exit::STOPPED);
    }
    let mut first_error = None;
    for name in walk.states().names()? {
        let reset = labs.exercise(&name).and_then(|exercise| walk.reset(&exercise));
        match reset {
            Ok(()) => output::print(&format!("{name}: nothing is left of it\n"))?,
            Err(error @ LabError::Interrupted { .. }) => return Err(error.into()),
            Err(error) => {
                notice(&format::one_line(&format!("{name}: {error}")));
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(api::exit::STOPPED), |error| Err(error.into()))
}
