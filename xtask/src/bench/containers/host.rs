//! The same images in everybody's store, and commands whose processes are all counted.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::contender::copy;
use super::{Contender, quietly};
use crate::images::registry::Registry;
use crate::process;
use metering::Cgroup;

/// The cgroup that all processes of a measurement are below.
const CGROUP: &str = "xtask-bench";

/// What idle containers run: the first process of a container ignores signals that it has no handler
/// for.
const IDLE: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// How long a container's processes may take to go away after its command.
const PATIENCE: Duration = Duration::from_secs(600);

/// A registry, and stores that pull from it.
pub(super) struct Host {
    dir: tempfile::TempDir,
    registry: Registry,
}

impl Host {
    /// Starts the registry with the images of `artifacts`, and copies `programs`.
    pub(super) fn new(programs: &Path, artifacts: &Path) -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
        // Overlay file systems can't be above another overlay's upper directory.
        process::run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(dir.path()))?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .context("cannot get a port")?;
        let registry = Registry::start(&artifacts.join("registry"), address)?;
        let host = Self { dir, registry };
        for name in ["vmctl", "vmm", "vmlinux", "agent.cpio"] {
            copy(&programs.join(name), &host.path(name))?;
        }
        Ok(host)
    }

    /// Sees that everybody has the image.
    pub(super) fn prepare(&self, image: &str) -> Result<()> {
        quietly(self.pull(Contender::Warm, image))?;
        quietly(self.pull(Contender::Podman, image))?;
        let bundle = self.path("bundle");
        let root = bundle.join("rootfs");
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        let name = self.image(image);
        quietly(self.command(Contender::Podman, &["create", "--name", "unpacked", &name]))?;
        let archive = self.path("root.tar");
        let export =
            [OsStr::new("export"), OsStr::new("-o"), archive.as_os_str(), "unpacked".as_ref()];
        quietly(self.command(Contender::Podman, &export))?;
        process::run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&root))?;
        quietly(self.command(Contender::Podman, &["rm", "unpacked"]))?;
        process::run(Command::new("crun").arg("spec").current_dir(&bundle))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self, image: &str) -> String {
        format!("{}/library/{image}", self.registry.address())
    }

    /// A command of a contender.
    pub(super) fn command<A: AsRef<OsStr>>(&self, contender: Contender, words: &[A]) -> Command {
        let mut command = match contender {
            Contender::Cold | Contender::Warm => {
                let mut command = Command::new(self.path("vmctl"));
                command.env("VMCTL_DATA_DIR", self.path("data"));
                command.env("VMCTL_RUNTIME_DIR", self.path("run"));
                command
            }
            Contender::Podman => {
                let mut command = Command::new("podman");
                command.arg("--root").arg(self.path("podman"));
                command.arg("--runroot").arg(self.path("podman-run"));
                command.args(["--cgroup-manager=cgroupfs", "--runtime=crun"]);
                command
            }
            Contender::Crun => {
                let mut command = Command::new("crun");
                command.arg("--cgroup-manager=cgroupfs");
                command
            }
        };
        command.args(words);
        command
    }

    /// `run --rm` of the image.
    pub(super) fn run(
        &self,
        contender: Contender,
        network: &str,
        words: &[&str],
    ) -> Result<Command> {
        if contender == Contender::Crun {
            return self.run_bundle(words);
        }
        let mut command = self.command(contender, &["run", "--rm"]);
        self.add_flags(&mut command, contender);
        if !network.is_empty() {
            command.arg(format!("--network={network}"));
        }
        command.arg(self.image(super::IMAGE)).args(words);
        Ok(command)
    }

    fn add_flags(&self, command: &mut Command, contender: Contender) {
        match contender {
            Contender::Cold => command.arg("--no-template"),
            // Where its processes are counted.
            Contender::Podman => command.arg(format!("--cgroup-parent=/{CGROUP}/podman")),
            Contender::Warm | Contender::Crun => command,
        };
    }

    /// Writes what to run into the bundle.
    fn run_bundle(&self, words: &[&str]) -> Result<Command> {
        let path = self.path("bundle/config.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut config: Value = serde_json::from_slice(&text).context("crun's specification")?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(words);
        config["linux"]["cgroupsPath"] = json!(format!("/{CGROUP}/crun"));
        fs::write(&path, config.to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = self.command(Contender::Crun, &["run", "--bundle"]);
        command.arg(self.path("bundle")).arg("measured");
        Ok(command)
    }

    /// `pull` of an image.
    pub(super) fn pull(&self, contender: Contender, image: &str) -> Command {
        let mut command = self.command(contender, &["pull", "--quiet"]);
        if contender == Contender::Podman {
            command.arg("--tls-verify=false");
        }
        command.arg(self.image(image));
        command
    }

    /// Removes an image and what only it needs.
    pub(super) fn remove_image(&self, contender: Contender, image: &str) -> Result<()> {
        quietly(self.command(contender, &["rmi", &self.image(image)]))
    }

    /// The size of all images' compressed layers, and of the files that guests have as their roots,
    /// in KiB.
    pub(super) fn image_sizes(&self) -> Result<(u64, u64)> {
        let images = self.path("data/images");
        let mut roots = 0;
        for name in ["erofs", "roots"] {
            roots += size_kib(&images.join(name))?;
        }
        Ok((size_kib(&images.join("blobs"))?, roots))
    }

    /// What all containers have on disk, in KiB.
    pub(super) fn containers_kib(&self) -> Result<u64> {
        size_kib(&self.path("data/containers"))
    }

    /// Starts containers that do nothing, all at once.
    pub(super) fn idle(&self, contender: Contender, count: u32) -> Result<Measured> {
        let mut script = String::new();
        for name in idle_names(count) {
            let mut command = self.command(contender, &["run", "--detach", "--name", &name]);
            self.add_flags(&mut command, contender);
            command.arg(self.image(super::IMAGE)).args(["sh", "-c", IDLE]);
            for (variable, value) in command.get_envs() {
                let value = value.unwrap_or_default().to_string_lossy();
                script += &format!("{}={} ", variable.display(), process::shell_quote(&value));
            }
            for word in [command.get_program()].into_iter().chain(command.get_args()) {
                script += &process::shell_quote(&word.to_string_lossy());
                script += " ";
            }
            script += "&\n";
        }
        script += "wait\n";
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]);
        let measured = Measured::start(&shell)?;
        measured.wait_for_command()
    }

    /// Removes them.
    pub(super) fn remove_idle(&self, contender: Contender, count: u32) -> Result<()> {
        let mut words = vec!["rm".to_owned(), "--force".to_owned()];
        words.extend(idle_names(count));
        quietly(self.command(contender, &words))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The lab ends soon anyway; the directory's own removal would fail without this.
        let _ = process::run(Command::new("umount").arg("--lazy").arg(self.dir.path()));
    }
}

/// The names of idle containers.
pub(super) fn idle_names(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|index| format!("idle-{index}"))
}

/// A command, and all that it starts.
pub(super) struct Measured {
    child: Option<Child>,
    // Dropped first: it's below the other one.
    commands: Cgroup,
    all: Cgroup,
}

impl Measured {
    /// Starts a command.
    pub(super) fn start(command: &Command) -> Result<Self> {
        let all = Cgroup::create(CGROUP)?;
        let commands = Cgroup::create(&format!("{CGROUP}/commands"))?;
        let mut entering = commands.enter(command);
        entering.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let child = entering.spawn().map_err(|error| process::spawn_error(&entering, error))?;
        Ok(Self { child: Some(child), commands, all })
    }

    /// CPU time so far, in microseconds.
    pub(super) fn cpu_us(&self) -> Result<u64> {
        let time = self.all.cpu_time()?;
        Ok(time.user_us + time.system_us)
    }

    /// Waits for the first byte of the command's output; returns the CPU time until then.
    pub(super) fn wait_for_first_byte(&mut self) -> Result<u64> {
        let child = self.child.as_mut().context("the command has ended")?;
        let output = child.stdout.as_mut().context("the output is piped")?;
        let mut byte = [0];
        output.read_exact(&mut byte).context("the command printed nothing")?;
        self.cpu_us()
    }

    /// Waits for the command's end; what it started may go on.
    pub(super) fn wait_for_command(mut self) -> Result<Self> {
        let mut child = self.child.take().context("the command has ended")?;
        let mut output = String::new();
        child
            .stdout
            .take()
            .context("the output is piped")?
            .read_to_string(&mut output)
            .context("cannot read the command's output")?;
        let status = child.wait().context("cannot wait for the command")?;
        ensure!(status.success(), "the command failed ({status}): {output}");
        Ok(self)
    }

    /// Runs another command that's counted, too.
    pub(super) fn run_in(&self, command: &Command) -> Result<()> {
        quietly(self.commands.enter(command))
    }

    /// Waits until all processes are gone; returns the CPU time.
    pub(super) fn wait_for_end(mut self) -> Result<u64> {
        if self.child.is_some() {
            self = self.wait_for_command()?;
        }
        self.all.wait_until_empty(Some(PATIENCE))?;
        self.cpu_us()
    }

    /// Proportional set size of all processes, in KiB.
    pub(super) fn pss_kib(&self) -> Result<u64> {
        let mut sum = 0;
        for process in self.all.all_processes()? {
            sum += metering::sums(process)?.pss_kib;
        }
        Ok(sum)
    }
}

/// What a directory has on disk, in KiB.
fn size_kib(dir: &Path) -> Result<u64> {
    let text = process::capture(Command::new("du").arg("-sk").arg(dir))?;
    let first = text.split_whitespace().next().context("du printed nothing")?;
    first.parse().context("du prints numbers")
}
