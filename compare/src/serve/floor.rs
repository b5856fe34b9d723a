//! The floor: starts and stops instances, each of which has a keeper, and runs workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use super::board::Board;
use super::keeper::{self, Keeper, Order};
use super::view::{Phase, Progress, ProgressPhase};
use super::{MAX_INSTANCES, Show, WorkloadRunner};
use crate::model::{WayId, Workload};
use crate::ways::{Runner, Spec};

/// See the module.
pub(super) struct Floor {
    runners: BTreeMap<WayId, Arc<dyn Runner>>,
    spec: Spec,
    workloads: Vec<Workload>,
    workload_runner: Option<Arc<dyn WorkloadRunner>>,
    board: Arc<Board>,
    prefix: String,
    staff: Mutex<Staff>,
}

#[derive(Default)]
struct Staff {
    keepers: BTreeMap<String, (Sender<Order>, JoinHandle<Option<String>>)>,
    workload: Option<JoinHandle<()>>,
    started: u64,
    closed: bool,
}

/// Why an order isn't followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotDone {
    /// There's no such way here.
    #[error("there is no way {0} here")]
    NoSuchWay(WayId),
    /// Nothing, or the same twice.
    #[error("a race needs ways, each once")]
    NoRace,
    /// There are enough.
    #[error("there are {MAX_INSTANCES} instances at most")]
    TooMany,
    /// There's no such instance.
    #[error("there is no such instance")]
    NoSuchInstance,
    /// It can't be measured here.
    #[error("this workload can't be measured here")]
    NoSuchWorkload,
    /// One is enough.
    #[error("a workload is being measured already")]
    Busy,
    /// The server ends, or has no thread left.
    #[error("the server can't take this on now")]
    Unable,
}

impl Floor {
    pub(super) fn new(show: Show, board: Arc<Board>) -> Self {
        Self {
            runners: show.runners.into_iter().map(|runner| (runner.id(), runner)).collect(),
            spec: show.spec,
            workloads: show.workloads,
            workload_runner: show.workload_runner,
            board,
            // Others' instances may have names of this kind, too.
            prefix: format!("live-{:06x}", fastrand::u32(..1 << 24)),
            staff: Mutex::default(),
        }
    }

    fn staff(&self) -> MutexGuard<'_, Staff> {
        self.staff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an instance in each of the ways, all at the same moment. Returns their names.
    pub(super) fn start(&self, ways: &[WayId]) -> Result<Vec<String>, NotDone> {
        if ways.is_empty() || ways.iter().collect::<BTreeSet<_>>().len() < ways.len() {
            return Err(NotDone::NoRace);
        }
        if let Some(unknown) = ways.iter().find(|way| !self.runners.contains_key(way)) {
            return Err(NotDone::NoSuchWay(*unknown));
        }
        let mut staff = self.staff();
        if staff.closed {
            return Err(NotDone::Unable);
        }
        staff.keepers.retain(|_, (_, thread)| !thread.is_finished());
        let mut new = Vec::new();
        for way in ways {
            staff.started += 1;
            new.push((format!("{}-{way}-{}", self.prefix, staff.started), *way));
        }
        if !self.board.add(&new) {
            return Err(NotDone::TooMany);
        }
        // All keepers wait here until the last one is there.
        let gate = Arc::new(RwLock::new(()));
        let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
        for (name, way) in &new {
            self.employ(&mut staff, name, &self.runners[way], &gate);
        }
        drop(closed);
        Ok(new.into_iter().map(|(name, _)| name).collect())
    }

    fn employ(
        &self,
        staff: &mut Staff,
        name: &str,
        runner: &Arc<dyn Runner>,
        gate: &Arc<RwLock<()>>,
    ) {
        let (orders, inbox) = mpsc::channel();
        let spec = Spec { name: name.to_owned(), ..self.spec.clone() };
        let keeper = Keeper::new(spec, self.board.clone(), inbox, orders.clone());
        let (runner, gate) = (runner.clone(), gate.clone());
        let thread =
            thread::Builder::new().name(format!("keeper-{}", staff.started)).spawn(move || {
                drop(gate.read().unwrap_or_else(PoisonError::into_inner));
                keeper.keep(&*runner)
            });
        match thread {
            Ok(thread) => drop(staff.keepers.insert(name.to_owned(), (orders, thread))),
            Err(error) => keeper::end(&self.board, name, None, Some(error.to_string())),
        }
    }

    /// Has an instance stopped.
    pub(super) fn stop(&self, name: &str) -> Result<(), NotDone> {
        let staff = self.staff();
        if !self.board.update(name, mark_stopping) {
            return Err(NotDone::NoSuchInstance);
        }
        if let Some((orders, _)) = staff.keepers.get(name) {
            // A keeper that's gone has nothing left to stop.
            let _ = orders.send(Order::Stop);
        }
        Ok(())
    }

    /// Has all instances stopped.
    pub(super) fn stop_all(&self) {
        let staff = self.staff();
        for (name, (orders, _)) in &staff.keepers {
            if orders.send(Order::Stop).is_ok() {
                self.board.update(name, mark_stopping);
            }
        }
    }

    /// Tells the keepers that somebody listens from now on.
    pub(super) fn wake(&self) {
        for (orders, _) in self.staff().keepers.values() {
            let _ = orders.send(Order::Look);
        }
    }

    /// Measures a workload again.
    pub(super) fn measure(&self, workload: Workload) -> Result<(), NotDone> {
        let runner = self.workload_runner.clone().filter(|_| self.workloads.contains(&workload));
        let runner = runner.ok_or(NotDone::NoSuchWorkload)?;
        let mut staff = self.staff();
        if staff.closed {
            return Err(NotDone::Unable);
        }
        if !self.board.begin(workload) {
            return Err(NotDone::Busy);
        }
        let board = self.board.clone();
        let thread = thread::Builder::new()
            .name("workload".to_owned())
            .spawn(move || measure(&*runner, workload, &board));
        match thread {
            Ok(thread) => staff.workload = Some(thread),
            Err(error) => self.board.progress(Progress {
                workload,
                phase: ProgressPhase::Failed,
                text: error.to_string(),
            }),
        }
        Ok(())
    }

    /// Removes everything, and returns what couldn't be.
    pub(super) fn close(&self) -> Vec<String> {
        let mut staff = self.staff();
        staff.closed = true;
        let keepers = std::mem::take(&mut staff.keepers);
        let workload = staff.workload.take();
        drop(staff);
        keepers.values().for_each(|(orders, _)| drop(orders.send(Order::Stop)));
        if let (Some(_), Some(runner)) = (&workload, &self.workload_runner) {
            runner.cancel();
        }
        let mut left = Vec::new();
        for (name, (_, thread)) in keepers {
            match thread.join() {
                Ok(problem) => left.extend(problem.map(|problem| format!("{name}: {problem}"))),
                Err(_) => left.push(format!("{name}: its keeper has failed")),
            }
        }
        // How a run that was cancelled has ended is nobody's business any more.
        let _ = workload.map(JoinHandle::join);
        left
    }
}

fn mark_stopping(instance: &mut super::view::Instance) {
    if instance.phase != Phase::Ended {
        instance.phase = Phase::Stopping;
    }
}

fn measure(runner: &dyn WorkloadRunner, workload: Workload, board: &Board) {
    let tell = |phase, text| board.progress(Progress { workload, phase, text });
    match runner.run(workload, &|text| tell(ProgressPhase::Running, text)) {
        Ok(rows) => {
            board.rows(workload, rows);
            tell(ProgressPhase::Done, "measured again".to_owned());
        }
        Err(reason) => tell(ProgressPhase::Failed, reason),
    }
}
