//! `vmctl compare`.

mod args;
mod output;
mod progress;
mod replay;
mod serve;

use std::env;
use std::path::PathBuf;

use compare::comparison::{Comparison, Options, find_beside};
use compare::interrupt::Interrupt;
use compare::model::{Report, WayId, Workload};
use log::LevelFilter;

pub(crate) use self::args::{CompareArgs, HowArgs};
use self::output::Outputs;
pub(crate) use self::output::is_unicode;
use self::progress::Progress;
use crate::commands::container::{self, Pull};
use crate::commands::image;
use crate::errors::CliError;
use crate::errors::compare::CompareError;

/// What's missing when the program that measures inside is.
const PROBE: &str = "compare-probe";

/// The full VM's disk, as it's looked for beside `vmctl`.
const DISK: &str = "debian.img";

/// How often each figure is measured unless said.
const RUNS: u32 = 5;

/// Exit code of whoever was ended by Ctrl-C, as a shell has it.
const INTERRUPTED: u8 = 130;

pub(crate) fn run(args: &CompareArgs, level: LevelFilter) -> Result<u8, CliError> {
    if args.schema {
        return replay::schema();
    }
    if let [old, new] = args.diff.as_slice() {
        return replay::diff(old, new, args.threshold, args.json);
    }
    let outputs = Outputs::new(args)?;
    if let Some(file) = &args.from {
        let report = replay::read(file)?;
        outputs.write(&report)?;
        return Ok(api::exit::STOPPED);
    }
    if let Some(address) = args.serve {
        return serve::run(&args.target(), address, args.allow_remote, level);
    }
    let report = measure(&args.target(), level)?;
    outputs.write(&report)?;
    Ok(code(&report))
}

/// What's to be measured, by whichever command.
pub(crate) struct Target<'a> {
    pub(crate) image: &'a str,
    pub(crate) command: &'a [String],
    pub(crate) how: &'a HowArgs,
    pub(crate) ways: Vec<WayId>,
    pub(crate) runs: u32,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) scale: f64,
    pub(crate) most: u32,
    pub(crate) quiet: bool,
}

impl CompareArgs {
    fn target(&self) -> Target<'_> {
        Target {
            image: self.image.as_deref().unwrap_or_default(),
            command: &self.command,
            how: &self.how,
            ways: self.how.ways_or(&WayId::ALL),
            runs: self.how.runs_or(RUNS),
            workloads: self.workloads(),
            scale: self.scale,
            most: self.most,
            quiet: self.quiet,
        }
    }
}

/// Measures, and takes back all that it has mounted and started.
pub(crate) fn measure(target: &Target<'_>, level: LevelFilter) -> Result<Report, CliError> {
    let (comparison, _) = prepare(target, level)?;
    let progress = Progress::new(target.quiet);
    let report = comparison.run(&progress);
    progress.finish();
    Ok(report)
}

/// The exit code of a comparison.
pub(crate) fn code(report: &Report) -> u8 {
    if report.interrupted {
        return INTERRUPTED;
    }
    if report.ways.iter().all(|way| way.failure.is_some()) {
        return api::exit::FAILURE;
    }
    api::exit::STOPPED
}

/// Pulls the image, and gets everything ready. Only then there's something to be taken back, and
/// Ctrl-C doesn't just end the process any more.
fn prepare(target: &Target<'_>, level: LevelFilter) -> Result<(Comparison, Interrupt), CliError> {
    let engine = container::engine(level)?;
    image::provide(&engine, target.image, None, Pull::Missing, target.quiet)?;
    let vmctl = env::current_exe()
        .map_err(|source| CliError::System { what: "this program can't be found", source })?;
    let probe = find_beside(&vmctl, PROBE, "VMCTL_PROBE").ok_or(CompareError::NoProbe)?;
    let interrupt = Interrupt::by_signals()
        .map_err(|source| CliError::System { what: "signals can't be caught", source })?;
    let how = target.how;
    let kernel = engine.info().ok().and_then(|info| info.kernel);
    let options = Options {
        full_vm: full_vm(how, kernel, &vmctl),
        engine,
        vmctl,
        probe,
        image: target.image.to_owned(),
        command: target.command.to_vec(),
        ways: target.ways.clone(),
        workloads: target.workloads.clone(),
        runtime: how.runtime.clone(),
        runs: target.runs,
        warm_ups: how.warm_ups,
        cpus: how.cpus,
        memory_mib: how.memory,
        port: how.port,
        path: how.path.clone(),
        scale: target.scale,
        most_instances: target.most,
        command_line: command_line(),
        interrupt: interrupt.clone(),
    };
    let comparison = Comparison::prepare(options).map_err(CompareError::from)?;
    Ok((comparison, interrupt))
}

/// The full VM's kernel and disk, if it's known which ones.
fn full_vm(
    how: &HowArgs,
    kernel: Option<PathBuf>,
    vmctl: &std::path::Path,
) -> Option<(PathBuf, PathBuf)> {
    let kernel = how.full_vm_kernel.clone().or(kernel)?;
    let disk =
        how.full_vm_disk.clone().or_else(|| find_beside(vmctl, DISK, "VMCTL_FULL_VM_DISK"))?;
    Some((kernel, disk))
}

/// This command, by the program's own name.
fn command_line() -> Vec<String> {
    let words = env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    std::iter::once("vmctl".to_owned()).chain(words).collect()
}
