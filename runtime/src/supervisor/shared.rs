//! What a supervisor's threads share: the container, and where in its life it is.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_proto::Client;

use super::hub::Hub;
use crate::paths::ContainerPaths;
use crate::record::{ContainerRecord, State};
use crate::vmm::VmmKiller;
use crate::{Engine, RuntimeError};

/// The container and its life.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) id: String,
    pub(super) paths: ContainerPaths,
    pub(super) record: ContainerRecord,
    life: Mutex<Life>,
    changed: Condvar,
}

#[derive(Debug)]
struct Life {
    phase: Phase,
    /// Whether it's not to be started again.
    ending: bool,
    /// Requests whose answers are still to be sent.
    unanswered: usize,
}

/// Where in its life a container is.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Its VM comes up, or goes.
    Between,
    /// Its process runs.
    Running(Arc<Running>),
    /// It awaits its restart.
    Waiting,
    /// All is over, with this exit code.
    Over(i32),
}

/// A container's running process.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) client: Client,
    pub(super) hub: Arc<Hub>,
    pub(super) killer: VmmKiller,
}

/// A request that's being worked on: a supervisor's process lasts until it's answered.
#[derive(Debug)]
pub(super) struct Unanswered<'a>(&'a Shared);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let mut life = self.0.life();
        life.unanswered = life.unanswered.saturating_sub(1);
        self.0.changed.notify_all();
    }
}

impl Shared {
    pub(super) fn new(engine: Engine, paths: ContainerPaths, record: ContainerRecord) -> Self {
        let life = Life { phase: Phase::Between, ending: false, unanswered: 0 };
        let id = record.id.clone();
        Self { engine, id, paths, record, life: Mutex::new(life), changed: Condvar::new() }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.life().phase = phase;
        self.changed.notify_all();
    }

    pub(super) fn phase(&self) -> Phase {
        self.life().phase.clone()
    }

    /// Sees that the container isn't started again.
    pub(super) fn end_for_good(&self) {
        self.life().ending = true;
        self.changed.notify_all();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.life().ending
    }

    pub(super) fn unanswered(&self) -> Unanswered<'_> {
        self.life().unanswered += 1;
        Unanswered(self)
    }

    /// Waits until `is_there` says so of the phase, or until `deadline`; returns whether it does.
    pub(super) fn wait(
        &self,
        deadline: Option<Instant>,
        is_there: impl Fn(&Phase) -> bool,
    ) -> bool {
        self.wait_life(deadline, |life| is_there(&life.phase))
    }

    /// Waits until the container isn't to be started again, for as long as `time` at most; returns
    /// whether that's so.
    pub(super) fn wait_ending(&self, time: Duration) -> bool {
        self.wait_life(Instant::now().checked_add(time), |life| life.ending)
    }

    /// Waits until all requests are answered, for as long as `time` at most.
    pub(super) fn wait_answered(&self, time: Duration) {
        self.wait_life(Instant::now().checked_add(time), |life| life.unanswered == 0);
    }

    fn wait_life(&self, deadline: Option<Instant>, is_there: impl Fn(&Life) -> bool) -> bool {
        let mut life = self.life();
        while !is_there(&life) {
            life = match deadline {
                None => self.changed.wait(life).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let waited = self.changed.wait_timeout(life, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    /// The exit code, once all is over.
    pub(super) fn wait_over(&self) -> i32 {
        self.wait(None, |phase| matches!(phase, Phase::Over(_)));
        match self.phase() {
            Phase::Over(code) => code,
            _ => crate::EXIT_LOST,
        }
    }

    /// Changes the state on disk.
    pub(super) fn update<T>(
        &self,
        change: impl FnOnce(&mut State) -> T,
    ) -> Result<T, RuntimeError> {
        self.engine.store().update(&self.id, change)
    }

    /// Changes the state on disk, where there's nobody to tell of a failure.
    pub(super) fn note(&self, change: impl FnOnce(&mut State)) {
        if let Err(error) = self.update(change) {
            log::error!("the container's state can't be written: {error}");
        }
    }

    /// Tells of something that happened to the container.
    pub(super) fn emit(&self, action: &str, further: Option<(&'static str, String)>) {
        match self.engine.store().state(&self.id) {
            Ok(state) => self.engine.emit_container(action, &state.summary, further),
            Err(error) => log::warn!("{action} isn't told of: {error}"),
        }
    }
}
