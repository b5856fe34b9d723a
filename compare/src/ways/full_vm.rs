//! A full VM: a distribution's disk, booted with its init system up to the login prompt.

use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::event::Event;
use compare_probe::remote::{self, MAX_REPLY_BYTES, Reply};
use rustix::process::{Pid, Signal, kill_process};

use super::microvm::{monotonic_ns, step};
use super::process::{system, wait_for};
use super::spawned::{Spawned, spawned_methods};
use super::subject::Subject;
use super::{Instance, Output, PROBE_PATH, Runner, Spec, WayError};
use crate::interrupt::Interrupt;
use crate::model::{Step, WayId};

/// How long it may take to boot, and to shut down.
const PATIENCE: Duration = Duration::from_secs(900);

/// The kernel's command line: the first disk's file system, read-only, as a `live` system.
const CMDLINE: &str =
    "console=ttyS0 reboot=k panic=-1 root=/dev/vda ro quiet systemd.show_status=true";

/// What stands before the disk's init where the program of our own is needed: it answers by vsock.
/// The kernel's command line has double quotes only, and `--` before what init gets.
const PROBE_INIT: &str = "init=/bin/sh -- -c \"mount -t virtiofs shares /mnt && \
                          /mnt/probe vsock-server --port 1024 </dev/null >/dev/null 2>&1 & \
                          exec /sbin/init\"";

/// The port in there.
const PORT: u32 = 1024;

/// The guest's context identifier: each VM has a device of its own.
const CID: u32 = 3;

/// How long the program of our own may take to be there, and for a command.
const EXEC_PATIENCE: Duration = Duration::from_secs(300);

/// What's on the console once it's up.
pub const LOGIN_MARK: &str = "login:";

/// Boots full VMs.
#[derive(Debug)]
pub struct FullVms {
    subject: Arc<Subject>,
    kernel: PathBuf,
    disk: PathBuf,
}

impl FullVms {
    /// Boots this disk's file system with this kernel.
    ///
    /// # Errors
    /// There are no such files.
    pub fn new(subject: Arc<Subject>, kernel: PathBuf, disk: PathBuf) -> Result<Self, WayError> {
        for (what, path) in [("kernel", &kernel), ("disk", &disk)] {
            if !path.is_file() {
                return Err(WayError::Unavailable(format!(
                    "the full VM's {what}, {}, is no file",
                    path.display()
                )));
            }
        }
        Ok(Self { subject, kernel, disk })
    }

    /// Bytes of the disk that are allocated on the host.
    ///
    /// # Errors
    /// The file is gone.
    pub fn disk_bytes(&self) -> Result<u64, WayError> {
        use std::os::unix::fs::MetadataExt;
        let metadata = self.disk.metadata();
        let metadata = metadata.map_err(system(format!("read {}", self.disk.display())))?;
        Ok(metadata.blocks() * 512)
    }
}

impl Runner for FullVms {
    fn id(&self) -> WayId {
        WayId::FullVm
    }

    fn detail(&self) -> String {
        let name =
            |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("vmctl boot, {}, {} with systemd", name(&self.kernel), name(&self.disk))
    }

    fn start(&self, spec: &Spec) -> Result<Box<dyn Instance>, WayError> {
        // Whatever command is asked for: it runs what's on its disk.
        let started_ns = monotonic_ns();
        let started = Instant::now();
        let metered = self.subject.meter.instance(&spec.name)?;
        let timeline = self.subject.scratch.path().join(format!("{}.timeline", spec.name));
        let mut command = Command::new(&self.subject.vmctl);
        command.arg("boot").arg("--kernel").arg(&self.kernel);
        // A comma in a path would begin an option.
        let disk = self.disk.to_string_lossy().replace(',', ",,");
        command.args(["--disk", &format!("{disk},ro"), "--console", "stdio", "--rng"]);
        command.arg(format!("--cpus={}", self.subject.cpus));
        command.arg(format!("--memory={}M", self.subject.memory_mib));
        let mut cmdline = CMDLINE.to_owned();
        let mut socket = None;
        if spec.probe {
            let path = self.subject.scratch.path().join(format!("{}.vsock", spec.name));
            command.arg(format!("--vsock=cid={CID},path={}", path.display()));
            command.arg(format!("--share=probe={}:ro", self.subject.probe.display()));
            cmdline = format!("{CMDLINE} {PROBE_INIT}");
            socket = Some(path);
        }
        command.args(["--cmdline", &cmdline, "--timeline"]).arg(&timeline);
        let interrupt = &self.subject.interrupt;
        Ok(Box::new(FullVm {
            started_ns,
            spawned: Spawned::start(command, metered, started, interrupt, PATIENCE)?,
            timeline,
            socket,
            interrupt: interrupt.clone(),
        }))
    }
}

struct FullVm {
    started_ns: u64,
    spawned: Spawned,
    timeline: PathBuf,
    /// Where the program of our own answers, if it's in there.
    socket: Option<PathBuf>,
    interrupt: Interrupt,
}

impl FullVm {
    /// Reads a reply to its end, or until Ctrl-C.
    fn reply(&self, stream: &mut UnixStream) -> Result<Reply, WayError> {
        let deadline = Instant::now() + EXEC_PATIENCE;
        let mut bytes = Vec::new();
        let failed = system("read compare-probe's reply".to_owned());
        while bytes.last() != Some(&b'\n') {
            wait_for(&[stream.as_fd()], deadline, Some(&self.interrupt)).map_err(|stopped| {
                stopped.into_way_error("compare-probe in the full VM", EXEC_PATIENCE)
            })?;
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => bytes.extend(&buffer[..count]),
                Err(error) => return Err(failed(error)),
            }
            if bytes.len() as u64 > MAX_REPLY_BYTES {
                break;
            }
        }
        remote::parse(&bytes).map_err(failed)
    }
}

impl Instance for FullVm {
    spawned_methods!();

    fn address(&mut self, _port: u16) -> Result<SocketAddr, WayError> {
        Err(WayError::Unavailable("it has no network".to_owned()))
    }

    fn steps(&mut self) -> Vec<Step> {
        let text = std::fs::read_to_string(&self.timeline).unwrap_or_default();
        let events = text.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
        events.filter_map(|event| step(&event, self.started_ns)).collect()
    }

    fn exec(&self, command: &[&str]) -> Result<Output, WayError> {
        let (socket, words) = match (&self.socket, command) {
            (Some(socket), [PROBE_PATH, words @ ..]) => (socket, words),
            _ => {
                let reason = "nothing but compare-probe can be run in a full VM from outside";
                return Err(WayError::Unavailable(reason.to_owned()));
            }
        };
        let mut stream = agent_proto::dial(socket, PORT, EXEC_PATIENCE).map_err(|error| {
            WayError::Unavailable(format!(
                "compare-probe doesn't answer in the full VM, whose kernel needs virtio-fs and \
                 vsock built in: {error}"
            ))
        })?;
        remote::send(&mut stream, words)
            .map_err(system("ask compare-probe in the full VM".to_owned()))?;
        let Reply { code, stdout, stderr } = self.reply(&mut stream)?;
        Ok(Output { code, stdout, stderr })
    }

    fn stop(&mut self) -> Result<(), WayError> {
        if self.spawned.is_running()
            && let Some(pid) = i32::try_from(self.spawned.child.id()).ok().and_then(Pid::from_raw)
        {
            // `vmctl boot` presses the power button.
            kill_process(pid, Signal::TERM)
                .map_err(|errno| system("signal vmctl boot")(errno.into()))?;
        }
        self.spawned.wait_gone()
    }
}

impl Drop for FullVm {
    fn drop(&mut self) {
        self.spawned.kill();
        let _ = std::fs::remove_file(&self.timeline);
    }
}
