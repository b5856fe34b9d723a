//! The API, snapshots, restores, clones and forks: CPU time of whole processes, and their memory.
//!
//! The guest is our own kernel with `guest-answer`, which answers over vsock. A restore is held to a
//! cold boot of that guest: both from `exec` of the VMM, over its API, to the guest's answer.

pub(super) mod clones;
mod http;
mod machine;

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::machine::{Snapshot, Stage, Vmm};
use super::What;
use super::measure::Ahead;
use metering::Cgroup;

/// How many requests are sent over one connection.
const REQUESTS: u64 = 1000;

/// How much memory the measured guests have.
pub(super) const GUESTS_MIB: [u64; 2] = [128, 1024];

/// What a guest whose memory is in use has besides, for its kernel.
const BESIDES_MIB: u64 = 128;

/// Something measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Figure {
    /// CPU time from `exec` to the API's first answer.
    Ready,
    /// CPU time of a request, one of many on a connection.
    Request,
    /// CPU time from `exec` over the API to a booted guest that takes connections.
    Boot,
    /// The same to its answer.
    BootAnswer,
    /// CPU time of a full snapshot.
    Full,
    /// CPU time of a differential one.
    Diff,
    /// CPU time from `exec` over the API to a machine that's loaded and has only to be resumed.
    Load,
    /// CPU time from `exec` over the API to the restored guest's answer.
    Answer,
    /// The same with nothing of the snapshot in the page cache.
    AnswerCold,
    /// The same while the working set is recorded.
    AnswerRecording,
    /// The same, cold, with the working set read ahead.
    AnswerAhead,
    /// Proportional set size of each clone.
    ClonePss,
    /// What no clone shares with anything else, of each clone.
    CloneUnshared,
    /// CPU time from `exec` to the answer of each clone.
    CloneCpu,
    /// Elapsed time until all clones have answered.
    CloneElapsed,
    /// For how long a machine stands still when it's forked.
    ForkPause,
    /// How long a fork takes in all.
    ForkTotal,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) figure: Figure,
    /// The guest's memory in MiB; of a fork, what is in use of it. 0 without a guest.
    pub(super) guest_mib: u64,
    /// How many clones there are, or 0.
    pub(super) clones: u32,
    /// In nanoseconds or KiB.
    pub(super) value: u64,
}

/// Takes samples as they come.
struct Samples {
    taken: Vec<Sample>,
    run: String,
}

impl Samples {
    fn add(&mut self, figure: Figure, guest_mib: u64, clones: u32, value: u64) {
        eprintln!("{}: {figure:?}, {guest_mib} MiB, {clones} clones: {value}", self.run);
        self.taken.push(Sample { figure, guest_mib, clones, value });
    }

    /// Adds the CPU time that `cgroup` has used.
    fn add_cpu(&mut self, figure: Figure, guest_mib: u64, cgroup: &Cgroup) -> Result<()> {
        let value = cpu_ns(cgroup)?;
        self.add(figure, guest_mib, 0, value);
        Ok(())
    }
}

/// Takes `runs` samples of each figure, if `what` asks for them.
///
/// # Errors
///
/// Fails when a guest doesn't come up or the API refuses something.
pub(super) fn run(what: What, runs: u32, programs: &Path, artifacts: &Path) -> Result<Vec<Sample>> {
    let mut samples = Samples { taken: Vec::new(), run: "warming up".to_owned() };
    if !what.has_snapshot() {
        return Ok(samples.taken);
    }
    let stage = Stage::new(programs, artifacts)?;
    // Brings the program and the guest's files into the page cache.
    measure_guest(&stage, GUESTS_MIB[0], &mut samples)?;
    samples.taken.clear();
    for run in 1..=runs {
        samples.run = format!("run {run} of {runs}");
        measure_api(&stage, &mut samples)?;
        for guest_mib in GUESTS_MIB {
            let snapshot = measure_guest(&stage, guest_mib, &mut samples)
                .with_context(|| format!("no measurement of a guest of {guest_mib} MiB"))?;
            if guest_mib == GUESTS_MIB[0] {
                clones::measure(&stage, &snapshot, guest_mib, &mut samples)
                    .context("no measurement of clones")?;
            }
            snapshot.delete();
        }
        for in_use_mib in GUESTS_MIB {
            measure_fork(&stage, in_use_mib, &mut samples)
                .with_context(|| format!("no fork of {in_use_mib} MiB in use"))?;
        }
    }
    Ok(samples.taken)
}

fn measure_api(stage: &Stage, samples: &mut Samples) -> Result<()> {
    let _ahead = Ahead::of_others()?;
    let cgroup = cgroup()?;
    let mut vmm = Vmm::start(stage, &cgroup, "api")?;
    samples.add_cpu(Figure::Ready, 0, &cgroup)?;
    let before = cpu_ns(&cgroup)?;
    for _ in 0..REQUESTS {
        vmm.api.get_root()?;
    }
    samples.add(Figure::Request, 0, 0, (cpu_ns(&cgroup)? - before) / REQUESTS);
    Ok(())
}

/// Boots a guest, saves it and restores it in all ways. Returns the snapshot.
fn measure_guest(stage: &Stage, guest_mib: u64, samples: &mut Samples) -> Result<Snapshot> {
    let _ahead = Ahead::of_others()?;
    let snapshot = Snapshot::at(&stage.path("disk"), "full");
    save(stage, guest_mib, &snapshot, samples)?;
    restore(stage, guest_mib, &snapshot, samples)?;
    Ok(snapshot)
}

fn save(stage: &Stage, guest_mib: u64, snapshot: &Snapshot, samples: &mut Samples) -> Result<()> {
    let cgroup = cgroup()?;
    let mut vmm = Vmm::start(stage, &cgroup, "boot")?;
    vmm.boot(stage, guest_mib, true)?;
    samples.add_cpu(Figure::Boot, guest_mib, &cgroup)?;
    vmm.ask("anything")?;
    samples.add_cpu(Figure::BootAnswer, guest_mib, &cgroup)?;

    let diff = Snapshot::at(&stage.path("disk"), "diff");
    for (figure, kind, files) in [(Figure::Full, "Full", snapshot), (Figure::Diff, "Diff", &diff)] {
        vmm.set_state("Paused")?;
        let before = cpu_ns(&cgroup)?;
        vmm.save(files, kind)?;
        samples.add(figure, guest_mib, 0, cpu_ns(&cgroup)? - before);
        vmm.set_state("Resumed")?;
        vmm.ask("anything")?;
    }
    diff.delete();
    Ok(())
}

fn restore(
    stage: &Stage,
    guest_mib: u64,
    snapshot: &Snapshot,
    samples: &mut Samples,
) -> Result<()> {
    let to_paused = cgroup()?;
    Vmm::start(stage, &to_paused, "restore")?.load(snapshot, &Value::Null)?;
    samples.add_cpu(Figure::Load, guest_mib, &to_paused)?;
    drop(to_paused);

    let recording = json!({ "record_working_set_path": snapshot.working_set });
    let ahead = json!({ "working_set_path": snapshot.working_set });
    for (figure, cold, more) in [
        (Figure::Answer, false, &Value::Null),
        (Figure::AnswerCold, true, &Value::Null),
        (Figure::AnswerRecording, false, &recording),
        (Figure::AnswerAhead, true, &ahead),
    ] {
        if cold {
            snapshot.drop_from_cache()?;
        }
        let cgroup = cgroup()?;
        let mut vmm = Vmm::start(stage, &cgroup, "restore")?;
        vmm.load(snapshot, &resumed(more))?;
        vmm.ask("anything")?;
        samples.add_cpu(figure, guest_mib, &cgroup)?;
        if figure == Figure::AnswerRecording {
            // It's written down when the guest is paused, and the answer waits for that.
            vmm.set_state("Paused")?;
            vmm.end()?;
        }
    }
    Ok(())
}

/// Forks a guest with so much memory in use, on a file system in memory.
fn measure_fork(stage: &Stage, in_use_mib: u64, samples: &mut Samples) -> Result<()> {
    let cgroup = cgroup()?;
    let mut vmm = Vmm::start(stage, &cgroup, "fork")?;
    vmm.boot(stage, in_use_mib + BESIDES_MIB, false)?;
    vmm.ask(&format!("use {in_use_mib}"))?;
    let files = Snapshot::at(&stage.path(""), "fork");
    let body = json!({ "snapshot_path": files.state, "mem_file_path": files.memory });
    let report = vmm.api.request("POST", "/ext/v1/fork", &body)?;
    let field = |name: &str| {
        report[name].as_u64().with_context(|| format!("a fork's report lacks {name}: {report}"))
    };
    samples.add(Figure::ForkPause, in_use_mib, 0, field("paused_ns")?);
    samples.add(Figure::ForkTotal, in_use_mib, 0, field("total_ns")?);
    files.delete();
    vmm.ask("anything").context("the forked machine doesn't go on")
}

/// Adds that the machine is to run to what a load is asked for.
fn resumed(more: &Value) -> Value {
    let mut body = json!({ "resume_vm": true });
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    body
}

fn cgroup() -> Result<Cgroup> {
    Ok(Cgroup::create("xtask-bench")?)
}

fn cpu_ns(cgroup: &Cgroup) -> Result<u64> {
    let cpu = cgroup.cpu_time()?;
    Ok((cpu.user_us + cpu.system_us) * 1000)
}
