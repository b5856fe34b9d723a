//! What's known of exercises that were started: a directory for each below the data root.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::errors::labs::LabError;

/// How far an exercise is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    /// There's nothing of it.
    #[default]
    NotStarted,
    /// It's being set up, or was when `vmctl` was killed.
    Incomplete,
    /// It can be worked at.
    Started,
    /// The last check found everything done.
    Done,
}

/// What's kept of an exercise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) stage: Stage,
    /// Images that weren't there before: they go again at the end.
    #[serde(default)]
    pub(super) pulled: Vec<String>,
}

/// All exercises' states.
#[derive(Clone, Debug)]
pub(super) struct States {
    root: PathBuf,
}

impl State {
    /// The stage, in words.
    pub(super) fn shown(&self) -> &'static str {
        match self.stage {
            Stage::NotStarted => "not started",
            Stage::Incomplete => "incomplete",
            Stage::Started => "started",
            Stage::Done => "done",
        }
    }
}

impl States {
    /// Those in this data root.
    pub(super) fn below(data_root: &Path) -> Self {
        Self { root: data_root.join("lab-state") }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir(name).join("state.json")
    }

    /// The directory that an exercise's scripts may keep files in.
    pub(super) fn files(&self, name: &str) -> PathBuf {
        self.dir(name).join("files")
    }

    /// Keeps every other `vmctl lab` from changing anything while the file is open.
    pub(super) fn lock(&self) -> Result<File, LabError> {
        make_dir(&self.root)?;
        let dir = File::open(&self.root).map_err(LabError::file("open", &self.root))?;
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(dir),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LabError::Busy),
            Err(errno) => Err(LabError::file("lock", &self.root)(errno.into())),
        }
    }

    /// The state of an exercise. What can't be read is of one that was broken off.
    pub(super) fn read(&self, name: &str) -> Result<State, LabError> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(text) => {
                let broken = State { stage: Stage::Incomplete, ..State::default() };
                Ok(serde_json::from_slice(&text).unwrap_or(broken))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let exists = self.dir(name).exists();
                let stage = if exists { Stage::Incomplete } else { Stage::NotStarted };
                Ok(State { stage, ..State::default() })
            }
            Err(error) => Err(LabError::file("read", path)(error)),
        }
    }

    /// Writes the state of an exercise, whole or not at all.
    pub(super) fn write(&self, name: &str, state: &State) -> Result<(), LabError> {
        let (dir, path) = (self.dir(name), self.file(name));
        make_dir(&self.files(name))?;
        let failed = |source| LabError::File { what: "write", path: path.clone(), source };
        let text = serde_json::to_vec(state).map_err(|error| failed(error.into()))?;
        let mut file = tempfile::NamedTempFile::new_in(&dir).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.persist(&path).map(drop).map_err(|error| failed(error.error))
    }

    /// Forgets an exercise, and what its scripts have kept.
    pub(super) fn remove(&self, name: &str) -> Result<(), LabError> {
        let dir = self.dir(name);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LabError::file("remove", dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// The exercises that there's something of.
    pub(super) fn names(&self) -> Result<Vec<String>, LabError> {
        let failed = LabError::file("read", &self.root);
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.collect();
        names.sort();
        Ok(names)
    }
}

/// Makes a directory that only this user may look into.
fn make_dir(dir: &Path) -> Result<(), LabError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(LabError::file("create", dir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn state_is_kept_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let states = States::below(dir.path());
        assert_eq!(states.read("one").unwrap().stage, Stage::NotStarted);
        assert!(states.names().unwrap().is_empty());
        let state = State { stage: Stage::Started, pulled: vec!["busybox".to_owned()] };
        states.write("one", &state).unwrap();
        assert_eq!(states.read("one").unwrap(), state);
        assert_eq!(states.names().unwrap(), ["one"]);
        let mode = fs::metadata(states.files("one")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        states.remove("one").unwrap();
        states.remove("one").unwrap();
        assert_eq!(states.read("one").unwrap().stage, Stage::NotStarted);
    }

    #[test]
    fn state_that_cannot_be_understood_is_of_an_exercise_that_was_broken_off() {
        let dir = tempfile::tempdir().unwrap();
        let states = States::below(dir.path());
        fs::create_dir_all(states.dir("one")).unwrap();
        assert_eq!(states.read("one").unwrap().stage, Stage::Incomplete);
        fs::write(states.file("one"), "{\"stage\":\"won\"}").unwrap();
        assert_eq!(states.read("one").unwrap().stage, Stage::Incomplete);
    }

    #[test]
    fn second_command_is_refused_while_the_first_one_works() {
        let dir = tempfile::tempdir().unwrap();
        let states = States::below(dir.path());
        let lock = states.lock().unwrap();
        assert!(matches!(states.lock(), Err(LabError::Busy)));
        drop(lock);
        assert!(states.lock().is_ok());
    }
}
