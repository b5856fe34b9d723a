//! The `vmm` process of a container: where the program is, how it's started, what it says.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::iter;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use api::config::VmConfig;
use api::event::Event;
use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::RuntimeError;
use crate::error::{file, system};
use crate::paths::ContainerPaths;

/// The environment variable that names another program than the one beside this.
const VMM_VARIABLE: &str = "VMCTL_VMM";

/// The program's file name.
const VMM_NAME: &str = "vmm";

/// The descriptors that the VMM finds its configuration and its status pipe at.
const CONFIG_FD: i32 = 3;
const STATUS_FD: i32 = 4;

/// How long the VMM gives the guest to power off, in seconds, when it's asked to end by a signal.
const SHUTDOWN_TIMEOUT_S: u32 = 10;

/// The longest line that's an event: the VMM talks to a guest, and isn't trusted with memory here.
const MAX_LINE_BYTES: usize = 64 << 10;

/// A running VMM, killed when this is dropped. The kernel kills it when the thread ends that
/// started it.
#[derive(Debug)]
pub(crate) struct VmmProcess {
    child: Child,
    pidfd: OwnedFd,
}

/// Ends a VMM from any thread.
#[derive(Debug)]
pub(crate) struct VmmKiller {
    pidfd: OwnedFd,
}

/// What a VMM says, read until its end.
#[derive(Debug)]
pub(crate) struct VmmEvents {
    pipe: BufReader<File>,
}

impl VmmProcess {
    /// Starts a VMM: with a configuration it boots at once, without one it waits to be told over
    /// its API. Call it from a thread that lasts.
    pub(crate) fn start(
        paths: &ContainerPaths,
        id: &str,
        config: Option<&VmConfig>,
    ) -> Result<(Self, VmmEvents), RuntimeError> {
        let program = find()?;
        let (status, status_writer) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| system("make a pipe")(errno.into()))?;
        let mut mappings = vec![FdMapping { parent_fd: status_writer, child_fd: STATUS_FD }];
        if let Some(config) = config {
            let parent_fd = config_file(config).map_err(system("hand over a configuration"))?;
            mappings.push(FdMapping { parent_fd, child_fd: CONFIG_FD });
        }
        let mut command = command(&program, paths, id, config.is_some());
        command
            .fd_mappings(mappings)
            .map_err(|error| system("hand over descriptors")(io::Error::other(error)))?;
        let child = command.spawn().map_err(file("start", &program))?;
        // The command holds this process's copies: the status pipe would not end.
        drop(command);
        let process = Self::adopt(child).map_err(system("watch the VMM"))?;
        Ok((process, VmmEvents { pipe: BufReader::new(File::from(status)) }))
    }

    fn adopt(mut child: Child) -> io::Result<Self> {
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { child, pidfd }),
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

    /// What ends it from another thread.
    pub(crate) fn killer(&self) -> Result<VmmKiller, RuntimeError> {
        let pidfd = self.pidfd.try_clone().map_err(system("watch the VMM"))?;
        Ok(VmmKiller { pidfd })
    }

    /// Waits for the end, and returns what the process left.
    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl VmmKiller {
    /// What ends another child, in place of a VMM.
    #[cfg(test)]
    pub(crate) fn of(child: &Child) -> Self {
        Self { pidfd: pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap() }
    }

    /// Ends the process at once. One that has ended is no failure.
    pub(crate) fn kill(&self) {
        if let Err(errno) = pidfd_send_signal(&self.pidfd, Signal::KILL) {
            log::debug!("the vmm process was gone already: {errno}");
        }
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        // Both do nothing to a process that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Iterator for VmmEvents {
    type Item = Event;

    /// Waits for the next event; none after the process's end. Lines that are no event that's
    /// known here are passed over.
    fn next(&mut self) -> Option<Event> {
        loop {
            let mut line = Vec::new();
            loop {
                let buffer = match self.pipe.fill_buf() {
                    Ok(buffer) => buffer,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return None,
                };
                if buffer.is_empty() {
                    return None;
                }
                let end = buffer.iter().position(|byte| *byte == b'\n');
                let taken = end.map_or(buffer.len(), |end| end + 1);
                line.extend(buffer.iter().take(taken.min(MAX_LINE_BYTES - line.len())));
                self.pipe.consume(taken);
                if end.is_some() {
                    break;
                }
            }
            match Event::parse_line(&line) {
                Ok(event) => return Some(event),
                Err(error) => log::debug!("no event that's known here: {error}"),
            }
        }
    }
}

/// The program with its flags. It leads a process group of its own: what's sent to the supervisor's
/// doesn't reach it.
fn command(program: &Path, paths: &ContainerPaths, id: &str, has_config: bool) -> Command {
    let mut command = Command::new(program);
    let short = id.get(..crate::paths::SHORT_ID).unwrap_or(id);
    command.arg("--api-sock").arg(paths.api_socket()).args(["--id", short]);
    if has_config {
        command.arg("--config-file").arg(format!("/proc/self/fd/{CONFIG_FD}"));
    }
    command
        .args(["--status-fd", &STATUS_FD.to_string()])
        .arg("--log-path")
        .arg(paths.vmm_log())
        .args(["--shutdown-timeout", &SHUTDOWN_TIMEOUT_S.to_string()])
        .args(["--level", "warn"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command
}

/// Finds the program: the one that [`VMM_VARIABLE`] names, else the one beside this program, else
/// the first on the `PATH`.
pub(crate) fn find() -> Result<PathBuf, RuntimeError> {
    let missing = |looked| RuntimeError::AssetMissing { what: "the VMM", looked };
    if let Some(path) = env::var_os(VMM_VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let looked = format!("{VMM_VARIABLE}={} is no file", path.display());
        return if path.is_file() { Ok(path) } else { Err(missing(looked)) };
    }
    let beside = env::current_exe().unwrap_or_default().with_file_name(VMM_NAME);
    let on_path = env::var_os("PATH").unwrap_or_default();
    let mut candidates =
        iter::once(beside.clone()).chain(env::split_paths(&on_path).map(|dir| dir.join(VMM_NAME)));
    candidates
        .find(|path| path.is_file())
        .ok_or_else(|| missing(format!("neither {} nor anywhere on the PATH", beside.display())))
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
