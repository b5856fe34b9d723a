//! The `vmm` process: where the program is, how it's started, and that it never stays behind.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use api::config::VmConfig;
use api::host::HostReport;
use command_fds::{CommandFdExt, FdMapping};
use log::LevelFilter;
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::errors::CliError;
use crate::registry::Entry;

/// The environment variable that names another program than the one beside `vmctl`.
const VMM_VARIABLE: &str = "VMCTL_VMM";

/// The program's file name.
const VMM_NAME: &str = "vmm";

/// The descriptors that the VMM finds its configuration and its status pipe at.
const CONFIG_FD: i32 = 3;
const STATUS_FD: i32 = 4;

/// What a VMM is started with.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// The VM's place in the registry.
    pub(crate) entry: &'a Entry,
    /// The checked configuration, which it starts from at once; without one it waits to be told
    /// over its API.
    pub(crate) config: Option<&'a VmConfig>,
    /// Whether it's to end with this process.
    pub(crate) tie: Tie,
    /// How long the guest has to power off once its power button is pressed, in seconds.
    pub(crate) shutdown_timeout_s: u32,
    /// How much the VMM logs.
    pub(crate) level: LevelFilter,
}

/// What a VMM has to do with the process that starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tie {
    /// It ends with this process, whose standard output and error are its own.
    Foreground {
        /// Whether the guest's console reads from this process.
        has_input: bool,
    },
    /// It lives on in a session of its own, without any terminal.
    Detached,
}

/// A running VMM, killed when this is dropped, unless it was released. The kernel kills it if this
/// process dies and it isn't detached.
#[derive(Debug)]
pub(crate) struct VmmProcess {
    child: Child,
    released: bool,
    /// Readable once the process has ended.
    pidfd: OwnedFd,
    /// Events, as JSON lines; reading never waits.
    pub(crate) status: File,
    /// The writing end of the VMM's standard input.
    pub(crate) input: Option<OwnedFd>,
}

impl VmmProcess {
    /// Starts a VMM.
    pub(crate) fn start(launch: &Launch<'_>) -> Result<Self, CliError> {
        let path = find()?;
        let failed = |source: io::Error| CliError::VmmStart { path: path.clone(), source };
        let (status, status_writer) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        fcntl_setfl(&status, OFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
        let mut mappings = vec![FdMapping { parent_fd: status_writer, child_fd: STATUS_FD }];
        if let Some(config) = launch.config {
            let parent_fd = config_file(config).map_err(failed)?;
            mappings.push(FdMapping { parent_fd, child_fd: CONFIG_FD });
        }
        let mut command = command(&path, launch);
        command.fd_mappings(mappings).map_err(|error| failed(io::Error::other(error)))?;
        let child = command.spawn().map_err(failed)?;
        // The command holds the parent's copies of the descriptors: the status pipe would not end.
        drop(command);
        Self::adopt(child, File::from(status)).map_err(failed)
    }

    fn adopt(mut child: Child, status: File) -> io::Result<Self> {
        let opened = Pid::from_child(&child);
        match pidfd_open(opened, PidfdFlags::empty()) {
            Ok(pidfd) => {
                let input = child.stdin.take().map(OwnedFd::from);
                Ok(Self { child, released: false, pidfd, status, input })
            }
            Err(errno) => {
                child.kill()?;
                child.wait()?;
                Err(errno.into())
            }
        }
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it live on without this process.
    pub(crate) fn release(mut self) {
        self.released = true;
    }

    /// Readable once the process has ended.
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal. A process that has ended already is no failure.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(errno) = pidfd_send_signal(&self.pidfd, signal) {
            log::debug!("signal {signal:?} reached no vmm process: {errno}");
        }
    }

    /// Waits for the end, and returns what the process left.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        // Both do nothing to a process that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program with its flags.
///
/// In the foreground it gets a process group of its own: what a terminal sends to the foreground
/// group reaches this process only, which decides what to make of it. Detached, it makes itself a
/// session, which only a process that leads no group can.
fn command(path: &Path, launch: &Launch<'_>) -> Command {
    let record = &launch.entry.record;
    let mut command = Command::new(path);
    command.arg("--api-sock").arg(&record.api_socket).args(["--id", &record.id]);
    if launch.config.is_some() {
        command.arg("--config-file").arg(format!("/proc/self/fd/{CONFIG_FD}"));
    }
    command
        .args(["--status-fd", &STATUS_FD.to_string()])
        .arg("--event-log")
        .arg(&record.events)
        .args(["--shutdown-timeout", &launch.shutdown_timeout_s.to_string()])
        .args(["--level", &launch.level.to_string().to_lowercase()]);
    match launch.tie {
        Tie::Foreground { has_input } => {
            command.stdin(if has_input { Stdio::piped() } else { Stdio::null() });
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
        }
        Tie::Detached => {
            command.arg("--outlive-parent").arg("--log-path").arg(&record.log);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
    }
    command
}

/// Asks the VMM, the only user of KVM, what this host can do.
pub(crate) fn probe_host() -> Result<HostReport, CliError> {
    let path = find()?;
    let output = Command::new(&path)
        .arg("--probe-host")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| CliError::VmmStart { path: path.clone(), source })?;
    if !output.status.success() {
        let source = io::Error::other(output.status.to_string());
        return Err(CliError::Probe { path, source });
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| CliError::Probe { path, source: error.into() })
}

/// Finds the program: the one that [`VMM_VARIABLE`] names, else the one beside this program, else
/// the first on the `PATH`.
fn find() -> Result<PathBuf, CliError> {
    if let Some(path) = env::var_os(VMM_VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let looked = format!("{VMM_VARIABLE}={} is no file", path.display());
        return if path.is_file() { Ok(path) } else { Err(CliError::VmmNotFound { looked }) };
    }
    let vmctl = env::current_exe().unwrap_or_default();
    let beside = vmctl.with_file_name(VMM_NAME);
    let on_path = env::var_os("PATH").unwrap_or_default();
    let mut candidates =
        iter::once(beside.clone()).chain(env::split_paths(&on_path).map(|dir| dir.join(VMM_NAME)));
    candidates.find(|path| path.is_file()).ok_or_else(|| CliError::VmmNotFound {
        looked: format!("neither {} nor anywhere on the PATH", beside.display()),
    })
}

/// The configuration as a file that has no name and can't be changed any more.
fn config_file(config: &VmConfig) -> io::Result<OwnedFd> {
    let text = serde_json::to_vec(config)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("vm-config", flags)?);
    file.write_all(&text)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}
