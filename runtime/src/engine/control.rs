//! What's done to containers that are there: signals, ends, names, removal.

use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Engine;
use crate::error::{RuntimeError, file};
use crate::files::{self, LockFile};
use crate::logs::LogReader;
use crate::options::LogOptions;
use crate::record::{PublishedPort, State, Status};
use crate::signals::{SIGKILL, parse_signal};
use crate::watch::ContainerWatch;
use crate::wire::{self, AskError, Request};
use crate::{EXIT_LOST, LogDriver};

/// How long a supervisor has to end its container at once, before it's killed itself.
const FORCE_TIMEOUT: Duration = Duration::from_secs(20);

impl Engine {
    /// Ends a container in order: its stop signal, then `SIGKILL` when `timeout_s` (its own, then
    /// 10 s, unless said; negative for never) is over. One that doesn't run is left alone.
    ///
    /// # Errors
    /// The signal is unknown, or the supervisor can't be reached.
    pub fn stop(
        &self,
        reference: &str,
        signal: Option<&str>,
        timeout_s: Option<i32>,
    ) -> Result<(), RuntimeError> {
        let signal = signal.map(parse_signal).transpose()?;
        let (record, state) = self.find(reference)?;
        let id = &record.id;
        if !self.has_process(&state) {
            return Ok(());
        }
        let sent = signal.unwrap_or(record.resolved.stop_signal);
        self.emit_container("kill", &state.summary, [("signal", sent.to_string())]);
        match wire::ask(
            &self.store.paths(id).supervisor_socket(),
            &Request::Stop { signal, timeout_s },
        ) {
            Ok(_) => {}
            Err(AskError::Refused(error)) => return Err(error),
            Err(AskError::Gone(source)) if self.store.is_supervised(id) => {
                return Err(gone(source));
            }
            // It ended by itself meanwhile.
            Err(AskError::Gone(_)) => {}
        }
        self.emit_container("stop", &state.summary, []);
        Ok(())
    }

    /// Stops a container, if it runs, and starts it.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub fn restart(
        &self,
        reference: &str,
        signal: Option<&str>,
        timeout_s: Option<i32>,
    ) -> Result<(), RuntimeError> {
        let (record, state) = self.find(reference)?;
        self.stop(&record.id, signal, timeout_s)?;
        self.start(&record.id, None)?;
        self.emit_container("restart", &state.summary, []);
        Ok(())
    }

    /// Sends a signal, `SIGKILL` unless said, to a container's process.
    ///
    /// # Errors
    /// It doesn't run, or the signal is unknown.
    pub fn kill(&self, reference: &str, signal: Option<&str>) -> Result<(), RuntimeError> {
        let signal = signal.map_or(Ok(SIGKILL), parse_signal)?;
        let (record, state) = self.find(reference)?;
        self.need_process(&state, "kill")?;
        // One that's killed for good isn't started again, whatever its policy says.
        let request = match signal {
            SIGKILL => Request::Stop { signal: Some(SIGKILL), timeout_s: Some(0) },
            other => Request::Signal(other),
        };
        self.ask(&record.id, &request)?;
        self.emit_container("kill", &state.summary, [("signal", signal.to_string())]);
        Ok(())
    }

    /// Removes a container; with `force` one that runs too, with `volumes` its anonymous volumes.
    ///
    /// # Errors
    /// It runs, or a file can't be removed.
    pub fn remove(&self, reference: &str, force: bool, volumes: bool) -> Result<(), RuntimeError> {
        let (record, state) = self.find(reference)?;
        let id = record.id.as_str();
        if self.has_process(&state) {
            if !force {
                return Err(RuntimeError::conflict(format!(
                    "cannot remove container {:?}: container is {}: stop the container before removing \
                     or force remove",
                    record.name,
                    state.status.as_str()
                )));
            }
            self.end_by_force(id)?;
        }
        match self.take_life(id) {
            Ok(life) => self.discard(id, &life, volumes),
            // It was to be removed at its end.
            Err(RuntimeError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// It's taken or malformed.
    pub fn rename(&self, reference: &str, name: &str) -> Result<(), RuntimeError> {
        let id = self.find(reference)?.0.id;
        let old = self.store.registry()?.rename(&id, name)?;
        let state = self.store.state(&id)?;
        self.emit_container("rename", &state.summary, [("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Makes a container's VM stand still.
    ///
    /// # Errors
    /// It doesn't run, or stands still already.
    pub fn pause(&self, reference: &str) -> Result<(), RuntimeError> {
        let (record, state) = self.find(reference)?;
        self.need_process(&state, "pause")?;
        if state.status == Status::Paused {
            return Err(RuntimeError::conflict(format!(
                "container {} is already paused",
                record.name
            )));
        }
        self.ask(&record.id, &Request::Pause)?;
        self.emit_container("pause", &state.summary, []);
        Ok(())
    }

    /// Lets a container's VM go on.
    ///
    /// # Errors
    /// It isn't paused.
    pub fn unpause(&self, reference: &str) -> Result<(), RuntimeError> {
        let (record, state) = self.find(reference)?;
        if state.status != Status::Paused {
            return Err(RuntimeError::conflict(format!("container {} is not paused", record.name)));
        }
        self.ask(&record.id, &Request::Unpause)?;
        self.emit_container("unpause", &state.summary, []);
        Ok(())
    }

    /// Waits until a container doesn't run, and returns its exit code.
    ///
    /// # Errors
    /// There's no such container.
    pub fn wait(&self, reference: &str) -> Result<i32, RuntimeError> {
        let (record, state) = self.find(reference)?;
        if !self.has_process(&state) {
            return Ok(state.exit_code);
        }
        match wire::ask(&self.store.paths(&record.id).supervisor_socket(), &Request::Wait) {
            Ok(code) => Ok(code),
            Err(AskError::Refused(error)) => Err(error),
            Err(AskError::Gone(source)) if self.store.is_supervised(&record.id) => {
                Err(gone(source))
            }
            Err(AskError::Gone(_)) => Ok(self.find(&record.id)?.1.exit_code),
        }
    }

    /// Reads a container's log.
    ///
    /// # Errors
    /// It keeps none, or it can't be read.
    pub fn logs(&self, reference: &str, options: &LogOptions) -> Result<LogReader, RuntimeError> {
        let (record, _) = self.find(reference)?;
        if record.config.log.driver == LogDriver::None {
            return Err(RuntimeError::invalid(
                "configured logging driver does not support reading: none",
            ));
        }
        let paths = self.store.paths(&record.id);
        let watch = options.follow.then(|| ContainerWatch::open(&paths)).transpose()?;
        LogReader::open(&paths.log(), *options, watch)
    }

    /// The published ports of a container, by the container's.
    ///
    /// # Errors
    /// There's no such container.
    pub fn ports(&self, reference: &str) -> Result<Vec<PublishedPort>, RuntimeError> {
        let (_, state) = self.find(reference)?;
        let shown = if state.status.is_active() { state.summary.ports } else { Vec::new() };
        Ok(shown)
    }

    /// Whether there's a supervisor: it may be starting the process.
    pub(crate) fn has_process(&self, state: &State) -> bool {
        state.status.is_active() || self.store.is_supervised(&state.summary.id)
    }

    fn need_process(&self, state: &State, what: &str) -> Result<(), RuntimeError> {
        if self.has_process(state) {
            return Ok(());
        }
        let name = &state.summary.name;
        Err(RuntimeError::conflict(format!(
            "cannot {what} container: {name}: container {name} is not running"
        )))
    }

    /// Asks something of a container's supervisor.
    pub(crate) fn ask(&self, id: &str, request: &Request) -> Result<i32, RuntimeError> {
        match wire::ask(&self.store.paths(id).supervisor_socket(), request) {
            Ok(code) => Ok(code),
            Err(AskError::Refused(error)) => Err(error),
            Err(AskError::Gone(source)) if self.store.is_supervised(id) => Err(gone(source)),
            Err(AskError::Gone(_)) => {
                let name = self.store.state(id)?.summary.name;
                Err(RuntimeError::conflict(format!("container {name} is not running")))
            }
        }
    }

    /// Ends a container at once, and its supervisor with it if that doesn't listen.
    fn end_by_force(&self, id: &str) -> Result<(), RuntimeError> {
        let request = Request::Stop { signal: Some(SIGKILL), timeout_s: Some(0) };
        let socket = self.store.paths(id).supervisor_socket();
        let asked = UnixStream::connect(socket).and_then(|mut stream| {
            stream.set_read_timeout(Some(FORCE_TIMEOUT))?;
            stream.set_write_timeout(Some(FORCE_TIMEOUT))?;
            wire::send_request(&mut stream, &request)?;
            wire::receive_answer(&mut stream)
        });
        if !matches!(asked, Ok(Ok(_))) && self.store.is_supervised(id) {
            log::warn!(
                "the supervisor of {id} doesn't end its container, and is killed: {asked:?}"
            );
            self.kill_supervisor(id);
        }
        Ok(())
    }

    fn kill_supervisor(&self, id: &str) {
        let Ok(state) = self.store.state(id) else { return };
        let pid = state.supervisor_pid.and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw);
        if let Some(pidfd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            // Its number can't be another's while it holds the lock.
            && self.store.is_supervised(id)
            && let Err(errno) = pidfd_send_signal(&pidfd, Signal::KILL)
        {
            log::warn!("the supervisor of {id} can't be killed: {errno}");
        }
        kill_vmm(&state);
    }

    /// Waits until a container has no supervisor, and keeps it so.
    pub(crate) fn take_life(&self, id: &str) -> Result<LockFile, RuntimeError> {
        self.store.record(id)?;
        let paths = self.store.paths(id);
        crate::paths::make_dir(&paths.run)?;
        let path = paths.life_lock();
        let life = LockFile::take(&path).map_err(file("lock", &path))?;
        // It may have been removed meanwhile, and its directory with it.
        self.store.record(id)?;
        Ok(life)
    }

    /// Removes a container that doesn't run, and its anonymous volumes if that's wanted. Whoever
    /// calls it holds its life: a command, or its supervisor at its end (`--rm`).
    pub(crate) fn discard(
        &self,
        id: &str,
        life: &LockFile,
        volumes: bool,
    ) -> Result<(), RuntimeError> {
        let _ = life;
        let (record, state) = (self.store.record(id)?, self.store.state(id)?);
        kill_vmm(&state);
        self.detach(id);
        let registry = self.store.registry()?;
        registry.remove(id)?;
        let states = self.store.states()?;
        let anonymous = record.mounts.iter().filter(|mount| volumes && mount.anonymous);
        for name in anonymous.filter_map(|mount| mount.name.as_deref()) {
            if !states.iter().any(|state| state.summary.mounts.iter().any(|it| it == name)) {
                match self.volume_store().remove(name) {
                    Ok(_) => self.emit("volume", "destroy", name, []),
                    Err(error) => log::warn!("volume {name} can't be removed: {error}"),
                }
            }
        }
        drop(registry);
        self.emit_container("destroy", &state.summary, []);
        Ok(())
    }

    /// Takes a container off its networks. It's no failure if that fails: what's left is swept
    /// later.
    pub(crate) fn detach(&self, id: &str) {
        if !self.paths.data().join("networks").exists() {
            return;
        }
        let detached =
            self.networks().and_then(|networks| networks.detach(id).map_err(super::network_error));
        if let Err(error) = detached {
            log::warn!("container {id} can't be taken off its networks: {error}");
        }
    }

    /// Tells the truth of a container whose supervisor was killed, or whose host was restarted: it
    /// has ended. None if it was to be removed at its end.
    pub(crate) fn mend(&self, state: State) -> Result<Option<State>, RuntimeError> {
        let id = state.summary.id.as_str();
        if !state.status.is_active() || self.store.is_supervised(id) {
            return Ok(Some(state));
        }
        let Some(life) = self.store.take_life(id)? else { return self.reread(id) };
        // Somebody else may have seen it at the same time.
        let state = match self.store.state(id) {
            Err(RuntimeError::NotFound { .. }) => return Ok(None),
            outcome => outcome?,
        };
        if !state.status.is_active() {
            return Ok(Some(state));
        }
        let id = state.summary.id.as_str();
        kill_vmm(&state);
        self.detach(id);
        let exit_code = [("exitCode", EXIT_LOST.to_string())];
        self.emit_container("die", &state.summary, exit_code);
        if self.store.record(id).is_ok_and(|record| record.config.auto_remove) {
            self.discard(id, &life, true)?;
            return Ok(None);
        }
        self.store.update(id, lose)?;
        self.clear_run_dir(id);
        self.reread(id)
    }

    fn reread(&self, id: &str) -> Result<Option<State>, RuntimeError> {
        match self.store.state(id) {
            Err(RuntimeError::NotFound { .. }) => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// Removes the sockets of a supervisor that's gone. The lock stays: somebody may be waiting for
    /// that very file.
    fn clear_run_dir(&self, id: &str) {
        let paths = self.store.paths(id);
        for child in std::fs::read_dir(&paths.run).into_iter().flatten().flatten() {
            if child.path() != paths.life_lock() {
                let _ = files::remove_file(&child.path());
            }
        }
    }
}

/// What becomes of a state whose supervisor is gone.
fn lose(state: &mut State) {
    state.status = Status::Exited;
    state.exit_code = EXIT_LOST;
    "the supervisor ended, or the host was restarted".clone_into(&mut state.error);
    state.finished = Some(SystemTime::now());
    state.supervisor_pid = None;
    state.vmm = None;
    state.endpoints.clear();
}

/// The VMM ends with its supervisor; this makes sure of it.
fn kill_vmm(state: &State) {
    let Some(process) = state.vmm.as_ref().and_then(crate::process::ProcessIdentity::open) else {
        return;
    };
    if let Err(error) =
        process.signal(Signal::KILL).and_then(|()| process.wait(Some(FORCE_TIMEOUT)))
    {
        log::warn!("the VMM of {} can't be ended: {error}", state.summary.id);
    }
}

fn gone(source: std::io::Error) -> RuntimeError {
    RuntimeError::Protocol { who: "the container's supervisor", source }
}
