//! `cargo xtask lab`: an emulated machine with AMD SVM around this machine's file system, in
//! which KVM can run Linux whatever the host can do.
//!
//! QEMU interprets every instruction, so all of it is slow; but the `kvm-amd` in there is the real
//! one, and so is what a VMM does with it. The command runs as root over a copy-on-write view of
//! the host's root: nothing that it writes reaches the host, except to [`RESULTS_DIR`].
//!
//! The parts: [`spec`] says what to run and what boots, [`script`] writes the command's script,
//! [`machine`] is QEMU, `init` and `stage2` are the scripts inside, [`injections`] keeps an error of
//! QEMU's from the guests, [`supervise`] and [`relay`] connect the command to our streams or terminal
//! until it ends.

mod injections;
mod machine;
mod relay;
mod script;
mod spec;
mod supervise;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) use self::injections::{Args as InjectionArgs, run as run_injections};
pub(crate) use self::spec::{Console, Outcome, Spec};
use crate::{images, terminal};

/// Where the command finds the results share, also in its environment as `LAB_RESULTS`.
pub(crate) const RESULTS_DIR: &str = "/results";

/// Exit code after the time limit, as `timeout` has it.
const EXIT_TIMEOUT: u8 = 124;
/// Exit code when the lab itself failed, so that it can't be taken for the command's.
const EXIT_LAB_FAILED: u8 = 125;

/// Command line of `cargo xtask lab`.
#[derive(clap::Args)]
#[command(after_help = "The command runs as root on this machine's file system, in the current \
    directory. What it writes goes to the lab's memory and is gone afterwards, except for files in \
    /results. `vmctl` is on its PATH: the release build, else the debug build; build it before.\n\n\
    Its exit code is passed on; 124 means that the time limit was reached, 125 that the lab itself \
    failed. At a terminal, Ctrl-] pressed three times ends the lab.\n\n\
    Environment passed on: CARGO_HOME, CARGO_TARGET_DIR, CARGO_TERM_COLOR, COLORTERM, HOME, LANG, \
    LC_*, LOGNAME, NO_COLOR, RUSTUP_HOME, RUST_BACKTRACE, RUST_LOG, SHELL, TERM, TZ, USER, VMCTL_*, VMM_*.")]
pub(crate) struct Args {
    /// Emulated CPUs; each is one thread on this machine. With more than one, QEMU's emulation
    /// loses a race now and then (the lab's kernel patching its own code while VMs come and go).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,

    /// The lab's memory, with a unit as in 512M or 4G; taken from this machine only as it is used.
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = parse_memory)]
    memory: String,

    /// Let the lab's clock count instructions (2 ns each) instead of following real time, on one
    /// thread: CPU times then come out nearly equal in every run.
    #[arg(long)]
    icount: bool,

    /// Kill the lab after this many seconds, print its kernel's last messages, exit with 124.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,

    /// Directory on this machine that receives what the command writes to /results (in its
    /// environment as LAB_RESULTS); created if need be.
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,

    /// Another variable for the command's environment; without a value, the caller's is passed on.
    #[arg(long = "env", value_name = "NAME[=VALUE]", value_parser = script::parse_variable)]
    env: Vec<(String, String)>,

    /// Build what containers need and the tests' images, and serve these in the lab: `vmctl run`
    /// pulls from there.
    #[arg(long)]
    images: bool,

    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs `cargo xtask lab`. What goes wrong with the lab itself is reported here, and has an exit
/// code of its own.
pub(crate) fn run(args: Args) -> ExitCode {
    let command = match args.images {
        true => images::served(args.command),
        false => Ok(args.command),
    };
    let command = match command {
        Ok(command) => command,
        Err(error) => {
            eprintln!("lab: {error:#}");
            return ExitCode::from(EXIT_LAB_FAILED);
        }
    };
    let mut spec = Spec::new(command);
    spec.cpus = args.cpus;
    spec.memory = args.memory;
    spec.icount = args.icount;
    spec.timeout = args.timeout.map(Duration::from_secs);
    spec.results = args.results;
    spec.env = args.env;

    let console = if terminal::is_interactive() {
        Console::Terminal
    } else {
        Console::Streams {
            stdin: true,
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
        }
    };
    let code = match spec.run(console) {
        Ok(outcome) => exit_code(&outcome, &spec),
        Err(error) => {
            eprintln!("lab: {error:#}");
            EXIT_LAB_FAILED
        }
    };
    ExitCode::from(code)
}

fn exit_code(outcome: &Outcome, spec: &Spec) -> u8 {
    match outcome {
        Outcome::Exited(code) => *code,
        Outcome::Escaped => {
            eprintln!("lab: ended by the escape sequence");
            EXIT_LAB_FAILED
        }
        Outcome::TimedOut { kernel_log } => {
            let limit = spec.timeout.unwrap_or_default().as_secs();
            eprintln!("lab: killed after {limit} s; the lab kernel's last messages:{kernel_log}");
            EXIT_TIMEOUT
        }
        Outcome::Died { kernel_log } => {
            eprintln!("lab: ended before the command did; its kernel's last messages:{kernel_log}");
            EXIT_LAB_FAILED
        }
    }
}

fn parse_memory(text: &str) -> Result<String, String> {
    let digits = text.strip_suffix(['M', 'G']).unwrap_or_default();
    if digits.parse::<u32>().is_ok_and(|number| number > 0) {
        Ok(text.to_owned())
    } else {
        Err("expected a number and a unit, as in 512M or 4G".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_needs_a_number_and_a_unit() {
        assert_eq!(parse_memory("512M").as_deref(), Ok("512M"));
        for wrong in ["", "M", "4", "0G", "-1G", "4GiB", "4G,maxmem=1T"] {
            assert!(parse_memory(wrong).is_err(), "{wrong}");
        }
    }
}
