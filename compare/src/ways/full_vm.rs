//! A full VM: a distribution's disk, booted with its init system up to the login prompt.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::config::{self, DiskFormat, DriveSpec, VmSpec};
use api::event::Event;
use compare_probe::remote::{self, MAX_REPLY_BYTES, Reply};
use devices::disk::{self, BackingFile, Disk, DiskBackend, DiskOptions, Format};
use rustix::process::{Pid, Signal, kill_process};

use super::microvm::{monotonic_ns, step};
use super::networks::Tap;
use super::process::{system, wait_for};
use super::spawned::{Spawned, spawned_methods};
use super::subject::{Subject, at};
use super::{Instance, Output, PROBE_PATH, Runner, Spec, WayError};
use crate::interrupt::Interrupt;
use crate::model::{Step, WayId};

/// How long it may take to boot, and to shut down.
const PATIENCE: Duration = Duration::from_secs(900);

/// The kernel's command line: the first disk is a file system, the root.
const CMDLINE: &str =
    "console=ttyS0 reboot=k panic=-1 root=/dev/vda rw quiet systemd.show_status=true";

/// The vsock port at which the program of our own answers in there.
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
    disk: BackingFile,
    disk_len: u64,
}

impl FullVms {
    /// Boots this disk's file system with this kernel. The disk is only read: each VM writes to an
    /// overlay of its own, as clones of a VM do.
    ///
    /// # Errors
    /// There are no such files, or the disk can't be opened.
    pub fn new(subject: Arc<Subject>, kernel: PathBuf, disk: PathBuf) -> Result<Self, WayError> {
        for (what, path) in [("kernel", &kernel), ("disk", &disk)] {
            if !path.is_file() {
                return Err(WayError::Unavailable(format!(
                    "the full VM's {what}, {}, is no file",
                    path.display()
                )));
            }
        }
        let options = DiskOptions { read_only: true, ..DiskOptions::new(disk) };
        let disk =
            Disk::open(&options).map_err(|error| WayError::Unavailable(error.to_string()))?;
        let (format, disk_len) = (disk.format(), disk.len_bytes());
        let disk = BackingFile { path: options.path, format };
        Ok(Self { subject, kernel, disk, disk_len })
    }

    /// Bytes of the disk that are allocated on the host.
    ///
    /// # Errors
    /// The file is gone.
    pub fn disk_bytes(&self) -> Result<u64, WayError> {
        use std::os::unix::fs::MetadataExt;
        let path = &self.disk.path;
        let metadata = path.metadata().map_err(system(format!("read {}", path.display())))?;
        Ok(metadata.blocks() * 512)
    }

    fn config_of(&self, name: &str) -> PathBuf {
        self.subject.scratch.disks().join(format!("{name}.json"))
    }

    /// Makes a disk that an instance can write to, and the file that tells `vmctl boot` of it.
    fn disk_of(&self, name: &str) -> Result<Files, WayError> {
        let dir = self.subject.scratch.disks();
        let mut files = Files::default();
        let path = files.add(dir.join(format!("{name}.qcow2")));
        disk::create_overlay(&path, self.disk_len, &self.disk)
            .map_err(system(format!("create {}", path.display())))?;
        let below = config::BackingFile {
            path_on_host: self.disk.path.clone(),
            format: match self.disk.format {
                Format::Raw => DiskFormat::Raw,
                Format::Qcow2 => DiskFormat::Qcow2,
            },
        };
        let drive = DriveSpec {
            drive_id: "disk".to_owned(),
            path_on_host: Some(path),
            format: Some(DiskFormat::Qcow2),
            backing: vec![below],
            ..DriveSpec::default()
        };
        let spec = VmSpec { drives: vec![drive], ..VmSpec::default() };
        let config = files.add(self.config_of(name));
        let text = serde_json::to_string(&spec).map_err(std::io::Error::from);
        text.and_then(|text| std::fs::write(&config, text))
            .map_err(system(format!("write {}", config.display())))?;
        Ok(files)
    }
}

/// What stands before the disk's init where the program of our own is needed: it answers by vsock,
/// and serves if it's to. The kernel's command line has double quotes only, and `--` before what
/// init gets.
fn probe_init(server: &[String]) -> String {
    let mut script = "mount -t virtiofs shares /mnt; ".to_owned();
    let port = PORT.to_string();
    let mut run = |words: &[&str]| {
        script += &format!("/mnt/probe {} </dev/null >/dev/null 2>&1 & ", words.join(" "));
    };
    run(&["vsock-server", "--port", &port]);
    if !server.is_empty() {
        run(&server.iter().map(String::as_str).collect::<Vec<_>>());
    }
    format!("init=/bin/sh -- -c \"{script}exec /sbin/init\"")
}

/// An instance's files, which go with it.
#[derive(Debug, Default)]
struct Files(Vec<PathBuf>);

impl Files {
    /// One that's going to be made.
    fn add(&mut self, path: PathBuf) -> PathBuf {
        self.0.push(path.clone());
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Runner for FullVms {
    fn id(&self) -> WayId {
        WayId::FullVm
    }

    fn detail(&self) -> String {
        let name =
            |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("vmctl boot, {}, {} with systemd", name(&self.kernel), name(&self.disk.path))
    }

    fn start(&self, spec: &Spec) -> Result<Box<dyn Instance>, WayError> {
        // Whatever command is asked for: it runs what's on its disk.
        let started_ns = monotonic_ns();
        let started = Instant::now();
        let metered = self.subject.meter.instance(&spec.name)?;
        let dir = self.subject.scratch.path();
        let mut files = self.disk_of(&spec.name)?;
        let timeline = files.add(dir.join(format!("{}.timeline", spec.name)));
        let mut command = Command::new(&self.subject.vmctl);
        command.arg("boot").arg("--kernel").arg(&self.kernel);
        command.arg("--config").arg(self.config_of(&spec.name));
        command.args(["--console", "stdio", "--rng"]);
        command.arg(format!("--cpus={}", self.subject.cpus));
        command.arg(format!("--memory={}M", self.subject.memory_mib));
        let mut cmdline = CMDLINE.to_owned();
        let connect = || self.subject.networks()?.tap(&spec.name);
        let tap = spec.network.then(connect).transpose()?;
        if let Some(tap) = &tap {
            command.args(["--net", &tap.net_option()]);
            cmdline = format!("{cmdline} {}", tap.kernel_parameter());
        }
        let mut socket = None;
        if spec.probe {
            let path = files.add(dir.join(format!("{}.vsock", spec.name)));
            command.arg(format!("--vsock=cid={CID},path={}", path.display()));
            command.arg(format!("--share=probe={}:ro", self.subject.probe.display()));
            let server: &[String] = if spec.network { &spec.command } else { &[] };
            cmdline = format!("{cmdline} {}", probe_init(server));
            socket = Some(path);
        }
        command.args(["--cmdline", &cmdline, "--timeline"]).arg(&timeline);
        let interrupt = &self.subject.interrupt;
        Ok(Box::new(FullVm {
            started_ns,
            spawned: Spawned::start(command, metered, started, interrupt, PATIENCE)?,
            timeline,
            socket,
            tap,
            interrupt: interrupt.clone(),
            _files: files,
        }))
    }
}

struct FullVm {
    started_ns: u64,
    spawned: Spawned,
    timeline: PathBuf,
    /// Where the program of our own answers, if it's in there.
    socket: Option<PathBuf>,
    tap: Option<Tap>,
    interrupt: Interrupt,
    _files: Files,
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

    fn address(&mut self, port: u16) -> Result<SocketAddr, WayError> {
        let tap = self.tap.as_ref();
        let tap = tap.ok_or_else(|| WayError::Unavailable("it has no network".to_owned()))?;
        Ok(at(IpAddr::V4(tap.address()), port))
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
        // Before its disk and its interface go.
        self.spawned.kill();
    }
}
