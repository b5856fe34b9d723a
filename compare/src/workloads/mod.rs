//! What is measured, and the order in which it is: each workload takes its samples in rounds, one of
//! each way in each round, so that what disturbs the host disturbs all ways alike.

mod density;
mod inside;
mod isolation;
mod network;
mod start;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use compare_probe::http::Answer;
use compare_probe::results;
use serde::de::DeserializeOwned;

use self::table::Table;
pub(crate) use self::table::describe;
use crate::interrupt::Interrupt;
use crate::model::{Aspect, Curve, Row, Timeline, WayId, Workload};
use crate::ways::{Instance, Output, PROBE_PATH, Runner, Spec, WayError, read_some};

/// How long an instance may take until its first sign of life.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Measured rounds.
    pub runs: u32,
    /// Rounds before those, not counted: they bring programs into the page cache, and make the
    /// templates that warm VMs start from.
    pub warm_ups: u32,
    /// The groups of measurements.
    pub workloads: Vec<Workload>,
    /// The command in place of the image's, or empty.
    pub command: Vec<String>,
    /// The port that the image's server listens at, if it's a server.
    pub port: Option<u16>,
    /// The path that the server is asked for.
    pub path: String,
    /// How much work there's to be done: 1 is a moment's on a machine of our days.
    pub scale: f64,
    /// The most instances of the density's measurement.
    pub most_instances: u32,
    /// How long an attempt to connect may take before the next one is made.
    pub attempt: Duration,
}

impl Plan {
    /// What's started: the user's command; the image's own if it's a server; else the program of our
    /// own, which says a word and waits. A full VM runs what's on its disk.
    pub(crate) fn spec(&self, name: String) -> Spec {
        let network = self.port.is_some();
        if network || !self.command.is_empty() {
            return Spec { name, command: self.command.clone(), network, ..Spec::default() };
        }
        Spec { name, command: vec!["idle".to_owned()], probe: true, ..Spec::default() }
    }
}

/// Told what goes on.
pub trait Observer: Sync {
    /// Something begins: `start, run 2 of 5: microVM, warm`.
    fn progress(&self, text: &str);
}

/// What has been found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The table.
    pub rows: Vec<Row>,
    /// Starts, step by step.
    pub timelines: Vec<Timeline>,
    /// What changes as instances are added.
    pub curves: Vec<Curve>,
    /// What each way isolates.
    pub isolation: Vec<Aspect>,
    /// Sentences that a reader should know.
    pub notes: Vec<String>,
    /// Whether it was ended before all was measured.
    pub interrupted: bool,
}

/// Measures.
pub fn measure(
    plan: &Plan,
    runners: &[Arc<dyn Runner>],
    sizes: &Sizes,
    observer: &dyn Observer,
    interrupt: &Interrupt,
) -> Findings {
    let mut session = Session {
        plan,
        runners,
        observer,
        interrupt,
        answer: Answer::Http,
        by_fio: None,
        table: Table::default(),
        findings: Findings::default(),
        names: 0,
    };
    let ordered = Workload::ALL.into_iter().filter(|workload| plan.workloads.contains(workload));
    for workload in ordered {
        if session.is_interrupted() {
            break;
        }
        match workload {
            Workload::Start => {
                session.sizes(sizes);
                session.start();
            }
            Workload::Cpu | Workload::Memory | Workload::Syscall | Workload::Disk => {
                session.inside(workload);
            }
            Workload::Net => session.net(),
            Workload::Web => session.web(),
            Workload::Density => session.density(),
            Workload::Isolation => session.isolation(),
        }
    }
    let ways: Vec<_> = runners.iter().map(|runner| runner.id()).collect();
    let interrupted = session.is_interrupted();
    let rows = session.table.rows(&ways);
    Findings { rows, interrupted, ..session.findings }
}

/// What the image takes, which is known before anything runs.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// Bytes on disk, of each way that has an image.
    pub disk: Vec<(WayId, u64)>,
    /// Bytes over the wire.
    pub wire: Vec<(WayId, u64)>,
    /// What the root file system is made of.
    pub file_systems: Vec<(WayId, String)>,
}

/// A measurement under way.
struct Session<'a> {
    plan: &'a Plan,
    runners: &'a [Arc<dyn Runner>],
    observer: &'a dyn Observer,
    interrupt: &'a Interrupt,
    /// What the image's server is known to speak.
    answer: Answer,
    /// Whether disks are measured by `fio`, once the first one was.
    by_fio: Option<bool>,
    table: Table,
    findings: Findings,
    names: u32,
}

impl<'a> Session<'a> {
    fn is_interrupted(&self) -> bool {
        self.interrupt.is_told()
    }

    /// A name that no instance had before.
    fn name(&mut self) -> String {
        self.names += 1;
        format!("i{}", self.names)
    }

    /// Does something with each way in each round, warm-ups first, until it fails or it's time to
    /// end. What fails once isn't tried again.
    fn rounds<T>(
        &mut self,
        workload: Workload,
        mut ways: Vec<(Arc<dyn Runner>, T)>,
        mut once: impl FnMut(&mut Self, &dyn Runner, &mut T, Round) -> Result<(), WayError>,
    ) {
        let total = self.plan.warm_ups + self.plan.runs;
        for index in 0..total {
            let round = Round { run: index.checked_sub(self.plan.warm_ups) };
            let mut failed = Vec::new();
            for place in 0..ways.len() {
                if self.is_interrupted() {
                    return;
                }
                // Nobody is always the first.
                let place = (place + index as usize) % ways.len();
                let (runner, state) = &mut ways[place];
                let runner = Arc::clone(runner);
                let what = match round.run {
                    None => "warming up".to_owned(),
                    Some(run) => format!("run {} of {}", run + 1, self.plan.runs),
                };
                self.observer.progress(&format!(
                    "{}, {what}: {}",
                    workload.name(),
                    runner.id().title()
                ));
                match once(self, &*runner, state, round) {
                    Ok(()) => {}
                    Err(WayError::Interrupted) => return,
                    Err(error) => {
                        self.table.fail(workload, runner.id(), &error);
                        failed.push(runner.id());
                    }
                }
            }
            ways.retain(|(runner, _)| !failed.contains(&runner.id()));
        }
    }

    /// Starts an idle instance with the program of our own in it, and waits until it runs.
    fn idle(&mut self, runner: &dyn Runner, network: bool) -> Result<Running, WayError> {
        self.run_probe(runner, &["idle"], network, false)
    }

    fn run_probe(
        &mut self,
        runner: &dyn Runner,
        command: &[&str],
        network: bool,
        privileged: bool,
    ) -> Result<Running, WayError> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let spec = Spec { name: self.name(), command, network, probe: true, privileged };
        let mut instance = runner.start(&spec)?;
        if runner.id() == WayId::FullVm {
            // There it waits for commands by itself.
            self.until_login(&mut *instance)?;
        } else {
            first_output(&mut *instance, self.interrupt)?;
        }
        Ok(Running { instance })
    }
}

/// Which round it is.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// The number of the measured run, from 0; none while warming up.
    run: Option<u32>,
}

/// An instance that has given a sign of life.
struct Running {
    instance: Box<dyn Instance>,
}

impl Running {
    /// Runs the program of our own in it, and reads its result.
    fn probe<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T, WayError> {
        parse(&self.probe_output(words)?)
    }

    fn probe_output(&self, words: &[&str]) -> Result<Output, WayError> {
        let mut command = vec![PROBE_PATH];
        command.extend(words);
        self.instance.exec(&command)
    }
}

/// Reads what the program of our own has found. An instance could print anything in its place.
fn parse<T: DeserializeOwned>(output: &Output) -> Result<T, WayError> {
    if output.code != 0 {
        return Err(WayError::Program {
            program: "compare-probe".to_owned(),
            status: format!("exit code {}", output.code),
            message: crate::ways::last(&output.stderr),
        });
    }
    results::parse(&output.stdout).map_err(|error| {
        WayError::Unavailable(format!("the instance gave no proper result: {error}"))
    })
}

/// What the program of our own says first: that it waits, or where it listens.
const SIGNS_OF_LIFE: [&[u8]; 2] = [b"ready", b"{"];

/// Waits for the first output of the program of our own, and has what follows read and thrown away: it mustn't be
/// held up.
fn first_output(instance: &mut dyn Instance, interrupt: &Interrupt) -> Result<(), WayError> {
    let mut output = instance
        .output()
        .ok_or_else(|| WayError::Unavailable("its output is read already".to_owned()))?;
    let first = read_some(&mut output, Instant::now() + PATIENCE, interrupt)
        .map_err(|stopped| stopped.into_way_error("the first output", PATIENCE))?;
    drain(output);
    if !SIGNS_OF_LIFE.iter().any(|sign| first.starts_with(sign)) {
        // Whatever was to run it has failed, and says why.
        return Err(start::ended(instance.wait()?, &first));
    }
    Ok(())
}

/// Reads an output to its end.
fn drain(mut output: std::io::PipeReader) {
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
}

/// Microseconds.
fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
