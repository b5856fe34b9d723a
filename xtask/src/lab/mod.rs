//! `cargo xtask lab`: an emulated machine with AMD SVM around this machine's file system, in
//! which KVM can run Linux whatever the host can do.
//!
//! QEMU interprets every instruction, so all of it is slow; but the `kvm-amd` in there is the real
//! one, and so is what a VMM does with it. The command runs as root over a copy-on-write view of
//! the host's root: nothing that it writes reaches the host, except to [`RESULTS_DIR`].
//!
//! The parts: [`machine`] is QEMU, `init` and `stage2` are the scripts inside, [`relay`] connects
//! the command to our streams or terminal.

mod machine;
mod relay;

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use self::machine::{Channels, CommandChannels, Files, Machine};
use crate::debian_kernel::{DebianKernel, Source};
use crate::dirs;
use crate::initramfs::Recipe;
use crate::packages::{self, Purpose};
use crate::process::{self, shell_quote};
use crate::terminal::{self, RawMode};

/// Where the command finds the results share, also in its environment as `LAB_RESULTS`.
pub(crate) const RESULTS_DIR: &str = "/results";

/// The lab's kernel: 9p, overlay, KVM and netfilter are modules of it. Debian's `cloud` flavours
/// have no 9p.
const KERNEL: Source = Source {
    cache_name: "lab/kernel",
    metapackages: &["linux-image-6.12-amd64", "linux-image-amd64"],
    prefix: "linux-image-",
};

/// What every lab needs. All other modules are loaded on demand from the kernel's tree.
const MODULES: &[&str] = &["9pnet_virtio", "9p", "overlay", "kvm_amd", "tun", "loop"];

/// Exit code after the time limit, as `timeout` has it.
const EXIT_TIMEOUT: u8 = 124;
/// Exit code when the lab itself failed, so that it can't be taken for the command's.
const EXIT_LAB_FAILED: u8 = 125;

/// Variables that are passed on from the caller's environment, besides those by [`ENV_PREFIXES`].
const ENV_NAMES: &[&str] = &[
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "CARGO_TERM_COLOR",
    "COLORTERM",
    "HOME",
    "LANG",
    "LOGNAME",
    "NO_COLOR",
    "RUSTUP_HOME",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SHELL",
    "TERM",
    "TZ",
    "USER",
];
const ENV_PREFIXES: &[&str] = &["LC_", "VMCTL_", "VMM_"];

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
    /// Emulated CPUs; each is one thread on this machine.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
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
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs `cargo xtask lab`.
///
/// # Errors
///
/// Fails when the lab can't be started; what happens in it becomes the exit code.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let mut spec = Spec::new(args.command);
    spec.cpus = args.cpus;
    spec.memory = args.memory;
    spec.icount = args.icount;
    spec.timeout = args.timeout.map(Duration::from_secs);
    spec.results = args.results;
    spec.env = args.env.iter().filter_map(|text| parse_env(text)).collect();

    let console = if terminal::is_interactive() {
        Console::Terminal
    } else {
        Console::Streams {
            stdin: true,
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
        }
    };
    let code = match spec.run(console)? {
        Outcome::Exited(code) => code,
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
    };
    Ok(ExitCode::from(code))
}

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
    /// The host's directory that appears at [`RESULTS_DIR`].
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

/// What the threads around a lab report to the one that waits.
enum Event {
    /// A line on the control channel.
    Control(String),
    /// The control channel has ended: QEMU is gone.
    Gone,
    /// That many bytes of the command's output have been written.
    Output(u64),
    /// The user wants to leave.
    Escape,
    /// A signal came.
    Signal(i32),
}

impl Spec {
    /// Describes a run of `command` on the default machine: 2 CPUs, 4 GiB, no time limit.
    pub(crate) fn new(command: Vec<String>) -> Self {
        Self {
            cpus: 2,
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

        let kernel = DebianKernel::obtain(&KERNEL)?;
        let initramfs = Recipe {
            cache_name: "lab/initramfs",
            init: include_str!("init"),
            files: &[("/stage2", include_str!("stage2"))],
            modules: Some((&kernel, MODULES)),
        }
        .obtain()?;
        let run_dir = tempfile::Builder::new()
            .prefix("vmctl-lab-")
            .tempdir()
            .context("cannot create a temporary directory")?;
        let script = run_dir.path().join("command");
        fs::write(&script, spec.script()?)
            .with_context(|| format!("cannot write {}", script.display()))?;

        let files = Files { run_dir: run_dir.path(), initramfs: &initramfs, kernel: &kernel };
        let is_terminal = matches!(console, Console::Terminal);
        let (machine, channels) = Machine::start(&spec, is_terminal, &files)?;
        supervise(machine, channels, console, spec.timeout, &files)
    }

    /// Writes the shell script that runs the command with its environment and directory.
    fn script(&self) -> Result<String> {
        let cwd = match &self.cwd {
            Some(cwd) => cwd.clone(),
            None => env::current_dir().context("cannot find the current directory")?,
        };
        let mut script = String::new();
        for (name, value) in passed_env().chain(self.env.iter().cloned()) {
            script += &format!("export {name}={}\n", shell_quote(&value));
        }
        if self.results.is_some() {
            script += &format!("export LAB_RESULTS={RESULTS_DIR}\n");
        }
        let words: Vec<String> = self.command.iter().map(|word| shell_quote(word)).collect();
        script += "export TMPDIR=/run/tmp\n";
        script += &format!("export PATH={}\n", shell_quote(&search_path()));
        script += &format!("cd {} || exit\n", shell_quote(&cwd.to_string_lossy()));
        script += &format!("exec {}\n", words.join(" "));
        Ok(script)
    }
}

/// Connects everything, then waits for the end.
fn supervise(
    mut machine: Machine,
    channels: Channels,
    console: Console,
    timeout: Option<Duration>,
    files: &Files<'_>,
) -> Result<Outcome> {
    let deadline = timeout.map(|limit| Instant::now() + limit);
    let (sender, events) = mpsc::channel();
    let mut control = channels.control.try_clone().context("cannot share the control channel")?;
    watch_control(channels.control, sender.clone());
    watch_signals(sender.clone())?;

    let mut raw_mode = None;
    let relays = match (channels.command, console) {
        (CommandChannels::Terminal(stream), _) => {
            let keys = stream.try_clone().context("cannot share the terminal's channel")?;
            raw_mode = Some(RawMode::enter()?);
            relay::keys(keys, sender.clone());
            vec![relay::output(stream, Box::new(io::stdout()), sender)]
        }
        (CommandChannels::Streams { stdin, .. }, Console::Terminal) => {
            drop(stdin);
            bail!("a terminal needs a terminal's channel");
        }
        (
            CommandChannels::Streams { stdin, stdout: out, stderr: err },
            Console::Streams { stdin: read_stdin, stdout, stderr },
        ) => {
            if read_stdin {
                relay::input(stdin);
            }
            vec![relay::output(out, stdout, sender.clone()), relay::output(err, stderr, sender)]
        }
    };
    writeln!(control, "go").context("cannot write to the lab")?;
    send_size(&mut control);

    let end = wait(&events, &mut control, deadline);
    // What QEMU has written before its end is still in the sockets: the relays read it all.
    machine.kill().context("cannot end QEMU")?;
    for relay in relays {
        let _ = relay.join();
    }
    drop(raw_mode);
    let kernel_log = || fs::read_to_string(files.kernel_log()).unwrap_or_default();
    Ok(match end {
        End::Exited(code) => Outcome::Exited(code),
        End::Escaped => Outcome::Escaped,
        End::TimedOut => Outcome::TimedOut { kernel_log: process::last_lines(&kernel_log(), 20) },
        End::Gone => Outcome::Died { kernel_log: process::last_lines(&kernel_log(), 20) },
        End::Signal(signal) => bail!("interrupted by signal {signal}"),
    })
}

/// Why the wait for a lab is over.
enum End {
    Exited(u8),
    TimedOut,
    Gone,
    Escaped,
    Signal(i32),
}

fn wait(events: &Receiver<Event>, control: &mut UnixStream, deadline: Option<Instant>) -> End {
    let mut written = 0;
    let mut exit: Option<(u8, u64)> = None;
    loop {
        if let Some((code, expected)) = exit
            && written >= expected
        {
            return End::Exited(code);
        }
        let event = match deadline {
            Some(deadline) => {
                events.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
            None => events.recv().map_err(RecvTimeoutError::from),
        };
        match event {
            Ok(Event::Control(line)) => exit = parse_exit(&line).or(exit),
            Ok(Event::Output(count)) => written += count,
            Ok(Event::Signal(SIGWINCH)) => send_size(control),
            Ok(Event::Signal(signal)) => return End::Signal(signal),
            Ok(Event::Escape) => return End::Escaped,
            Ok(Event::Gone) | Err(RecvTimeoutError::Disconnected) => {
                return exit.map_or(End::Gone, |(code, _)| End::Exited(code));
            }
            Err(RecvTimeoutError::Timeout) => return End::TimedOut,
        }
    }
}

/// Parses the lab's last words: the exit code and how much output there is to wait for.
fn parse_exit(line: &str) -> Option<(u8, u64)> {
    let mut words = line.strip_prefix("exit ")?.split_whitespace();
    let code = words.next()?.parse().ok()?;
    Some((code, words.filter_map(|word| word.parse::<u64>().ok()).sum()))
}

fn watch_control(control: UnixStream, events: Sender<Event>) {
    thread::spawn(move || {
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            let _ = events.send(Event::Control(line));
        }
        let _ = events.send(Event::Gone);
    });
}

fn watch_signals(events: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGWINCH])
        .context("cannot set up signal handlers")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    });
    Ok(())
}

fn send_size(control: &mut UnixStream) {
    if let Some((rows, columns)) = terminal::size() {
        // When the lab is gone, its end is noticed elsewhere.
        let _ = writeln!(control, "size {rows} {columns}");
    }
}

fn passed_env() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        let wanted = ENV_NAMES.contains(&name.as_str())
            || ENV_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        (wanted && is_variable_name(&name)).then_some((name, value))
    })
}

/// Puts our own programs before the caller's, and the system's behind them.
fn search_path() -> String {
    let target = dirs::target();
    let caller = env::var("PATH").unwrap_or_default();
    format!(
        "{}:{}:{caller}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        target.join("release").display(),
        target.join("debug").display()
    )
}

fn create_results_dir(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    dir.canonicalize().with_context(|| format!("cannot resolve {}", dir.display()))
}

fn parse_memory(text: &str) -> Result<String, String> {
    let digits = text.strip_suffix(['M', 'G']).unwrap_or_default();
    if digits.parse::<u32>().is_ok_and(|number| number > 0) {
        Ok(text.to_owned())
    } else {
        Err("expected a number and a unit, as in 512M or 4G".to_owned())
    }
}

fn parse_env(text: &str) -> Option<(String, String)> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => (text, env::var(text).ok()?),
    };
    is_variable_name(name).then(|| (name.to_owned(), value))
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
