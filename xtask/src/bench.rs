//! `cargo xtask bench`: whole processes measured in the lab, beside QEMU's microvm.
//!
//! Under an instruction-counting clock, CPU time comes out nearly equal in every run; wall time
//! says little there. So what is compared is CPU time, with contenders taking turns in one lab.
//!
//! The parts: [`contender`] says what boots are compared, [`measure`] runs in the lab and takes
//! samples, [`io`] has its own guests for disks and network cards, [`snapshot`] for the API, restores
//! and clones, [`containers`] for containers beside podman's and crun's, [`cgroup`] and [`smaps`] count CPU time and memory, [`report`] holds the samples to the
//! bars.

mod containers;
mod contender;
mod io;
mod measure;
mod report;
mod snapshot;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(crate) use self::measure::{Args as RunArgs, run as run_inside};
use self::report::Report;
use crate::lab::{self, Console, Outcome, Spec};
use crate::packages::{self, Consent, Purpose};
use crate::progress::step;
use crate::{artifacts, dirs, guest};

/// How long the measurements may take; five runs take about a fifth of this on an idle machine.
const LAB_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Room for a hundred clones, and for snapshots in memory.
const LAB_MEMORY: &str = "6G";

/// The samples' file, in the lab's directory of results.
const SAMPLES: &str = "samples.json";

/// Command line of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum, default_value_t = What::All)]
    what: What,

    /// How often to measure each contender.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,

    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// CPU time from the start of the process to the guest's `/init`.
    Boot,
    /// The process's own memory, without the guest's, when the guest is up.
    Memory,
    /// CPU time per operation of a disk: fio in the guest.
    Block,
    /// CPU time per MiB of a network card: iperf3 in the guest.
    Net,
    /// CPU time of the API, snapshots and restores; memory of clones.
    Snapshot,
    /// CPU time, memory and disk space of containers, beside podman's and crun's.
    Containers,
    /// All of it.
    All,
}

impl What {
    fn has_boot(self) -> bool {
        matches!(self, Self::Boot | Self::All)
    }

    fn has_memory(self) -> bool {
        matches!(self, Self::Memory | Self::All)
    }

    fn has_block(self) -> bool {
        matches!(self, Self::Block | Self::All)
    }

    fn has_net(self) -> bool {
        matches!(self, Self::Net | Self::All)
    }

    fn has_snapshot(self) -> bool {
        matches!(self, Self::Snapshot | Self::All)
    }

    fn has_containers(self) -> bool {
        matches!(self, Self::Containers | Self::All)
    }
}

/// Runs `cargo xtask bench`.
///
/// # Errors
///
/// Fails when a contender doesn't boot its guest. A bar that isn't met is a result, no failure.
pub(crate) fn run(args: &Args) -> Result<()> {
    packages::install(packages::ALL, Consent::Ask)?;
    if args.what.has_containers() {
        packages::install(&[Purpose::Contenders], Consent::Ask)?;
    }
    let artifacts = artifacts::obtain_all()?;
    guest::install()?;
    if args.what.has_snapshot() {
        artifacts::obtain_answer_initramfs(&step("Building guest-answer", || {
            guest::build("guest-answer")
        })?)?;
    }
    let results = dirs::target().join("xtask/bench");
    fs::create_dir_all(&results).with_context(|| format!("cannot create {}", results.display()))?;
    step("Measuring in the lab", || measure_in_lab(args, &artifacts, &results))?;

    let samples = results.join(SAMPLES);
    let text = fs::read(&samples).with_context(|| format!("cannot read {}", samples.display()))?;
    let samples = serde_json::from_slice(&text).context("cannot read the lab's samples")?;
    let vmm = dirs::target().join("release/vmm");
    let vmm_bytes =
        fs::metadata(&vmm).with_context(|| format!("cannot read {}", vmm.display()))?.len();
    let report = Report::new(args.what, samples, vmm_bytes);

    let json = serde_json::to_string_pretty(&report).context("cannot write the results")?;
    let file = results.join(format!("{}.json", name(args.what)));
    fs::write(&file, &json).with_context(|| format!("cannot write {}", file.display()))?;
    if args.json {
        println!("{json}");
    } else {
        print!("\n{report}\nAs JSON: {}\n", file.display());
    }
    Ok(())
}

fn name(what: What) -> &'static str {
    match what {
        What::Boot => "boot",
        What::Memory => "memory",
        What::Block => "block",
        What::Net => "net",
        What::Snapshot => "snapshot",
        What::Containers => "containers",
        What::All => "all",
    }
}

/// Runs this program in the lab, with one CPU: instructions are counted on one thread anyway.
fn measure_in_lab(args: &Args, artifacts: &Path, results: &Path) -> Result<()> {
    // A copy: a build meanwhile would take the original away.
    let this = results.join("xtask");
    fs::copy("/proc/self/exe", &this)
        .with_context(|| format!("cannot copy this program to {}", this.display()))?;
    let inside = RunArgs {
        what: args.what,
        runs: args.runs,
        programs: dirs::target().join("release"),
        artifacts: artifacts.to_owned(),
        output: Path::new(lab::RESULTS_DIR).join(SAMPLES),
    };
    let mut command = vec![this.to_string_lossy().into_owned()];
    command.extend(inside.command_line());
    let mut spec = Spec::new(command);
    spec.cpus = 1;
    spec.icount = true;
    spec.memory = LAB_MEMORY.to_owned();
    spec.timeout = Some(LAB_LIMIT);
    spec.results = Some(results.to_owned());
    let console = Console::Streams {
        stdin: false,
        stdout: Box::new(std::io::stderr()),
        stderr: Box::new(std::io::stderr()),
    };
    match spec.run(console)? {
        Outcome::Exited(0) => Ok(()),
        Outcome::Exited(code) => bail!("the measurement in the lab failed (exit code {code})"),
        Outcome::TimedOut { .. } => {
            bail!("not finished within {} minutes", LAB_LIMIT.as_secs() / 60)
        }
        Outcome::Died { kernel_log } => bail!("the lab ended early:{kernel_log}"),
        Outcome::Escaped => bail!("left by the escape sequence"),
    }
}
