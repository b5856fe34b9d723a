//! Keeps an error of QEMU's emulation from guests.
//!
//! An interrupt that VMRUN injects (AMD APM 2, 15.20) is delivered at once, but QEMU (7.2, and its
//! sources to this day: `helper_vmrun` in `svm_helper.c`) leaves the vector in the emulated CPU's
//! `exception_index`. The next #VMEXIT clears that. If the emulator leaves its loop before there is
//! one, because another thread asks it to or because a timer is due on a clock that counts
//! instructions, it takes the vector for an exception's, and delivers it a second time, interrupts
//! disabled or not. A guest whose timer interrupt comes within its timer interrupt waits forever for
//! itself, or dereferences what isn't there yet.
//!
//! So the guest mustn't come to its first instruction with the vector in there. A probe at
//! `svm_vcpu_run`, where interrupts are disabled, has the CPU send itself an interrupt whenever there's
//! one to be injected. That is pending at VMRUN, which injects and then exits for it. It costs another
//! exit for each injected interrupt.

use std::env;
use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use sys::perf::TracepointInterrupt;

use crate::process;

const TRACING: &str = "/sys/kernel/tracing";

/// The probe, with what KVM clears after each exit. (Linux, `Documentation/trace/kprobetrace.rst`;
/// the field is found by the kernel's own type information.)
const PROBE: &str = "p:lab/injection svm_vcpu_run injected=vcpu->arch.interrupt.injected\n";
const FILTER: &CStr = c"injected == 1";

/// What's said once it works.
const READY: &str = "ready";

/// Command line of `xtask lab-injections`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Be the process that it lasts as long as.
    #[arg(long)]
    hold: bool,
}

/// Works around the error for as long as this machine, the lab, runs.
///
/// # Errors
///
/// Fails when the lab's kernel doesn't allow it.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.hold { hold() } else { start() }
}

/// Returns once the process that holds it is ready.
fn start() -> Result<()> {
    let this = env::current_exe().context("cannot find this program's own path")?;
    let mut command = Command::new(this);
    command.args(["lab-injections", "--hold"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| process::spawn_error(&command, error))?;
    let said = child.stdout.take().context("standard output is piped")?;
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line).context("cannot hear the lab's helper")?;
    if line.trim() != READY {
        bail!("the lab's guests aren't safe from their emulator ({})", child.wait()?);
    }
    Ok(())
}

fn hold() -> Result<()> {
    let probes = Path::new(TRACING).join("kprobe_events");
    let mut file = OpenOptions::new()
        .append(true)
        .open(&probes)
        .with_context(|| format!("cannot open {}", probes.display()))?;
    file.write_all(PROBE.as_bytes())
        .with_context(|| format!("{} doesn't take {PROBE:?}", probes.display()))?;
    let id = Path::new(TRACING).join("events/lab/injection/id");
    let id = fs::read_to_string(&id).with_context(|| format!("cannot read {}", id.display()))?;
    let id = id.trim().parse().context("a tracepoint's id is a number")?;
    let cpus = thread::available_parallelism().context("cannot count CPUs")?.get();
    let _events = (0..cpus)
        .map(|cpu| TracepointInterrupt::open(id, i32::try_from(cpu)?, FILTER).map_err(Into::into))
        .collect::<Result<Vec<_>>>()
        .context("cannot have injections interrupt the CPU")?;
    println!("{READY}");
    loop {
        thread::park();
    }
}
