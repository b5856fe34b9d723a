//! A VM as a user starts it: the real `vmctl`, its console on pipes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::PATIENCE;
use crate::artifacts;
use crate::console::Console;
use crate::guest::{Guest, Machine};

/// The flags that may be given several times.
const REPEATABLE: [&str; 2] = ["--disk", "--net"];

/// Collects the arguments of one `vmctl boot`.
pub struct Boot {
    name: String,
    /// The program that starts vmctl, with its arguments; empty for none.
    starter: Vec<OsString>,
    arguments: Vec<OsString>,
}

impl Boot {
    /// Prepares a boot of `kernel`; `test` names its log.
    pub fn new(test: &str, kernel: &Path) -> Self {
        let arguments = vec!["boot".into(), "--kernel".into(), kernel.into()];
        Self { name: test.to_owned(), starter: Vec::new(), arguments }
    }

    /// Prepares a boot of the lean kernel with the test's shell as its init.
    pub fn lean(test: &str) -> Self {
        Self::new(test, &artifacts::lean_kernel())
            .flag("--initrd", artifacts::lean_initrd())
            .flag("--cmdline", "console=ttyS0 quiet reboot=k panic=-1 rdinit=/init")
    }

    /// Prepares a boot of the Debian disk, as a snapshot in memory of the guest's, with the test's
    /// shell instead of systemd.
    pub fn debian_shell(test: &str) -> Self {
        Self::new(test, &artifacts::lean_kernel())
            .flag("--initrd", artifacts::debian_shell_initrd())
            .flag("--cmdline", "console=ttyS0 quiet reboot=k panic=-1 rdinit=/init")
            .flag("--disk", format!("{},ro", artifacts::debian_disk().display()))
    }

    /// Adds a flag with its value; of flags that can be given once, the last one counts.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: impl Into<OsString>) -> Self {
        let earlier = self.arguments.iter().position(|argument| argument == flag);
        match earlier.filter(|_| !REPEATABLE.contains(&flag)) {
            Some(index) => self.arguments[index + 1] = value.into(),
            None => self.arguments.extend([flag.into(), value.into()]),
        }
        self
    }

    /// Adds a flag without a value.
    #[must_use]
    pub fn switch(mut self, flag: &str) -> Self {
        self.arguments.push(flag.into());
        self
    }

    /// Has it started by another program, which takes the command as its own last arguments.
    #[must_use]
    pub fn started_by(mut self, program: &str, arguments: &[&str]) -> Self {
        self.starter = std::iter::once(&program).chain(arguments).map(OsString::from).collect();
        self
    }

    /// Returns the command as it is, for a test that starts it in its own way.
    pub fn into_command(self) -> Command {
        let mut words = self.starter;
        words.push(artifacts::vmctl().into());
        words.extend(self.arguments);
        let mut command = Command::new(words.remove(0));
        command.args(words);
        command
    }

    /// Starts it.
    pub fn spawn(self) -> Result<Vm> {
        let log = artifacts::log_directory()?.join(format!("{}.console.log", self.name));
        let errors = log.with_extension("stderr");
        let mut command = self.into_command();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let stdin = child.stdin.take();
        let console = Console::read(stdout, &log)?;
        Ok(Vm { child, stdin, console, log, errors, ended_well: false })
    }

    /// Starts it and waits for the shell in the guest.
    pub fn guest(self) -> Result<Guest> {
        Guest::wait_ready(self.spawn()?)
    }
}

/// A running VM. Dropping it kills the process; its log stays unless it ended as its test expected.
pub struct Vm {
    child: Child,
    stdin: Option<ChildStdin>,
    /// What the guest prints.
    pub console: Console,
    log: PathBuf,
    errors: PathBuf,
    ended_well: bool,
}

impl Vm {
    /// The process id of `vmctl`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process id of the `vmm` that `vmctl` started.
    pub fn vmm_pid(&self) -> Result<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let text = std::fs::read_to_string(&children)?;
        let first = text.split_whitespace().next().context("vmctl has no child")?;
        Ok(first.parse()?)
    }

    /// Types a line on the guest's console.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.type_bytes(format!("{line}\n").as_bytes())
    }

    /// Types bytes as they are.
    pub fn type_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        type_on(self.stdin.as_mut(), bytes)
    }

    /// Closes the console's input, as the end of a script on a pipe does.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Sends `signal` to `vmctl`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_process(self.child.id(), signal)
    }

    /// Waits for `vmctl` to end.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        if !wait_process(self.child.id(), limit)? {
            bail!("vmctl didn't end in {limit:?}; console:\n{}", self.console.text());
        }
        Ok(self.child.wait()?)
    }

    /// Waits for `vmctl` to end with `code`.
    pub fn expect_exit(&mut self, code: i32) -> Result<()> {
        let status = self.wait_exit(PATIENCE)?;
        ensure!(
            status.code() == Some(code),
            "vmctl ended with {:?} (signal {:?}) instead of {code}: {}\nconsole:\n{}",
            status.code(),
            status.signal(),
            self.stderr(),
            self.console.text()
        );
        self.ended_well = true;
        Ok(())
    }

    /// Returns what `vmctl` wrote to its standard error so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_else(|error| error.to_string())
    }
}

impl Machine for Vm {
    fn console(&self) -> &Console {
        &self.console
    }

    fn type_line(&mut self, line: &str) -> Result<()> {
        Self::type_line(self, line)
    }

    fn expect_exit(&mut self, code: i32) -> Result<()> {
        Self::expect_exit(self, code)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.ended_well && !std::thread::panicking() {
            let _ = std::fs::remove_file(&self.log);
            let _ = std::fs::remove_file(&self.errors);
        }
    }
}

/// Writes to a console's input.
pub(crate) fn type_on(stdin: Option<&mut ChildStdin>, bytes: &[u8]) -> Result<()> {
    let stdin = stdin.context("the console's input is closed")?;
    stdin.write_all(bytes).context("type on the guest's console")
}

/// Sends `signal` to the process `pid`.
pub fn signal_process(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no process id")?;
    rustix::process::kill_process(pid, signal).context("send a signal")
}

/// Waits until the process `pid` ends; `false` when `limit` passes first.
pub fn wait_process(pid: u32, limit: Duration) -> Result<bool> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no process id")?;
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready != 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs `vmctl` with `arguments` to its end.
pub fn vmctl(arguments: &[&str]) -> Result<(i32, String, String)> {
    let output = Command::new(artifacts::vmctl())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("run vmctl")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().context("vmctl was killed by a signal")?;
    Ok((code, text(&output.stdout), text(&output.stderr)))
}

/// Reads a stream to its end as text.
pub fn read_all(mut stream: impl Read) -> Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
