//! A full VM: a distribution's disk, booted with its init system up to the login prompt.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::event::Event;
use rustix::process::{Pid, Signal, kill_process};

use super::microvm::{monotonic_ns, step};
use super::process::system;
use super::spawned::{Spawned, spawned_methods};
use super::subject::Subject;
use super::{Instance, Output, Runner, Spec, WayError};
use crate::model::{Step, WayId};

/// How long it may take to boot, and to shut down.
const PATIENCE: Duration = Duration::from_secs(900);

/// The kernel's command line: the first disk's file system, read-only, as a `live` system.
const CMDLINE: &str =
    "console=ttyS0 reboot=k panic=-1 root=/dev/vda ro quiet systemd.show_status=true";

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
        // Whatever is asked for: it runs what's on its disk.
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
        command.args(["--cmdline", CMDLINE, "--timeline"]).arg(&timeline);
        let interrupt = &self.subject.interrupt;
        Ok(Box::new(FullVm {
            started_ns,
            spawned: Spawned::start(command, metered, started, interrupt, PATIENCE)?,
            timeline,
        }))
    }
}

struct FullVm {
    started_ns: u64,
    spawned: Spawned,
    timeline: PathBuf,
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

    fn exec(&self, _command: &[&str]) -> Result<Output, WayError> {
        Err(WayError::Unavailable("nothing can be run in a full VM from outside".to_owned()))
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
