//! Runners that run nothing: what the live page is tried with where there is neither KVM nor a
//! container runtime. Every instance follows a script.

#![allow(dead_code, reason = "its users each take a part of it")]

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use compare::model::{Better, Cell, Figure, Outcome, Row, Step, Unit, WayId, Workload};
use compare::serve::{Show, WorkloadRunner};
use compare::ways::{Instance, Output, Runner, Spec, Usage, WayError};

/// What an instance does.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    /// How long after its start.
    pub(crate) after: Duration,
    /// What it does then.
    pub(crate) does: Does,
}

/// See [`Act`].
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// It reaches a step.
    Step(&'static str),
    /// It prints.
    Print(Vec<u8>),
    /// It prints again and again, until it's stopped.
    Flood(Vec<u8>),
    /// It closes its output, and goes on.
    Close,
    /// It ends by itself.
    Exit(i32),
}

/// A way that isn't one.
pub(crate) struct FakeRunner {
    /// The way that it plays.
    pub(crate) way: WayId,
    /// What its instances do.
    pub(crate) script: Vec<Act>,
    /// Why there are none, if there are none.
    pub(crate) refuses: Option<String>,
    /// How many are there.
    pub(crate) alive: Arc<AtomicUsize>,
    /// When each was started.
    pub(crate) starts: Arc<Mutex<Vec<Instant>>>,
}

impl FakeRunner {
    /// A way whose instances follow a script.
    pub(crate) fn new(way: WayId, script: Vec<Act>) -> Self {
        Self { way, script, refuses: None, alive: Arc::default(), starts: Arc::default() }
    }
}

impl Runner for FakeRunner {
    fn id(&self) -> WayId {
        self.way
    }

    fn detail(&self) -> String {
        format!("a fake {}", self.way.title())
    }

    fn start(&self, spec: &Spec) -> Result<Box<dyn Instance>, WayError> {
        assert!(spec.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
        if let Some(reason) = &self.refuses {
            return Err(WayError::Unavailable(reason.clone()));
        }
        let system = |source| WayError::System { what: "make a pipe".to_owned(), source };
        let (output, writer) = pipe().map_err(system)?;
        let started = Instant::now();
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).push(started);
        let (stop, stopped) = mpsc::channel();
        let (exit, exited) = mpsc::channel();
        let steps = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let actor = Actor {
            started,
            writer: Some(writer),
            stopped,
            exit,
            steps: steps.clone(),
            stopping: stopping.clone(),
        };
        let script = self.script.clone();
        thread::spawn(move || actor.play(script));
        self.alive.fetch_add(1, Ordering::SeqCst);
        let output = Some(output);
        let alive = self.alive.clone();
        Ok(Box::new(FakeInstance { started, output, steps, stop, stopping, exited, alive }))
    }
}

struct Actor {
    started: Instant,
    writer: Option<PipeWriter>,
    stopped: Receiver<()>,
    exit: Sender<i32>,
    steps: Arc<Mutex<Vec<Step>>>,
    stopping: Arc<AtomicBool>,
}

impl Actor {
    /// Prints, if anybody reads it.
    fn print(&mut self, bytes: &[u8]) {
        let _ = self.writer.as_mut().map(|writer| writer.write_all(bytes));
    }

    fn play(mut self, script: Vec<Act>) {
        let mut code = 143;
        for act in script {
            let left = act.after.saturating_sub(self.started.elapsed());
            if self.stopped.recv_timeout(left) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            match act.does {
                Does::Step(name) => {
                    let at_us = self.started.elapsed().as_secs_f64() * 1e6;
                    let step = Step { name: name.to_owned(), at_us };
                    self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
                }
                Does::Print(bytes) => self.print(&bytes),
                Does::Close => self.writer = None,
                Does::Flood(bytes) => {
                    while !self.stopping.load(Ordering::Relaxed) {
                        self.print(&bytes);
                    }
                }
                Does::Exit(exit) => {
                    code = exit;
                    let _ = self.exit.send(code);
                    return;
                }
            }
        }
        let _ = self.stopped.recv();
        let _ = self.exit.send(code);
    }
}

struct FakeInstance {
    started: Instant,
    output: Option<PipeReader>,
    steps: Arc<Mutex<Vec<Step>>>,
    stop: Sender<()>,
    stopping: Arc<AtomicBool>,
    exited: Receiver<i32>,
    alive: Arc<AtomicUsize>,
}

impl Instance for FakeInstance {
    fn started(&self) -> Instant {
        self.started
    }

    fn output(&mut self) -> Option<PipeReader> {
        self.output.take()
    }

    fn address(&mut self, _port: u16) -> Result<SocketAddr, WayError> {
        Err(WayError::Unavailable("it has no network".to_owned()))
    }

    fn steps(&mut self) -> Vec<Step> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn usage(&self) -> Result<Usage, WayError> {
        let age = self.started.elapsed();
        // A quarter of a processor, and memory that grows for a while.
        let cpu_us = u64::try_from(age.as_micros() / 4).unwrap_or(u64::MAX);
        let pss_bytes = (20 << 20) + age.as_secs().min(30) * (1 << 20);
        Ok(Usage { cpu_us, pss_bytes, processes: 2 })
    }

    fn exec(&self, _command: &[&str]) -> Result<Output, WayError> {
        Err(WayError::Unavailable("it runs nothing".to_owned()))
    }

    fn try_wait(&mut self) -> Result<Option<i32>, WayError> {
        Ok(self.exited.try_recv().ok())
    }

    fn wait(&mut self) -> Result<i32, WayError> {
        self.exited.recv().map_err(|_| WayError::Unavailable("it has no exit code".to_owned()))
    }

    fn stop(&mut self) -> Result<(), WayError> {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.stop.send(());
        Ok(())
    }
}

impl Drop for FakeInstance {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.stop.send(());
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Measures by counting how often it was asked.
#[derive(Default)]
pub(crate) struct FakeWorkloads {
    runs: AtomicUsize,
}

impl WorkloadRunner for FakeWorkloads {
    fn run(&self, workload: Workload, progress: &dyn Fn(String)) -> Result<Vec<Row>, String> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        progress(format!("run {run}"));
        match workload {
            Workload::Disk => Err("this disk is <b>not</b> there".to_owned()),
            _ => Ok(vec![row(workload, run)]),
        }
    }

    fn cancel(&self) {}
}

/// A row whose numbers tell the runs apart.
pub(crate) fn row(workload: Workload, run: usize) -> Row {
    let base = run as f64 * 1000.0;
    let cell = |(way, factor): (WayId, f64)| {
        let samples = vec![base * factor * 0.9, base * factor, base * factor * 1.2];
        let outcome = match (way, Figure::of(samples)) {
            (WayId::FullVm, _) => Outcome::Failed { reason: "no disk for it".to_owned() },
            (_, Some(figure)) => Outcome::Measured(figure),
            (_, None) => Outcome::Said { text: "nothing".to_owned() },
        };
        Cell { way, outcome }
    };
    Row {
        id: format!("{}.fake", workload.name()),
        title: format!("A fake figure of {}", workload.name()),
        workload,
        unit: Unit::Microseconds,
        better: Better::Lower,
        note: None,
        cells: WayId::ALL.into_iter().zip([1.0, 4.0, 2.0, 40.0]).map(cell).collect(),
    }
}

/// An instance that prints a text at once, after one step, and stays.
pub(crate) fn greeting(step: &'static str, text: impl Into<Vec<u8>>) -> Vec<Act> {
    let act = |does| Act { after: Duration::ZERO, does };
    vec![act(Does::Step("command started")), act(Does::Step(step)), act(Does::Print(text.into()))]
}

/// A show of such runners, with a table and workloads that can be measured again.
pub(crate) fn show(runners: Vec<Arc<dyn Runner>>) -> Show {
    Show {
        image: "registry.test/nginx:1.25".to_owned(),
        runners,
        spec: Spec::default(),
        rows: vec![row(Workload::Start, 0), row(Workload::Cpu, 0)],
        workloads: vec![Workload::Start, Workload::Cpu, Workload::Disk],
        workload_runner: Some(Arc::new(FakeWorkloads::default())),
    }
}
