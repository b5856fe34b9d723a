//! The part that runs in the lab: boots, takes a sample of each boot, and has [`io`] do its part.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::process::setpriority_process;
use serde::{Deserialize, Serialize};

use super::contender::{Guest, Program, Stage};
use super::{What, containers, io, name, snapshot};
use crate::process;
use metering::Cgroup;

/// What `/init` prints once it runs, and prints nothing like before.
pub(super) const MARK: &[u8] = b"@@ready@@";

/// How much of a console an error shows.
const SHOWN_LINES: usize = 30;

/// Command line of the part that runs in the lab.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum)]
    pub(super) what: What,
    /// How often.
    #[arg(long)]
    pub(super) runs: u32,
    /// The directory of our programs.
    #[arg(long)]
    pub(super) programs: PathBuf,
    /// The directory of what guests are booted from.
    #[arg(long)]
    pub(super) artifacts: PathBuf,
    /// Where to write the samples.
    #[arg(long)]
    pub(super) output: PathBuf,
}

impl Args {
    /// Returns the arguments that make this program measure so.
    pub(super) fn command_line(&self) -> Vec<String> {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        [
            ("--runs", self.runs.to_string()),
            ("--programs", path(&self.programs)),
            ("--artifacts", path(&self.artifacts)),
            ("--output", path(&self.output)),
        ]
        .into_iter()
        .fold(
            vec!["bench-run".to_owned(), name(self.what).to_owned()],
            |mut line, (flag, value)| {
                line.extend([flag.to_owned(), value]);
                line
            },
        )
    }
}

/// All that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Samples {
    /// Boots.
    pub(super) boots: Vec<Sample>,
    /// Disks and network cards at work.
    pub(super) io: Vec<io::Sample>,
    /// The API, snapshots and what comes of them.
    pub(super) snapshots: Vec<snapshot::Sample>,
    /// Containers.
    pub(super) containers: Vec<containers::Sample>,
}

/// One boot, measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    /// What was booted.
    pub(super) guest: Guest,
    /// By what.
    pub(super) program: Program,
    /// CPU time from `exec` to the mark, in user space and the guest, in microseconds.
    pub(super) user_us: u64,
    /// The same in the host's kernel.
    pub(super) system_us: u64,
    /// Elapsed time from before `exec` to the mark, in microseconds. The lab's clock leaps while
    /// the lab waits for this machine, for its file system above all: only the least of several
    /// runs says something.
    pub(super) wall_us: u64,
    /// Memory besides the guest's at the mark, of all processes, in KiB.
    pub(super) own_memory_kib: u64,
}

/// Takes the samples and writes them.
///
/// # Errors
///
/// Fails when a guest doesn't come up, or without cgroup v2.
pub(crate) fn run(args: &Args) -> Result<()> {
    let samples = Samples {
        boots: boots(args)?,
        io: io::run(args.what, args.runs, &args.programs, &args.artifacts)?,
        snapshots: snapshot::run(args.what, args.runs, &args.programs, &args.artifacts)?,
        containers: containers::run(args.what, args.runs, &args.programs, &args.artifacts)?,
    };
    let json = serde_json::to_vec(&samples).context("cannot write the samples")?;
    fs::write(&args.output, json).with_context(|| format!("cannot write {}", args.output.display()))
}

fn boots(args: &Args) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    if Guest::of(args.what).is_empty() {
        return Ok(samples);
    }
    let stage = Stage::new(args.what, &args.programs, &args.artifacts)?;
    warm_up(&stage, args.what)?;
    for run in 1..=args.runs {
        for &guest in Guest::of(args.what) {
            for program in Program::ALL {
                let sample = boot(&stage, program, guest)?;
                report_progress(&format!("run {run} of {}", args.runs), &sample);
                samples.push(sample);
            }
        }
    }
    Ok(samples)
}

/// Boots what leaves something behind that later boots find: QEMU's files in the page cache, a
/// kernel that `vmctl` unpacked. QEMU is first: `vmctl` reads a file that has changed within the
/// last two seconds again at the next boot, and the stage's are new.
fn warm_up(stage: &Stage, what: What) -> Result<()> {
    for program in [Program::Qemu, Program::Vmm, Program::Vmctl] {
        for &guest in Guest::of(what) {
            if guest == Guest::Lean || program == Program::Vmctl {
                report_progress("warming up", &boot(stage, program, guest)?);
            }
        }
    }
    Ok(())
}

fn report_progress(run: &str, sample: &Sample) {
    let &Sample { guest, program, user_us, system_us, own_memory_kib, .. } = sample;
    eprintln!(
        "{run}: {}, {}: {} ms of CPU time, {own_memory_kib} KiB",
        guest.title(),
        program.title(),
        (user_us + system_us) / 1000
    );
}

/// Boots once, up to the mark.
fn boot(stage: &Stage, program: Program, guest: Guest) -> Result<Sample> {
    let cgroup = Cgroup::create("xtask-bench")?;
    let mut command = cgroup.enter(&stage.command(program, guest));
    // A pipe that stays open: the end of its input would be news to a console.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().map_err(|error| process::spawn_error(&command, error))?;
    let reached = wait_for_mark(&mut child)
        .and_then(|()| take_sample(&cgroup, started, program, guest))
        .with_context(|| format!("{} didn't boot {}", program.title(), guest.title()));
    cgroup.kill()?;
    child.wait().context("cannot wait for a killed process")?;
    reached
}

fn take_sample(
    cgroup: &Cgroup,
    started: Instant,
    program: Program,
    guest: Guest,
) -> Result<Sample> {
    let wall = started.elapsed();
    let cpu = cgroup.cpu_time()?;
    let mut own_memory_kib = 0;
    for process in cgroup.processes()? {
        own_memory_kib += metering::own_pss_kib(process, guest.memory_mib() << 20)?;
    }
    Ok(Sample {
        guest,
        program,
        user_us: cpu.user_us,
        system_us: cpu.system_us,
        wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
        own_memory_kib,
    })
}

/// Reads a machine's console up to the mark.
///
/// # Errors
///
/// Fails when the console ends before.
pub(super) fn wait_for_mark(child: &mut Child) -> Result<()> {
    let _ahead = Ahead::of_others()?;
    let output = child.stdout.as_mut().context("the console is piped")?;
    let mut console = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = output.read(&mut buffer).context("cannot read the console")?;
        if count == 0 {
            let text = String::from_utf8_lossy(&console).into_owned();
            bail!("its console ended{}", process::last_lines(&text, SHOWN_LINES));
        }
        // A mark may come in pieces.
        let from = console.len().saturating_sub(MARK.len());
        console.extend_from_slice(&buffer[..count]);
        if console[from..].windows(MARK.len()).any(|bytes| bytes == MARK) {
            return Ok(());
        }
    }
}

/// Lets this process run as soon as it has something to read, not when the measured one, on the
/// same CPU, has used up its slice.
pub(super) struct Ahead;

impl Ahead {
    /// Raises the priority until the result is dropped.
    ///
    /// # Errors
    ///
    /// Fails without the right to do so.
    pub(super) fn of_others() -> Result<Self> {
        setpriority_process(None, -20).context("cannot raise the priority")?;
        Ok(Self)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Lowering it is allowed to everybody.
        let _ = setpriority_process(None, 0);
    }
}
