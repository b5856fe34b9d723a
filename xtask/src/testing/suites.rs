//! Runs the suites that boot guests: on this machine, or each in a lab of its own.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use super::libtest::{Results, Sink};
use super::programs::{self, Program};
use super::{Args, run_parsed};
use crate::dirs;
use crate::lab::{self, Console, Outcome, Spec};
use crate::probe::{self, Place};

/// How long a suite may take in the lab, where every instruction is emulated.
const LAB_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Processors of each lab, and tests at once in it. One, because QEMU's multi-threaded emulation
/// loses a race that KVM's own code patching relies on (`text_poke`): seen as an int3 oops of the
/// lab's kernel while VMs come and go. Two labs side by side use two processors just as well.
const LAB_CPUS: u32 = 1;

/// The lab's memory: above the 5 GiB of the largest guest. Taken from the host as it's used.
const LAB_MEMORY: &str = "7G";

/// The suites that run on this machine, wherever guests run.
const HOST_SUITES: [&str; 2] = ["api_host", "live"];

/// What suites may be told by whoever runs them, in the lab, too.
const PASSED_ON: [&str; 1] = ["VMCTL_SOAK_ROUNDS"];

/// A suite, and everything that its run depends on.
struct Suite<'a> {
    program: Program,
    artifacts: &'a Path,
    logs: PathBuf,
    filter: Option<&'a str>,
}

/// Builds the suites and runs them.
///
/// # Errors
///
/// Fails when they can't be built or run.
pub(super) fn run(args: &Args, artifacts: &Path, logs: &Path, results: &mut Results) -> Result<()> {
    let mut programs = programs::build()?;
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    for name in &args.suites {
        ensure!(programs.iter().any(|other| other.name == *name), "there is no suite named {name}");
    }
    let place = choose_place(args);
    match &place {
        Place::Native(module) => eprintln!("Guests run on this machine: it has {module}"),
        Place::Lab(reason) => eprintln!("Guests run in the lab: {reason}"),
    }
    let mut queue = VecDeque::new();
    for program in programs {
        if args.suites.is_empty() || args.suites.contains(&program.name) {
            let logs = logs.join(&program.name);
            let filter = args.filter.as_deref();
            queue.push_back(Suite { program, artifacts, logs, filter });
        }
    }
    let jobs = args.jobs.map_or_else(default_jobs, usize::from).min(queue.len());
    run_all(queue, jobs, &place, results)
}

fn choose_place(args: &Args) -> Place {
    if args.native {
        return Place::Native("KVM, as --native claims");
    }
    if args.lab {
        return Place::Lab("--lab asks for it".to_owned());
    }
    match probe::place() {
        // The suites make TAP devices and network namespaces.
        Place::Native(_) if !rustix::process::geteuid().is_root() => {
            Place::Lab("the suites need root, which they are there".to_owned())
        }
        place => place,
    }
}

fn default_jobs() -> usize {
    thread::available_parallelism().map_or(1, |cpus| cpus.get())
}

fn run_all(
    queue: VecDeque<Suite<'_>>,
    jobs: usize,
    place: &Place,
    results: &mut Results,
) -> Result<()> {
    let queue = Mutex::new(queue);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let outcomes: Vec<Result<Results>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| {
                    let mut sum = Results::default();
                    while let Some(suite) = next() {
                        sum.add(suite.run(place)?);
                    }
                    Ok(sum)
                })
            })
            .collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    for outcome in outcomes {
        results.add(outcome?);
    }
    Ok(())
}

impl Suite<'_> {
    fn run(&self, place: &Place) -> Result<Results> {
        // What an earlier run has left would be taken for this one's.
        if self.logs.exists() {
            fs::remove_dir_all(&self.logs)
                .with_context(|| format!("cannot delete {}", self.logs.display()))?;
        }
        fs::create_dir_all(&self.logs)
            .with_context(|| format!("cannot create {}", self.logs.display()))?;
        let log = self.logs.join("output.log");
        let sink = Sink::new(&self.program.name, &log, true)?;
        let problem = match place {
            // They boot no guest, and get their tools from the network.
            _ if HOST_SUITES.contains(&self.program.name.as_str()) => self.run_natively(&sink)?,
            Place::Native(_) => self.run_natively(&sink)?,
            Place::Lab(_) => self.run_in_lab(&sink)?,
        };
        let filtered_out = self.filter.is_some();
        let results = sink.finish(&self.program.name, problem, &log);
        if filtered_out && results.passed + results.failed.len() + results.skipped.len() == 0 {
            eprintln!("{}: no test has such a name", self.program.name);
        }
        Ok(results)
    }

    fn run_natively(&self, sink: &Sink) -> Result<String> {
        let mut command = Command::new(&self.program.path);
        command.args(self.arguments()).envs(self.environment(&self.logs));
        command.current_dir(dirs::workspace().join("tests"));
        run_parsed(command, sink)
    }

    fn run_in_lab(&self, sink: &Sink) -> Result<String> {
        let mut command = vec![self.program.path.to_string_lossy().into_owned()];
        command.extend(self.arguments());
        let mut spec = Spec::new(command);
        spec.memory = LAB_MEMORY.to_owned();
        spec.cpus = LAB_CPUS;
        spec.timeout = Some(LAB_LIMIT);
        spec.results = Some(self.logs.clone());
        spec.env = self.environment(Path::new(lab::RESULTS_DIR));
        spec.cwd = Some(dirs::workspace().join("tests"));
        let console = Console::Streams {
            stdin: false,
            stdout: Box::new(sink.clone()),
            stderr: Box::new(sink.for_errors()),
        };
        Ok(match spec.run(console)? {
            Outcome::Exited(0) => String::new(),
            Outcome::Exited(code) => format!("exit code {code}"),
            Outcome::TimedOut { .. } => {
                format!("not finished within {} minutes", LAB_LIMIT.as_secs() / 60)
            }
            Outcome::Died { kernel_log } => format!("the lab ended early:{kernel_log}"),
            Outcome::Escaped => "left by the escape sequence".to_owned(),
        })
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--test-threads={LAB_CPUS}"), "--show-output".to_owned()];
        if self.program.only_ignored {
            arguments.push("--ignored".to_owned());
        }
        arguments.extend(self.filter.map(str::to_owned));
        arguments
    }

    fn environment(&self, logs: &Path) -> Vec<(String, String)> {
        let release = dirs::target().join("release");
        let mut environment = [
            ("VMCTL_BIN", release.join("vmctl")),
            ("VMM_BIN", release.join("vmm")),
            ("VMCTL_ARTIFACTS", self.artifacts.to_owned()),
            ("VMCTL_TEST_LOGS", logs.to_owned()),
        ]
        .map(|(name, path)| (name.to_owned(), path.to_string_lossy().into_owned()))
        .to_vec();
        environment.extend(
            PASSED_ON
                .iter()
                .filter_map(|name| env::var(name).ok().map(|value| (String::from(*name), value))),
        );
        environment
    }
}
