//! Containers on disk: found, entered, changed and removed by several processes at once.
//!
//! A container is there when its `config.json` is. `state.json` repeats what `ps` shows, so that
//! listing reads one small file of each; it's changed under `state.lock` only, by the supervisor
//! while there is one and by commands otherwise.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};

use crate::error::{Object, RuntimeError, file};
use crate::files::{self, LockFile};
use crate::names;
use crate::paths::{ContainerPaths, Paths, SHORT_ID, make_dir};
use crate::record::{ContainerRecord, State, Status, Summary};

/// How many random bytes make an identifier.
const ID_BYTES: usize = 32;

/// The most bytes of a record that are read.
const MAX_RECORD_BYTES: u64 = 16 << 20;

/// The containers of one data root.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    paths: Paths,
}

/// Keeps other processes from entering, renaming and removing containers until dropped.
#[derive(Debug)]
pub(crate) struct Registry<'a> {
    store: &'a Store,
    _lock: LockFile,
}

impl Store {
    pub(crate) const fn new(paths: Paths) -> Self {
        Self { paths }
    }

    pub(crate) fn paths(&self, id: &str) -> ContainerPaths {
        self.paths.container(id)
    }

    pub(crate) fn registry(&self) -> Result<Registry<'_>, RuntimeError> {
        let path = self.paths.containers().join("lock");
        let lock = LockFile::take(&path).map_err(file("lock", &path))?;
        Ok(Registry { store: self, _lock: lock })
    }

    /// Reads every container's state, in no order. One that can't be read is left out, with a
    /// warning.
    pub(crate) fn states(&self) -> Result<Vec<State>, RuntimeError> {
        let path = self.paths.containers();
        let dir = fs::File::open(&path).map_err(file("read", &path))?;
        let (mut states, mut buffer) = (Vec::new(), Vec::new());
        for child in fs::read_dir(&path).map_err(file("read", &path))? {
            let child = child.map_err(file("read", &path))?.file_name();
            let Some(name) = child.to_str().filter(|name| is_id(name)) else { continue };
            // What's usual in as few calls as it takes: listing hundreds must feel like nothing.
            let state = read_at(&dir, &format!("{name}/state.json"), &mut buffer)
                .ok()
                .and_then(|()| serde_json::from_slice(&buffer).ok());
            match state.map_or_else(|| self.state(name), Ok) {
                Ok(state) => states.push(state),
                // It's being created or removed.
                Err(RuntimeError::NotFound { .. }) => {}
                Err(error) => log::warn!("container {name} is left out: {error}"),
            }
        }
        Ok(states)
    }

    /// Finds the container that a name, an identifier or the beginning of one means.
    pub(crate) fn resolve(&self, reference: &str) -> Result<String, RuntimeError> {
        if is_id(reference) && self.paths(reference).config().exists() {
            return Ok(reference.to_owned());
        }
        let name = reference.strip_prefix('/').unwrap_or(reference);
        let states = self.states()?;
        if let Some(state) = states.iter().find(|state| state.summary.name == name) {
            return Ok(state.summary.id.clone());
        }
        let fits = |id: &&String| !reference.is_empty() && id.starts_with(reference);
        let mut found = states.iter().map(|state| &state.summary.id).filter(fits);
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id.clone()),
            (None, _) => Err(no_container(reference)),
            (Some(_), Some(_)) => Err(RuntimeError::Ambiguous { reference: reference.to_owned() }),
        }
    }

    pub(crate) fn record(&self, id: &str) -> Result<ContainerRecord, RuntimeError> {
        read_json(&self.paths(id).config(), id)
    }

    /// Reads a state. One that a crash of the host has cut off is made anew from the record.
    pub(crate) fn state(&self, id: &str) -> Result<State, RuntimeError> {
        let paths = self.paths(id);
        match read_json(&paths.state(), id) {
            Err(RuntimeError::File { what: "understand", .. }) => {
                log::warn!("{} is damaged, and made anew", paths.state().display());
                let record = self.record(id)?;
                let mut state = State::new(Summary::of(&record));
                state.status = Status::Exited;
                state.exit_code = crate::EXIT_LOST;
                Ok(state)
            }
            outcome => outcome,
        }
    }

    /// Changes a state: reads it, has it changed and writes it, without anybody between.
    pub(crate) fn update<T>(
        &self,
        id: &str,
        change: impl FnOnce(&mut State) -> T,
    ) -> Result<T, RuntimeError> {
        let paths = self.paths(id);
        let lock_path = paths.state_lock();
        let _lock = match LockFile::take(&lock_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_container(id)),
            outcome => outcome.map_err(file("lock", &lock_path))?,
        };
        let mut state = self.state(id)?;
        let answer = change(&mut state);
        write_json(&paths.state(), &state)?;
        Ok(answer)
    }

    /// Takes what a supervisor holds as long as it lives; none if there is one.
    pub(crate) fn take_life(&self, id: &str) -> Result<Option<LockFile>, RuntimeError> {
        let paths = self.paths(id);
        make_dir(&paths.run)?;
        let path = paths.life_lock();
        LockFile::try_take(&path).map_err(file("lock", &path))
    }

    /// Whether a supervisor lives.
    pub(crate) fn is_supervised(&self, id: &str) -> bool {
        files::is_locked(&self.paths(id).life_lock())
    }
}

impl Registry<'_> {
    /// Finds an identifier that's free, and so are its first digits.
    pub(crate) fn new_id(&self) -> Result<String, RuntimeError> {
        let dir = self.store.paths.containers();
        let taken = ids(&dir)?;
        loop {
            let id =
                files::random_hex(ID_BYTES).map_err(crate::error::system("get random bytes"))?;
            let short = id.get(..SHORT_ID);
            // All digits would read as a process number in some commands' output.
            let is_number = short.is_some_and(|short| short.bytes().all(|b| b.is_ascii_digit()));
            if !is_number && !taken.iter().any(|other| other.get(..SHORT_ID) == short) {
                return Ok(id);
            }
        }
    }

    /// Checks a name that was asked for, or makes one up.
    pub(crate) fn choose_name(&self, asked: Option<&str>) -> Result<String, RuntimeError> {
        let states = self.store.states()?;
        let holder = |name: &str| states.iter().find(|state| state.summary.name == name);
        if let Some(asked) = asked {
            let name = asked.strip_prefix('/').unwrap_or(asked);
            names::check(name, "container")?;
            return match holder(name) {
                None => Ok(name.to_owned()),
                Some(state) => Err(name_taken(name, &state.summary.id)),
            };
        }
        let mut attempt = 0;
        loop {
            let name =
                names::generate(attempt).map_err(crate::error::system("get random bytes"))?;
            if holder(&name).is_none() {
                return Ok(name);
            }
            attempt = attempt.saturating_add(1);
        }
    }

    /// Enters a container. Its record is written last: without it there's none.
    pub(crate) fn enter(&self, record: &ContainerRecord) -> Result<(), RuntimeError> {
        let paths = self.store.paths(&record.id);
        make_dir(&paths.data)?;
        let lock = paths.state_lock();
        fs::File::create(&lock).map_err(file("create", &lock))?;
        write_json(&paths.state(), &State::new(Summary::of(record)))
            .and_then(|()| write_json(&paths.config(), record))
    }

    /// Gives a container another name.
    pub(crate) fn rename(&self, id: &str, name: &str) -> Result<String, RuntimeError> {
        let mut record = self.store.record(id)?;
        let name = self.choose_name(Some(name))?;
        let old = std::mem::replace(&mut record.name, name.clone());
        write_json(&self.store.paths(id).config(), &record)?;
        self.store.update(id, |state| state.summary.name = name)?;
        Ok(old)
    }

    /// Removes a container's files. Whoever calls it holds its life.
    pub(crate) fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let paths = self.store.paths(id);
        // Without these two it's gone for everybody, whatever comes next.
        for path in [paths.config(), paths.state()] {
            files::remove_file(&path).map_err(file("remove", &path))?;
        }
        for dir in [&paths.data, &paths.run] {
            files::remove_dir_all(dir).map_err(file("remove", dir))?;
        }
        Ok(())
    }

    /// Removes what a creation or removal that was killed has left: directories without a record.
    pub(crate) fn sweep(&self) -> Result<(), RuntimeError> {
        let dir = self.store.paths.containers();
        for id in ids(&dir)? {
            if !self.store.paths(&id).config().exists() {
                let _ = files::remove_dir_all(&dir.join(&id));
            }
        }
        Ok(())
    }
}

impl State {
    /// The state of a container that was never started.
    pub(crate) const fn new(summary: Summary) -> Self {
        Self {
            status: Status::Created,
            summary,
            started: None,
            finished: None,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            restart_count: 0,
            stopped_by_user: false,
            supervisor_pid: None,
            vmm: None,
            health: None,
            endpoints: Vec::new(),
            warm: false,
        }
    }
}

fn ids(dir: &Path) -> Result<Vec<String>, RuntimeError> {
    let mut ids = Vec::new();
    for child in fs::read_dir(dir).map_err(file("read", dir))? {
        let name = child.map_err(file("read", dir))?.file_name();
        ids.extend(name.into_string().ok().filter(|name| is_id(name)));
    }
    Ok(ids)
}

fn is_id(text: &str) -> bool {
    text.len() == 2 * ID_BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

pub(crate) fn no_container(reference: &str) -> RuntimeError {
    RuntimeError::NotFound { what: Object::Container, reference: reference.to_owned() }
}

fn name_taken(name: &str, id: &str) -> RuntimeError {
    let short = id.get(..SHORT_ID).unwrap_or(id);
    RuntimeError::failed(
        crate::ErrorKind::NameInUse,
        format!("the container name {name:?} is already in use by container {short}"),
    )
}

pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), RuntimeError> {
    serde_json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|text| files::replace(path, &text))
        .map_err(file("write", path))
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    id: &str,
) -> Result<T, RuntimeError> {
    use std::io::Read;
    let mut text = Vec::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(MAX_RECORD_BYTES).read_to_end(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(no_container(id)),
        Err(error) => Err(file("read", path)(error)),
        Ok(_) => {
            serde_json::from_slice(&text).map_err(|error| file("understand", path)(error.into()))
        }
    }
}

/// Reads a file of a directory that's open.
fn read_at(dir: &fs::File, path: &str, contents: &mut Vec<u8>) -> io::Result<()> {
    const STEP: usize = 16 << 10;
    let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    contents.clear();
    loop {
        let start = contents.len();
        if start as u64 > MAX_RECORD_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        contents.resize(start + STEP, 0);
        let room = contents.get_mut(start..).unwrap_or_default();
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *room))?;
        contents.truncate(start + read);
        // A regular file gives less than asked for at its end only.
        if read < STEP {
            return Ok(());
        }
    }
}
