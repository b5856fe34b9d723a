//! A VM driven over its API: a `vmm` as SDKs spawn it, its console on pipes.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::action::VmmAction;
use api::config::{BootSourceSpec, DriveSpec, MachineSpec, Transport, VmSpec};
use api::http::{Client, ClientError};
use api::v1::LoadSnapshotParams;
use rustix::process::Signal;

use crate::console::Console;
use crate::guest::{Guest, Machine};
use crate::network::Namespace;
use crate::vm::{signal_process, type_on, wait_process};
use crate::{PATIENCE, artifacts};

/// What the tests' initramfs needs on the kernel's command line.
const CMDLINE: &str = "console=ttyS0 quiet reboot=k panic=-1 rdinit=/init";

/// Describes the lean kernel with the test's shell as its init.
pub fn lean(cpus: u64, mem_mib: u64) -> VmSpec {
    boot_of(artifacts::lean_kernel(), artifacts::lean_initrd(), cpus, mem_mib)
}

/// Describes a kernel with an initramfs that has the test's init.
pub fn boot_of(kernel: PathBuf, initrd: PathBuf, cpus: u64, mem_mib: u64) -> VmSpec {
    VmSpec {
        boot_source: Some(BootSourceSpec {
            kernel_image_path: Some(kernel),
            initrd_path: Some(initrd),
            boot_args: Some(CMDLINE.to_owned()),
        }),
        machine_config: Some(MachineSpec {
            vcpu_count: Some(cpus),
            mem_size_mib: Some(mem_mib),
            ..MachineSpec::default()
        }),
        ..VmSpec::default()
    }
}

/// Describes the lean kernel with the Debian disk, which is `/dev/vda`, below a layer in memory.
pub fn debian_shell(cpus: u64, mem_mib: u64) -> VmSpec {
    let mut spec =
        boot_of(artifacts::lean_kernel(), artifacts::debian_shell_initrd(), cpus, mem_mib);
    spec.drives.push(DriveSpec {
        drive_id: "debian".to_owned(),
        path_on_host: Some(artifacts::debian_disk()),
        is_read_only: Some(true),
        ..DriveSpec::default()
    });
    spec
}

/// Has `spec`'s virtio devices attached by `transport`.
#[must_use]
pub fn over(transport: Transport, mut spec: VmSpec) -> VmSpec {
    spec.machine_config.get_or_insert_default().transport = Some(transport);
    spec
}

/// Has the pages logged that `spec`'s guest writes.
#[must_use]
pub fn tracked(mut spec: VmSpec) -> VmSpec {
    spec.machine_config.get_or_insert_default().track_dirty_pages = Some(true);
    spec
}

/// A running `vmm`. Dropping it kills the process; its log stays unless it ended as its test
/// expected.
pub struct ApiVm {
    child: Child,
    stdin: Option<ChildStdin>,
    /// What the guest prints.
    pub console: Console,
    /// The connection to its API.
    pub api: Client,
    socket: PathBuf,
    log: PathBuf,
    errors: PathBuf,
    ended_well: bool,
}

impl ApiVm {
    /// Starts a `vmm` that has no machine yet. Its socket is in `directory`; `name`, which is unique
    /// among the running ones of a suite, names it and the log.
    pub fn spawn(name: &str, directory: &Path) -> Result<Self> {
        Self::spawn_by(Command::new(artifacts::vmm()), name, directory)
    }

    /// The same in a network namespace.
    pub fn spawn_in(namespace: &Namespace, name: &str, directory: &Path) -> Result<Self> {
        let vmm = artifacts::vmm();
        let vmm = vmm.to_str().context("the path of the vmm isn't UTF-8")?;
        Self::spawn_by(namespace.command(vmm), name, directory)
    }

    /// The same by a command of one's own, to which the flags are added.
    pub fn spawn_by(mut command: Command, name: &str, directory: &Path) -> Result<Self> {
        let socket = directory.join(format!("{name}.sock"));
        let log = artifacts::log_directory()?.join(format!("{name}.console.log"));
        let errors = log.with_extension("stderr");
        let arguments: [OsString; 6] = [
            "--api-sock".into(),
            socket.clone().into(),
            "--id".into(),
            name.replace('_', "-").into(),
            "--level".into(),
            "info".into(),
        ];
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let stdin = child.stdin.take();
        let console = Console::read(stdout, &log)?;
        let api = connect(&mut child, &socket).with_context(|| {
            format!("stderr: {}", std::fs::read_to_string(&errors).unwrap_or_default())
        })?;
        Ok(Self { child, stdin, console, api, socket, log, errors, ended_well: false })
    }

    /// Configures and starts the machine that `spec` describes.
    pub fn start(&mut self, spec: VmSpec) -> Result<()> {
        for action in actions(spec) {
            let name = action.name();
            self.api.act(&action).with_context(|| format!("asking to {name}"))?;
        }
        Ok(())
    }

    /// The same, and waits for the machine's shell.
    pub fn boot(mut self, spec: VmSpec) -> Result<Guest<Self>> {
        self.start(spec)?;
        Guest::wait_ready(self)
    }

    /// Brings a saved machine back, running, and waits for its shell.
    pub fn restore(mut self, mut params: LoadSnapshotParams) -> Result<Guest<Self>> {
        params.resume_vm = true;
        self.api.load_snapshot(params).with_context(|| self.stderr())?;
        Guest::resumed(self)
    }

    /// The process id of the `vmm`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The path of its API's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes another connection to the API.
    pub fn connect(&self) -> Result<Client> {
        client(&self.socket).map_err(Into::into)
    }

    /// Sends `signal` to the process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_process(self.child.id(), signal)
    }

    /// Waits for the process to end.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        if !wait_process(self.child.id(), limit)? {
            bail!("the vmm didn't end in {limit:?}; console:\n{}", self.console.text());
        }
        Ok(self.child.wait()?)
    }

    /// Kills the process, as its test means to.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_exit(PATIENCE)?;
        self.ended_well = true;
        Ok(())
    }

    /// Returns what the `vmm` wrote to its standard error so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_else(|error| error.to_string())
    }

    /// How many descriptors and how many threads the process has, but for those that the kernel
    /// adds and takes away as it likes (io_uring's workers).
    pub fn descriptors_and_threads(&self) -> Result<(usize, usize)> {
        let process = PathBuf::from(format!("/proc/{}", self.pid()));
        let descriptors = std::fs::read_dir(process.join("fd"))?.count();
        let mut threads = 0;
        for task in std::fs::read_dir(process.join("task"))? {
            // It may have ended just now.
            let name = std::fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
            threads += usize::from(!name.is_empty() && !name.starts_with("iou-"));
        }
        Ok((descriptors, threads))
    }
}

impl Machine for ApiVm {
    fn console(&self) -> &Console {
        &self.console
    }

    fn type_line(&mut self, line: &str) -> Result<()> {
        type_on(self.stdin.as_mut(), format!("{line}\n").as_bytes())
    }

    fn expect_exit(&mut self, code: i32) -> Result<()> {
        let status = self.wait_exit(PATIENCE)?;
        ensure!(
            status.code() == Some(code),
            "the vmm ended with {:?} (signal {:?}) instead of {code}: {}\nconsole:\n{}",
            status.code(),
            status.signal(),
            self.stderr(),
            self.console.text()
        );
        self.ended_well = true;
        Ok(())
    }
}

impl Drop for ApiVm {
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

/// The requests that make `spec`'s machine and start it.
fn actions(spec: VmSpec) -> Vec<VmmAction> {
    let mut actions = Vec::new();
    actions.extend(spec.boot_source.map(VmmAction::ConfigureBootSource));
    actions.extend(spec.machine_config.map(VmmAction::SetMachineConfig));
    actions.extend(spec.drives.into_iter().map(VmmAction::InsertDrive));
    actions.extend(spec.network_interfaces.into_iter().map(VmmAction::InsertNet));
    actions.extend(spec.mmds_config.map(VmmAction::SetMmdsConfig));
    actions.extend(spec.cpu_config.map(VmmAction::SetCpuConfig));
    actions.extend(spec.serial.map(VmmAction::ConfigureSerial));
    actions.extend(spec.vsock.map(VmmAction::SetVsock));
    actions.extend(spec.entropy.map(VmmAction::SetEntropy));
    actions.extend(spec.balloon.map(VmmAction::SetBalloon));
    actions.extend(spec.memory_hotplug.map(VmmAction::SetMemoryHotplug));
    actions.extend(spec.pmem.into_iter().map(VmmAction::InsertPmem));
    actions.extend(spec.filesystems.into_iter().map(VmmAction::AddFilesystem));
    actions.push(VmmAction::InstanceStart);
    actions
}

/// Connects as soon as the process listens. Nothing tells when: SDKs try again, too.
fn connect(child: &mut Child, socket: &Path) -> Result<Client> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client(socket) {
            Ok(client) => return Ok(client),
            Err(ClientError::NoSocket { .. } | ClientError::Refused { .. })
                if Instant::now() < deadline => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = child.try_wait()? {
            bail!("the vmm ended at its start: {status}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn client(socket: &Path) -> Result<Client, ClientError> {
    let mut client = Client::connect(socket)?;
    client.set_timeout(PATIENCE);
    Ok(client)
}
