//! What to run in a lab, on which machine, and what came of it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::machine::{Files, Machine};
use super::script::{HELPER, command_script};
use super::supervise::supervise;
use crate::debian_kernel::{DebianKernel, Source};
use crate::initramfs::Recipe;
use crate::packages::{self, Purpose};

/// The lab's kernel: 9p, overlay, KVM and netfilter are modules of it. Debian's `cloud` flavours
/// have no 9p.
const KERNEL: Source = Source {
    cache_name: "lab/kernel",
    metapackages: &["linux-image-6.12-amd64", "linux-image-amd64"],
    prefix: "linux-image-",
};

/// What every lab needs. All other modules are loaded on demand from the kernel's tree.
const MODULES: &[&str] = &["9pnet_virtio", "9p", "overlay", "kvm_amd", "tun", "loop"];

/// What to run in a lab, and on which machine.
#[derive(Clone)]
pub(crate) struct Spec {
    /// Emulated CPUs.
    pub(crate) cpus: u32,
    /// Memory, as QEMU's `-m` takes it.
    pub(crate) memory: String,
    /// Whether the clock counts instructions.
    pub(crate) icount: bool,
    /// When to give up.
    pub(crate) timeout: Option<Duration>,
    /// The host's directory that appears at [`super::RESULTS_DIR`].
    pub(crate) results: Option<PathBuf>,
    /// Environment of the command, besides what is always passed on.
    pub(crate) env: Vec<(String, String)>,
    /// Working directory of the command.
    pub(crate) cwd: Option<PathBuf>,
    /// The command.
    pub(crate) command: Vec<String>,
}

/// Where the command's input comes from and its output goes to.
pub(crate) enum Console {
    /// A terminal in the lab, joined to ours.
    Terminal,
    /// Streams: our standard input or none, and any two sinks.
    Streams {
        /// Whether the command reads our standard input; otherwise it reads nothing.
        stdin: bool,
        /// Receives what the command writes to its standard output.
        stdout: Box<dyn Write + Send>,
        /// Receives what the command writes to its standard error.
        stderr: Box<dyn Write + Send>,
    },
}

/// How a lab ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The command exited with this code.
    Exited(u8),
    /// The time limit was reached.
    TimedOut {
        /// The end of the lab kernel's messages.
        kernel_log: String,
    },
    /// The machine ended before the command did: its kernel panicked, or QEMU was killed.
    Died {
        /// The end of the lab kernel's messages.
        kernel_log: String,
    },
    /// The user left by the escape sequence.
    Escaped,
}

impl Spec {
    /// Describes a run of `command` on the default machine: 1 CPU, 4 GiB, no time limit.
    pub(crate) fn new(command: Vec<String>) -> Self {
        Self {
            cpus: 1,
            memory: "4G".to_owned(),
            icount: false,
            timeout: None,
            results: None,
            env: Vec::new(),
            cwd: None,
            command,
        }
    }

    /// Boots the lab, runs the command, ends the lab.
    ///
    /// # Errors
    ///
    /// Fails when packages are missing or the machine can't be started, and when a signal ends the
    /// wait (SIGINT, SIGTERM, SIGHUP).
    pub(crate) fn run(&self, console: Console) -> Result<Outcome> {
        packages::require(Purpose::Lab)?;
        let mut spec = self.clone();
        spec.results = self.results.as_deref().map(create_results_dir).transpose()?;
        if spec.icount {
            // What measures in there says so in its results.
            spec.env.push(("VMCTL_HOST_CLOCK".to_owned(), "instructions".to_owned()));
        }

        let kernel = DebianKernel::obtain(&KERNEL)?;
        let initramfs = Recipe {
            cache_name: "lab/initramfs",
            init: include_str!("init"),
            files: &[("/stage2", include_bytes!("stage2"))],
            modules: Some((&kernel, MODULES)),
        }
        .obtain()?;
        let run_dir = tempfile::Builder::new()
            .prefix("vmctl-lab-")
            .tempdir()
            .context("cannot create a temporary directory")?;
        let script = run_dir.path().join("command");
        fs::write(&script, command_script(&spec)?)
            .with_context(|| format!("cannot write {}", script.display()))?;

        // This program, which has a part in there: building may have replaced its own file since.
        fs::copy("/proc/self/exe", run_dir.path().join(HELPER))
            .context("cannot copy this program")?;

        let files = Files { run_dir: run_dir.path(), initramfs: &initramfs, kernel: &kernel };
        let is_terminal = matches!(console, Console::Terminal);
        let (machine, channels) = Machine::start(&spec, is_terminal, &files)?;
        supervise(machine, channels, console, spec.timeout, &files)
    }
}

fn create_results_dir(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))
}
