//! Containers as virtual machines, beside `podman run` and `crun run` of the same image.
//!
//! All of a contender's processes are counted, those that outlive the command included: its
//! supervisor and VMM, or `conmon`. A sample is taken when they are all gone.

mod host;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use self::host::{Host, Measured};
use super::What;
use super::measure::Ahead;

/// The image that's run.
const IMAGE: &str = "busybox";

/// The image that's pulled: one of a size that people have.
const PULLED_IMAGE: &str = "nginx";

/// How many idle containers there are at a time.
pub(super) const COUNTS: [u32; 3] = [1, 10, 50];

/// Who runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Contender {
    /// `vmctl`, each container's VM booted.
    Cold,
    /// `vmctl`, VMs restored from a template.
    Warm,
    /// `podman`.
    Podman,
    /// `crun`, with the root file system unpacked beforehand.
    Crun,
}

/// Something measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Figure {
    /// CPU time of `run --rm IMAGE true`, until nothing of it is left.
    Run,
    /// The same without a network.
    RunWithoutNetwork,
    /// CPU time of `run --rm IMAGE echo` to the first byte of output.
    FirstByte,
    /// Elapsed time of the same.
    FirstByteElapsed,
    /// CPU time of `exec CONTAINER true`.
    Exec,
    /// CPU time to pull and unpack an image.
    Pull,
    /// Proportional set size of all processes of an idle container, of each.
    Memory,
    /// What such a container has on disk.
    Disk,
    /// CPU time to start so many at once, of each.
    Start,
    /// CPU time to stop so many at once, of each.
    Stop,
    /// What an image's root file system has on disk, in thousandths of its compressed layers.
    ImageOfCompressed,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) figure: Figure,
    pub(super) contender: Contender,
    /// How many containers there are, or 0.
    pub(super) count: u32,
    /// In microseconds, KiB or thousandths.
    pub(super) value: u64,
}

/// Takes samples as they come.
struct Samples {
    taken: Vec<Sample>,
    run: String,
}

impl Samples {
    fn add(&mut self, figure: Figure, contender: Contender, count: u32, value: u64) {
        eprintln!("{}: {figure:?}, {contender:?}, {count}: {value}", self.run);
        self.taken.push(Sample { figure, contender, count, value });
    }
}

/// Takes `runs` samples of each figure, if `what` asks for them.
///
/// # Errors
///
/// Fails when a contender can't run a container.
pub(super) fn run(what: What, runs: u32, programs: &Path, artifacts: &Path) -> Result<Vec<Sample>> {
    let mut samples = Samples { taken: Vec::new(), run: "warming up".to_owned() };
    if !what.has_containers() {
        return Ok(samples.taken);
    }
    let host = Host::new(programs, artifacts)?;
    host.prepare(IMAGE)?;
    // Brings the programs into the page cache, and makes the template.
    for contender in Contender::ALL {
        measure_run(&host, contender, &mut samples)?;
    }
    samples.taken.clear();
    for run in 1..=runs {
        samples.run = format!("run {run} of {runs}");
        for contender in Contender::ALL {
            measure_run(&host, contender, &mut samples)
                .with_context(|| format!("no run by {contender:?}"))?;
        }
        for contender in [Contender::Warm, Contender::Podman] {
            measure_exec(&host, contender, &mut samples)
                .with_context(|| format!("no exec by {contender:?}"))?;
            measure_pull(&host, contender, &mut samples)
                .with_context(|| format!("no pull by {contender:?}"))?;
        }
        for count in COUNTS {
            for contender in [Contender::Warm, Contender::Podman] {
                measure_idle(&host, contender, count, &mut samples)
                    .with_context(|| format!("no {count} idle containers by {contender:?}"))?;
            }
        }
    }
    Ok(samples.taken)
}

fn measure_run(host: &Host, contender: Contender, samples: &mut Samples) -> Result<()> {
    let _ahead = Ahead::of_others()?;
    let networks: &[(Figure, &str)] = match contender {
        // By itself it makes no network.
        Contender::Crun => &[(Figure::RunWithoutNetwork, "none")],
        _ => &[(Figure::Run, ""), (Figure::RunWithoutNetwork, "none")],
    };
    for (figure, network) in networks {
        let measured = Measured::start(&host.run(contender, network, &["true"])?)?;
        samples.add(*figure, contender, 0, measured.wait_for_end()?);
    }
    let started = Instant::now();
    let mut measured = Measured::start(&host.run(contender, "none", &["echo", "hello"])?)?;
    let cpu_us = measured.wait_for_first_byte()?;
    let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    samples.add(Figure::FirstByte, contender, 0, cpu_us);
    samples.add(Figure::FirstByteElapsed, contender, 0, elapsed);
    measured.wait_for_end()?;
    Ok(())
}

fn measure_exec(host: &Host, contender: Contender, samples: &mut Samples) -> Result<()> {
    let _ahead = Ahead::of_others()?;
    let idle = host.idle(contender, 1)?;
    // The first one brings the program into the guest's page cache.
    for _ in 0..2 {
        let before = idle.cpu_us()?;
        idle.run_in(&host.command(contender, &["exec", "idle-0", "true"]))?;
        let cpu_us = idle.cpu_us()? - before;
        samples.add(Figure::Exec, contender, 0, cpu_us);
    }
    // Only the second one counts.
    let last = samples.taken.len() - 2;
    samples.taken.remove(last);
    host.remove_idle(contender, 1)?;
    idle.wait_for_end()?;
    Ok(())
}

fn measure_pull(host: &Host, contender: Contender, samples: &mut Samples) -> Result<()> {
    let _ahead = Ahead::of_others()?;
    let measured = Measured::start(&host.pull(contender, PULLED_IMAGE))?;
    samples.add(Figure::Pull, contender, 0, measured.wait_for_end()?);
    if contender == Contender::Warm {
        let (compressed, root) = host.image_sizes()?;
        ensure!(compressed > 0, "images without layers");
        samples.add(Figure::ImageOfCompressed, contender, 0, root * 1000 / compressed);
    }
    host.remove_image(contender, PULLED_IMAGE)
}

fn measure_idle(
    host: &Host,
    contender: Contender,
    count: u32,
    samples: &mut Samples,
) -> Result<()> {
    let _ahead = Ahead::of_others()?;
    let each = u64::from(count);
    let idle = host.idle(contender, count)?;
    let started = idle.cpu_us()?;
    samples.add(Figure::Start, contender, count, started / each);
    samples.add(Figure::Memory, contender, count, idle.pss_kib()? / each);
    if contender == Contender::Warm {
        samples.add(Figure::Disk, contender, count, host.containers_kib()? / each);
    }
    let before = idle.cpu_us()?;
    let mut stop: Vec<String> = ["stop", "--time", "30"].map(str::to_owned).to_vec();
    stop.extend(host::idle_names(count));
    idle.run_in(&host.command(contender, &stop))?;
    samples.add(Figure::Stop, contender, count, (idle.cpu_us()? - before) / each);
    host.remove_idle(contender, count)?;
    idle.wait_for_end()?;
    Ok(())
}

/// Runs a command that isn't measured, to its end.
fn quietly(mut command: Command) -> Result<()> {
    crate::process::capture(&mut command).map(drop)
}

impl Contender {
    /// All of them, in the order of the table.
    pub(super) const ALL: [Self; 4] = [Self::Cold, Self::Warm, Self::Podman, Self::Crun];
}
