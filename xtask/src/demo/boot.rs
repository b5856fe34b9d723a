//! One boot of the Debian disk, watched from outside: the part of the demo that measures.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

use super::path_text;
use super::timeline::{self, Step};
use crate::process;

/// How long the guest may take to the login prompt, and then to power off.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const POWER_OFF_LIMIT: Duration = Duration::from_secs(120);

/// The interface that connects the guest, and the addresses at its two ends. They are of a block
/// that is reserved for tests between machines (RFC 2544), and so in nobody's way.
const TAP: &str = "vmctl-demo";
const HOST_ADDRESS: &str = "198.18.0.1";
const GUEST_ADDRESS: &str = "198.18.0.2";

/// On the guest's console: systemd's first line, and the prompt.
const INIT_MARK: &str = "Welcome to ";
const LOGIN_MARK: &str = "login:";

/// What to boot.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The `vmctl` to boot with.
    #[arg(long)]
    pub(super) vmctl: PathBuf,
    /// The guest kernel.
    #[arg(long)]
    pub(super) kernel: PathBuf,
    /// The Debian root disk.
    #[arg(long)]
    pub(super) disk: PathBuf,
}

impl Args {
    /// Returns the arguments that make this program boot the same.
    pub(super) fn command_line(&self) -> Vec<String> {
        let paths = [("--vmctl", &self.vmctl), ("--kernel", &self.kernel), ("--disk", &self.disk)];
        let flags = paths.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path_text(path)]);
        std::iter::once("demo-boot".to_owned()).chain(flags).collect()
    }
}

/// Boots to the login prompt, powers off and prints the timeline.
///
/// # Errors
///
/// Fails when the guest doesn't come up, doesn't answer on its network or doesn't power off.
pub(crate) fn run(args: &Args) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let timeline_file = scratch.path().join("timeline");
    // Making an interface takes root; what runs in the lab has it.
    let tap = rustix::process::geteuid().is_root().then(Tap::create).transpose()?;

    let mut command = vmctl(args, tap.is_some());
    command.arg("--timeline").arg(&timeline_file);
    let mut guest = Guest::start(command)?;
    let init = guest.wait_for(INIT_MARK)?;
    let login = guest.wait_for(LOGIN_MARK)?;
    println!();
    if tap.is_some() {
        ping()?;
    } else {
        println!("No network this time: making an interface takes root.");
    }
    guest.power_off()?;

    let events = fs::read_to_string(&timeline_file)
        .with_context(|| format!("cannot read {}", timeline_file.display()))?;
    let mut steps = timeline::parse(&events);
    steps.push(Step { name: "/sbin/init", at_ns: init });
    steps.push(Step { name: "login prompt", at_ns: login });
    ensure!(steps.len() == 6, "vmctl's timeline lacks events:\n{events}");
    print!("\n{}", timeline::table(&steps));
    Ok(())
}

fn vmctl(args: &Args, has_network: bool) -> Command {
    let mut cmdline =
        "console=ttyS0 reboot=k panic=-1 root=/dev/vda ro quiet systemd.show_status=true"
            .to_owned();
    let mut command = Command::new(&args.vmctl);
    command.arg("boot").arg("--kernel").arg(&args.kernel);
    // A comma in a path would begin an option.
    let disk = path_text(&args.disk).replace(',', ",,");
    command.args(["--disk", &format!("{disk},ro"), "--console", "stdio", "--rng"]);
    if has_network {
        command.args(["--net", &format!("tap={TAP}")]);
        cmdline +=
            &format!(" net.ifnames=0 ip={GUEST_ADDRESS}::{HOST_ADDRESS}:255.255.255.252::eth0:off");
    }
    command.args(["--cmdline", &cmdline]);
    command
}

fn ping() -> Result<()> {
    let mut command = Command::new("ping");
    command.args(["-n", "-q", "-c", "3", "-i", "0.3", "-w", "20", GUEST_ADDRESS]);
    let output = process::capture(&mut command).context("the guest's network doesn't answer")?;
    let times = output.lines().find_map(|line| line.strip_prefix("rtt "));
    println!("Network: {GUEST_ADDRESS} answers, {}", times.unwrap_or("no times known"));
    Ok(())
}

/// A TAP interface, deleted when dropped.
struct Tap;

impl Tap {
    fn create() -> Result<Self> {
        ip(&["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"])?;
        let tap = Self;
        ip(&["address", "add", &format!("{HOST_ADDRESS}/30"), "dev", TAP])?;
        ip(&["link", "set", "dev", TAP, "up"])?;
        Ok(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // It can be gone already only if somebody else deleted it.
        let _ = ip(&["link", "delete", "dev", TAP]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    process::run(Command::new("ip").args(arguments))
}

/// A running `vmctl boot`, killed when dropped. Its console is shown as it comes.
struct Guest {
    child: Child,
    console: Receiver<Piece>,
    deadline: Instant,
    /// What has come since the last mark.
    text: String,
}

/// Something that the guest printed, and when.
struct Piece {
    at_ns: u64,
    text: String,
}

impl Guest {
    fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| process::spawn_error(&command, error))?;
        let mut output = child.stdout.take().context("vmctl's output is piped")?;
        let (sender, console) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let at_ns = monotonic_ns();
                // A console that nobody reads any more doesn't stop the guest.
                let _ = io::stdout().write_all(&buffer[..count]).and(io::stdout().flush());
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let _ = sender.send(Piece { at_ns, text });
            }
        });
        let deadline = Instant::now() + BOOT_LIMIT;
        Ok(Self { child, console, deadline, text: String::new() })
    }

    /// Waits until `mark` is on the console; returns when it came.
    fn wait_for(&mut self, mark: &str) -> Result<u64> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let piece = match self.console.recv_timeout(left) {
                Ok(piece) => piece,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no {mark:?} on the console after {} s", BOOT_LIMIT.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().context("cannot wait for vmctl")?;
                    bail!("vmctl ended before the guest was up ({status})");
                }
            };
            self.text += &piece.text;
            if let Some(start) = self.text.find(mark) {
                self.text.drain(..start + mark.len());
                return Ok(piece.at_ns);
            }
        }
    }

    /// Presses the power button and waits until the guest is off.
    fn power_off(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("vmctl has a process id")?, Signal::TERM)
            .context("cannot signal vmctl")?;
        let deadline = Instant::now() + POWER_OFF_LIMIT;
        // The console's end is the guest's: its pieces aren't needed any more.
        while let left @ 1.. = deadline.saturating_duration_since(Instant::now()).as_millis() {
            let left = Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX));
            if let Err(RecvTimeoutError::Disconnected) = self.console.recv_timeout(left) {
                let status = self.child.wait().context("cannot wait for vmctl")?;
                ensure!(status.success(), "vmctl failed ({status})");
                return Ok(());
            }
        }
        bail!("the guest wasn't off {} s after its power button", POWER_OFF_LIMIT.as_secs())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // No harm if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}
