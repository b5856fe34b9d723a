//! The `vmm` process: where the program is, how it's started, and that it never stays behind.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use api::config::VmConfig;
use api::host::HostReport;
use command_fds::{CommandFdExt, FdMapping};
use log::LevelFilter;
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_setfl, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::errors::CliError;

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
    /// The checked configuration.
    pub(crate) config: &'a VmConfig,
    /// Whether the guest's console reads from this process.
    pub(crate) has_input: bool,
    /// How long the guest has to power off once its power button is pressed, in seconds.
    pub(crate) shutdown_timeout_s: u32,
    /// How much the VMM logs.
    pub(crate) level: LevelFilter,
}

/// A running VMM, killed when this is dropped. The kernel kills it if this process dies.
#[derive(Debug)]
pub(crate) struct VmmProcess {
    child: Child,
    /// Readable once the process has ended.
    pidfd: OwnedFd,
    /// Events, as JSON lines; reading never waits.
    pub(crate) status: File,
    /// The writing end of the VMM's standard input.
    pub(crate) input: Option<OwnedFd>,
}

impl VmmProcess {
    /// Starts a VMM.
    ///
    /// It gets a process group of its own: what a terminal sends to the foreground group reaches
    /// this process only, which decides what to make of it.
    pub(crate) fn start(launch: &Launch<'_>) -> Result<Self, CliError> {
        let path = find()?;
        let failed = |source: io::Error| CliError::VmmStart { path: path.clone(), source };
        let config = config_file(launch.config).map_err(failed)?;
        let (status, status_writer) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        fcntl_setfl(&status, OFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
        let mut command = Command::new(&path);
        command
            .arg("--config-file")
            .arg(format!("/proc/self/fd/{CONFIG_FD}"))
            .arg("--no-api")
            .args(["--status-fd", &STATUS_FD.to_string()])
            .args(["--shutdown-timeout", &launch.shutdown_timeout_s.to_string()])
            .args(["--level", &launch.level.to_string().to_lowercase()])
            .stdin(if launch.has_input { Stdio::piped() } else { Stdio::null() });
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .fd_mappings(vec![
                FdMapping { parent_fd: config, child_fd: CONFIG_FD },
                FdMapping { parent_fd: status_writer, child_fd: STATUS_FD },
            ])
            .map_err(|error| failed(io::Error::other(error)))?;
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
                Ok(Self { child, pidfd, status, input })
            }
            Err(errno) => {
                child.kill()?;
                child.wait()?;
                Err(errno.into())
            }
        }
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
        // Both do nothing to a process that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
