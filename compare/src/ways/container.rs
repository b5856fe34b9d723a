//! Containers: by an OCI runtime directly, or by podman.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::bundle::{Bundle, DEFAULT_PATH, PIDS_LIMIT};
use super::netns::{ContainerNetworks, Namespace};
use super::process::{run, run_ok, system};
use super::scratch::{Overlay, mount_layers};
use super::spawned::{Spawned, spawned_methods};
use super::subject::{Subject, at};
use super::{Instance, NAME_PREFIX, Output, PROBE_PATH, Runner, Spec, WayError};
use crate::model::{Step, WayId};

/// How long a program of the container's may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a container may take to stop before it's killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What can run containers, in the order that it's looked for.
pub const RUNTIMES: [&str; 4] = ["crun", "runc", "youki", "podman"];

/// Runs containers.
#[derive(Debug)]
pub struct Containers {
    // Taken back before the directory that its records are in.
    networks: Arc<ContainerNetworks>,
    subject: Arc<Subject>,
    runtime: Runtime,
    version: String,
    layers: Vec<PathBuf>,
}

/// A program that runs containers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Runtime {
    /// One that takes bundles.
    Oci(String),
    Podman(String),
}

impl Containers {
    /// Finds the runtime (the first that is there unless it's named), and mounts the image.
    ///
    /// # Errors
    /// There's none, this isn't root's process, or the image can't be mounted.
    pub fn new(subject: Arc<Subject>, runtime: Option<&str>) -> Result<Self, WayError> {
        if !rustix::process::geteuid().is_root() {
            return Err(WayError::Unavailable(
                "containers of mounted images need root: run it with sudo".to_owned(),
            ));
        }
        let (runtime, version) = find(runtime)?;
        let files = subject
            .engine
            .images()
            .map_err(|error| WayError::Unavailable(error.to_string()))?
            .root_files(&subject.image_id)
            .map_err(|error| WayError::Unavailable(error.to_string()))?;
        // The first one is the merged metadata, which a VM's disk begins with.
        let layers = mount_layers(&subject.scratch, files.files.get(1..).unwrap_or_default())?;
        let networks = Arc::new(ContainerNetworks::open(subject.scratch.path())?);
        Ok(Self { subject, runtime, version, layers, networks })
    }
}

impl Containers {
    /// Sees that the image has the command.
    ///
    /// # Errors
    /// It hasn't.
    pub fn find_command(&self, command: &[String]) -> Result<(), WayError> {
        let spec = Spec { command: command.to_vec(), ..Spec::default() };
        let resolved = self.subject.resolve(&spec)?;
        let Some(program) = resolved.entrypoint.iter().chain(&resolved.command).next() else {
            return Ok(());
        };
        let overlay = Overlay::mount(&self.subject.scratch.path().join("look"), &self.layers)?;
        if has_program(&overlay.root(), program, &resolved.env) {
            return Ok(());
        }
        Err(WayError::Unavailable(format!(
            "{} has no command {program:?}: known before the first run",
            self.subject.reference
        )))
    }
}

/// Whether a root file system has a program, by its own `PATH`.
fn has_program(root: &Path, program: &str, env: &[String]) -> bool {
    let Ok(dir) = File::open(root) else { return false };
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH="));
    let path = path.unwrap_or(DEFAULT_PATH);
    let places: Vec<String> = if program.contains('/') {
        vec![program.to_owned()]
    } else {
        path.split(':').map(|place| format!("{place}/{program}")).collect()
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    places.iter().any(|place| {
        let place = place.trim_start_matches('/');
        openat2(&dir, place, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
    })
}

fn find(named: Option<&str>) -> Result<(Runtime, String), WayError> {
    let all: Vec<&str> = named.map_or_else(|| RUNTIMES.to_vec(), |name| vec![name]);
    for program in &all {
        let mut command = Command::new(program);
        command.arg("--version");
        let Ok(output) = run(command, PATIENCE, None) else { continue };
        if output.code != 0 {
            continue;
        }
        // `crun version 1.8.1`, `runc version 1.1.5`, `podman version 4.3.1`.
        let first = output.stdout.lines().next().unwrap_or(program).replace(" version ", " ");
        let is_podman = PathBuf::from(program).file_name().is_some_and(|name| name == "podman");
        let program = (*program).to_owned();
        let runtime = if is_podman { Runtime::Podman(program) } else { Runtime::Oci(program) };
        return Ok((runtime, first));
    }
    Err(WayError::Unavailable(match named {
        Some(name) => format!("there's no {name} that runs; on Debian: apt install {name}"),
        None => format!("there's none of {}; on Debian: apt install crun", RUNTIMES.join(", ")),
    }))
}

impl Runner for Containers {
    fn id(&self) -> WayId {
        WayId::Container
    }

    fn detail(&self) -> String {
        self.version.clone()
    }

    fn start(&self, spec: &Spec) -> Result<Box<dyn Instance>, WayError> {
        let resolved = self.subject.resolve(spec)?;
        let started = Instant::now();
        let metered = self.subject.meter.instance(&spec.name)?;
        let dir = self.subject.scratch.path().join(&spec.name);
        let overlay = Overlay::mount(&dir, &self.layers)?;
        let namespace = spec.network.then(|| self.networks.connect(&spec.name)).transpose()?;
        let network = namespace.as_ref().map(Namespace::path);
        let command = match &self.runtime {
            Runtime::Oci(program) => {
                let root = overlay.root();
                let bundle = Bundle {
                    root: &root,
                    resolved: &resolved,
                    hostname: &spec.name,
                    cgroup: metered.path_for("container"),
                    network: network.as_deref(),
                    probe: spec.probe.then_some(self.subject.probe.as_path()),
                    privileged: spec.privileged,
                    cpus: self.subject.cpus,
                    memory_mib: self.subject.memory_mib,
                };
                let path = dir.join("config.json");
                fs::write(&path, bundle.config()?.to_string())
                    .map_err(system(format!("write {}", path.display())))?;
                let mut command = oci(program);
                command.args(["run", "--bundle"]).arg(&dir).arg(id(&spec.name));
                command
            }
            Runtime::Podman(program) => {
                let mut command = Command::new(program);
                command.args(["--cgroup-manager=cgroupfs", "run", "--rm", "--log-driver=none"]);
                command.args(["--name", &id(&spec.name), "--hostname", &spec.name]);
                command.arg(format!("--memory={}m", self.subject.memory_mib));
                command.arg(format!("--cpus={}", self.subject.cpus));
                command.arg(format!("--pids-limit={PIDS_LIMIT}"));
                match &network {
                    Some(path) => command.arg(format!("--network=ns:{}", path.display())),
                    None => command.arg("--network=none"),
                };
                if let Some(parent) = metered.path_for("podman") {
                    command.arg(format!("--cgroup-parent={parent}"));
                }
                if spec.privileged {
                    command.arg("--privileged");
                }
                if spec.probe {
                    let probe = self.subject.probe.display();
                    command.arg(format!("--volume={probe}:{PROBE_PATH}:ro"));
                }
                for variable in &resolved.env {
                    command.arg(format!("--env={variable}"));
                }
                if !resolved.user.is_empty() {
                    command.arg(format!("--user={}", resolved.user));
                }
                command.arg(format!("--workdir={}", resolved.working_dir));
                command.arg("--rootfs").arg(overlay.root());
                command.args(resolved.entrypoint.iter().chain(&resolved.command));
                command
            }
        };
        let interrupt = &self.subject.interrupt;
        Ok(Box::new(Container {
            runtime: self.runtime.clone(),
            id: id(&spec.name),
            spawned: Spawned::start(command, metered, started, interrupt, PATIENCE)?,
            stop_signal: resolved.stop_signal,
            namespace,
            _overlay: overlay,
            subject: Arc::clone(&self.subject),
        }))
    }
}

/// An OCI runtime's command.
fn oci(program: &str) -> Command {
    let mut command = Command::new(program);
    if program.ends_with("crun") {
        // The others have no other manager unless they're asked for it.
        command.arg("--cgroup-manager=cgroupfs");
    }
    command
}

/// What runtimes know an instance by.
fn id(name: &str) -> String {
    format!("{NAME_PREFIX}{name}")
}

/// A container.
struct Container {
    runtime: Runtime,
    id: String,
    stop_signal: i32,
    // In the order that they're taken back in.
    spawned: Spawned,
    namespace: Option<Namespace>,
    _overlay: Overlay,
    subject: Arc<Subject>,
}

impl Container {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.runtime {
            Runtime::Oci(program) => oci(program),
            Runtime::Podman(program) => {
                let mut command = Command::new(program);
                command.arg("--cgroup-manager=cgroupfs");
                command
            }
        };
        command.args(arguments);
        command
    }

    fn kill(&self, signal: &str) -> Result<(), WayError> {
        let command = match self.runtime {
            Runtime::Oci(_) => self.command(&["kill", &self.id, signal]),
            Runtime::Podman(_) => self.command(&["kill", "--signal", signal, &self.id]),
        };
        run_ok(self.spawned.metered.enter(command), PATIENCE, None).map(drop)
    }
}

impl Instance for Container {
    spawned_methods!();

    fn address(&mut self, port: u16) -> Result<SocketAddr, WayError> {
        let namespace = self.namespace.as_ref();
        let namespace =
            namespace.ok_or_else(|| WayError::Unavailable("it has no network".to_owned()))?;
        Ok(at(namespace.address(), port))
    }

    fn steps(&mut self) -> Vec<Step> {
        Vec::new()
    }

    fn exec(&self, command: &[&str]) -> Result<Output, WayError> {
        let mut exec = self.command(&["exec", &self.id]);
        exec.args(command);
        run(self.spawned.metered.enter(exec), PATIENCE, Some(&self.subject.interrupt))
    }

    fn stop(&mut self) -> Result<(), WayError> {
        if self.spawned.is_running() {
            self.kill(&self.stop_signal.to_string())?;
            if !self.spawned.ends_within(STOP_PATIENCE) {
                self.kill("9")?;
            }
        }
        self.spawned.wait_gone()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.spawned.kill();
        // A runtime that was killed has left its records.
        let command = match self.runtime {
            Runtime::Oci(_) => self.command(&["delete", "--force", &self.id]),
            Runtime::Podman(_) => self.command(&["rm", "--force", "--ignore", &self.id]),
        };
        let _ = run(command, PATIENCE, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_image_and_not_on_the_host() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/hello"), "").unwrap();
        std::os::unix::fs::symlink("/usr/bin", root.path().join("bin")).unwrap();
        let has = |program: &str| has_program(root.path(), program, &[]);
        assert!(has("hello") && has("/usr/bin/hello") && has("/bin/hello"));
        // Every host has those.
        assert!(!has("sh") && !has("/bin/sh") && !has("../../../../../bin/sh"));
        assert!(!has_program(root.path(), "hello", &["PATH=/sbin".to_owned()]));
    }

    #[test]
    fn a_runtime_that_is_not_there_is_named_with_the_way_to_get_it() {
        let error = find(Some("no-such-runtime")).unwrap_err().to_string();
        assert_eq!(
            error,
            "there's no no-such-runtime that runs; on Debian: apt install no-such-runtime"
        );
    }
}
