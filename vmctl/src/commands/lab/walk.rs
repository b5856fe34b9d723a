//! The way of an exercise: set up, checked, taken away again.

use std::cell::RefCell;
use std::env;
use std::fs::File;
use std::process::Command;

use runtime::Engine;

use super::exercise::Exercise;
use super::script::{End, Scripts};
use super::state::{Stage, State, States};
use super::steps::Steps;
use super::sweep;
use crate::errors::labs::LabError;
use crate::errors::{CliError, notice};
use crate::output;

/// Changes exercises, while no other `vmctl lab` does.
pub(super) struct Walk<'a> {
    engine: &'a Engine,
    states: &'a States,
    scripts: RefCell<Scripts>,
    _lock: File,
}

impl<'a> Walk<'a> {
    pub(super) fn new(engine: &'a Engine, states: &'a States) -> Result<Self, CliError> {
        let lock = states.lock()?;
        let scripts = Scripts::new()
            .map_err(|source| CliError::System { what: "signals can't be handled", source })?;
        Ok(Self { engine, states, scripts: RefCell::new(scripts), _lock: lock })
    }

    pub(super) fn states(&self) -> &States {
        self.states
    }

    /// Sets an exercise up, unless it is.
    pub(super) fn start(&self, exercise: &Exercise) -> Result<(), CliError> {
        let name = &exercise.name;
        match self.states.read(name)?.stage {
            Stage::Started | Stage::Done => {
                notice(&format!(
                    "{name} is started already; vmctl lab reset {name} takes it back to the beginning.\n"
                ));
                return Ok(());
            }
            Stage::Incomplete => {
                notice(&format!("{name} was broken off; what's left of it is removed first."));
                self.reset(exercise)?;
            }
            Stage::NotStarted => {}
        }
        check_needs(exercise)?;
        if let Err(error) = self.set_up(exercise) {
            // What's told is why it couldn't be set up; what's left can be reset once more.
            match self.reset(exercise) {
                Ok(()) => notice(&format!("What had been set up of {name} is removed again.")),
                Err(further) => notice(&crate::format::one_line(&further.to_string())),
            }
            return Err(error);
        }
        Ok(())
    }

    fn set_up(&self, exercise: &Exercise) -> Result<(), CliError> {
        let name = &exercise.name;
        let pulled = sweep::absent(self.engine, &exercise.manifest.images)?;
        let mut state = State { stage: Stage::Incomplete, pulled };
        self.states.write(name, &state)?;
        for image in &state.pulled {
            let mut pull = Command::new(program()?);
            pull.args(["pull", image]);
            self.run_as(exercise, "pull", pull)?;
        }
        self.run_script(exercise, "setup")?;
        state.stage = Stage::Started;
        self.states.write(name, &state)?;
        Ok(())
    }

    /// Checks an exercise and prints what's found; returns whether all of it is done.
    pub(super) fn check(&self, exercise: &Exercise) -> Result<bool, CliError> {
        let name = &exercise.name;
        let mut state = self.states.read(name)?;
        if !matches!(state.stage, Stage::Started | Stage::Done) {
            return Err(LabError::NotStarted(name.clone()).into());
        }
        let mut steps = Steps::default();
        let limit = exercise.manifest.time_limit();
        let command = self.command(exercise, "check")?;
        let end = self.scripts.borrow_mut().run(command, limit, &mut |line| steps.add(line));
        let end = end.map_err(|error| failed(exercise, "check", error.to_string()))?;
        if !steps.is_empty() {
            output::print(&steps.text())?;
        }
        match end {
            End::Exited(status) if status.success() && steps.is_empty() => {
                return Err(failed(exercise, "check", "told of no step".to_owned()).into());
            }
            End::Exited(status) if status.success() => {}
            End::Interrupted(signal) => {
                return Err(failed(exercise, "check", End::Interrupted(signal).to_string()).into());
            }
            end => return Err(failed(exercise, "check", end.to_string()).into()),
        }
        let stage = if steps.all_done() { Stage::Done } else { Stage::Started };
        if stage != state.stage {
            state.stage = stage;
            self.states.write(name, &state)?;
        }
        Ok(steps.all_done())
    }

    /// Removes all that an exercise has made, however far it was.
    pub(super) fn reset(&self, exercise: &Exercise) -> Result<(), LabError> {
        let name = &exercise.name;
        let state = self.states.read(name)?;
        if state.stage == Stage::NotStarted {
            // Scripts have a directory even then.
            self.states.write(name, &State { stage: Stage::Incomplete, ..State::default() })?;
        }
        // What the script fails at may still be swept up.
        let script = self.run_script(exercise, "reset");
        if let Err(error @ LabError::Interrupted { .. }) = script {
            return Err(error);
        }
        let left = sweep::sweep(self.engine, &exercise.prefix());
        if !left.is_empty() {
            return Err(LabError::Left { name: name.clone(), left });
        }
        script?;
        self.give_back(name, &state.pulled)?;
        self.states.remove(name)
    }

    /// Removes the images that an exercise has pulled, or leaves them to another one that's started.
    fn give_back(&self, name: &str, pulled: &[String]) -> Result<(), LabError> {
        let heir = self.states.names()?.into_iter().find(|other| other != name);
        let Some(heir) = heir.filter(|_| !pulled.is_empty()) else {
            sweep::remove_pulled(self.engine, pulled);
            return Ok(());
        };
        let mut state = self.states.read(&heir)?;
        state.pulled.extend(pulled.iter().cloned());
        self.states.write(&heir, &state)
    }

    /// Runs a script whose output is told as it comes, and which must succeed.
    fn run_script(&self, exercise: &Exercise, script: &'static str) -> Result<(), LabError> {
        let command = self.command(exercise, script)?;
        self.run_as(exercise, script, command)
    }

    fn run_as(
        &self,
        exercise: &Exercise,
        script: &'static str,
        command: Command,
    ) -> Result<(), LabError> {
        let limit = exercise.manifest.time_limit();
        let end = self.scripts.borrow_mut().run(command, limit, &mut notice);
        match end.map_err(|error| failed(exercise, script, error.to_string()))? {
            End::Exited(status) if status.success() => Ok(()),
            End::Interrupted(signal) => {
                Err(LabError::Interrupted { name: exercise.name.clone(), signal })
            }
            end => Err(failed(exercise, script, end.to_string())),
        }
    }

    fn command(&self, exercise: &Exercise, script: &str) -> Result<Command, LabError> {
        let files = self.states.files(&exercise.name);
        let mut command = Command::new(exercise.dir.join(script));
        command.current_dir(&files).env("LAB_DIR", &files);
        command.env("VMCTL", program()?).env("LAB_NAME", exercise.prefix());
        command.env("LAB_SOURCE", &exercise.dir);
        Ok(command)
    }
}

fn failed(exercise: &Exercise, script: &'static str, problem: String) -> LabError {
    LabError::Script { name: exercise.name.clone(), script, problem }
}

/// This program.
fn program() -> Result<std::path::PathBuf, LabError> {
    env::current_exe().map_err(LabError::file("find", "vmctl"))
}

/// Sees that there's what the exercise needs; says what it could use besides.
fn check_needs(exercise: &Exercise) -> Result<(), LabError> {
    let missing: Vec<_> =
        exercise.manifest.needs.iter().filter_map(super::manifest::Need::missing).collect();
    if !missing.is_empty() {
        return Err(LabError::Missing { name: exercise.name.clone(), missing });
    }
    for (what, how) in exercise.manifest.wants.iter().filter_map(super::manifest::Need::missing) {
        notice(&format!("note: {what} isn't there, so a part is left out; to have it: {how}"));
    }
    Ok(())
}
