//! Containers: by an OCI runtime directly, by podman, or by Docker.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::Resolved;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::bundle::{Bundle, DEFAULT_PATH};
use super::docker::{Docker, Lease};
use super::meter::Metered;
use super::networks::Namespace;
use super::process::{run, run_ok, system};
use super::runtimes::{EngineRun, Runtime};
use super::scratch::{Overlay, mount_layers};
use super::seccomp::{PROFILES, Profile};
use super::spawned::{Spawned, spawned_methods};
use super::subject::{Subject, at};
use super::{Instance, NAME_PREFIX, Output, Runner, Spec, WayError};
use crate::model::{Step, WayId};

/// How long a program of the container's may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a container may take to stop before it's killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs containers.
#[derive(Debug)]
pub struct Containers {
    subject: Arc<Subject>,
    runtime: Runtime,
    version: String,
    layers: Vec<PathBuf>,
    profile: Option<Profile>,
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
        let (runtime, version) = Runtime::find(runtime, &subject)?;
        runtime.remove_leftovers();
        let files = subject
            .engine
            .images()
            .map_err(|error| WayError::Unavailable(error.to_string()))?
            .root_files(&subject.image_id)
            .map_err(|error| WayError::Unavailable(error.to_string()))?;
        // The first one is the merged metadata, which a VM's disk begins with.
        let layers = mount_layers(&subject.scratch, files.files.get(1..).unwrap_or_default())?;
        subject.networks()?;
        let profile = match &runtime {
            Runtime::Oci(_) => Profile::of_host()?,
            // They bring theirs.
            Runtime::Podman(_) | Runtime::Docker(_) => None,
        };
        Ok(Self { subject, runtime, version, layers, profile })
    }
}

impl Containers {
    /// What the image takes on the disk, in bytes, and what the containers' root is made of: where
    /// that's not what the microVMs have.
    pub fn own_root(&self) -> Option<(u64, String)> {
        match &self.runtime {
            Runtime::Oci(_) | Runtime::Podman(_) => None,
            Runtime::Docker(docker) => Some(docker.root()),
        }
    }

    /// What a reader should know of the containers.
    pub fn notes(&self) -> Vec<String> {
        let in_memory = self.subject.scratch.in_memory() && self.own_root().is_none();
        let memory = in_memory.then(|| {
            "Containers write to memory, VMs to a file: no overlay can be mounted on the data \
             root's file system. Their disk rows don't tell about disks."
                .to_owned()
        });
        let bare = matches!(self.runtime, Runtime::Oci(_)) && self.profile.is_none();
        let bare = bare.then(|| {
            format!(
                "Containers have no system call filter, as they'd have by Docker or podman: there's \
                 no {} on this host.",
                PROFILES.join(" and no ")
            )
        });
        memory.into_iter().chain(bare).collect()
    }

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
        let id = id(&spec.name);
        let uncounted = match &self.runtime {
            Runtime::Docker(docker) => docker.uncounted.clone(),
            _ => None,
        };
        let metered = match uncounted {
            Some(reason) => Metered::none(reason),
            None => self.subject.meter.instance(&spec.name)?,
        };
        let order = Order { spec, id: &id, resolved: &resolved, metered: &metered };
        let made = match &self.runtime {
            Runtime::Oci(_) => self.bundle(order)?,
            Runtime::Podman(_) => self.podman(order)?,
            Runtime::Docker(docker) => self.docker(docker, order)?,
        };
        let Made { command, network, overlay } = made;
        let interrupt = &self.subject.interrupt;
        Ok(Box::new(Container {
            runtime: self.runtime.clone(),
            id,
            spawned: Spawned::start(command, metered, started, interrupt, PATIENCE)?,
            stop_signal: resolved.stop_signal,
            network,
            _overlay: overlay,
            subject: Arc::clone(&self.subject),
        }))
    }
}

/// What a container is to be.
#[derive(Clone, Copy)]
struct Order<'a> {
    spec: &'a Spec,
    /// What the runtime is to know it by.
    id: &'a str,
    resolved: &'a Resolved,
    metered: &'a Metered,
}

/// What a container is started by, and what it needs as long as it's there.
struct Made {
    command: Command,
    network: Option<Network>,
    overlay: Option<Overlay>,
}

/// What a container's network is made of.
enum Network {
    Namespace(Namespace),
    Docker(Lease),
}

impl Network {
    fn address(&self) -> IpAddr {
        match self {
            Self::Namespace(namespace) => namespace.address(),
            Self::Docker(lease) => IpAddr::V4(lease.address),
        }
    }
}

impl Containers {
    /// A writable layer, and a network namespace if it's asked for.
    fn ground(&self, spec: &Spec) -> Result<(PathBuf, Overlay, Option<Namespace>), WayError> {
        let dir = self.subject.scratch.path().join(&spec.name);
        let overlay = Overlay::mount(&dir, &self.layers)?;
        let connect = || self.subject.networks()?.connect(&spec.name);
        let namespace = spec.network.then(connect).transpose()?;
        Ok((dir, overlay, namespace))
    }

    fn bundle(&self, order: Order<'_>) -> Result<Made, WayError> {
        let Order { spec, id, resolved, metered } = order;
        let (dir, overlay, namespace) = self.ground(spec)?;
        let network = namespace.as_ref().map(Namespace::path);
        let bundle = Bundle {
            root: &overlay.root(),
            resolved,
            hostname: &spec.name,
            cgroup: metered.path_for("container"),
            network: network.as_deref(),
            probe: spec.probe.then_some(self.subject.probe.as_path()),
            profile: self.profile.as_ref(),
            privileged: spec.privileged,
            cpus: self.subject.cpus,
            memory_mib: self.subject.memory_mib,
        };
        let path = dir.join("config.json");
        fs::write(&path, bundle.config()?.to_string())
            .map_err(system(format!("write {}", path.display())))?;
        let mut command = self.runtime.command();
        command.args(["run", "--bundle"]).arg(&dir).arg(id);
        let network = namespace.map(Network::Namespace);
        Ok(Made { command, network, overlay: Some(overlay) })
    }

    fn podman(&self, order: Order<'_>) -> Result<Made, WayError> {
        let Order { spec, resolved, .. } = order;
        let (_, overlay, namespace) = self.ground(spec)?;
        let mut command = self.engine_command("run", order, "podman");
        match &namespace {
            Some(namespace) => command.arg(format!("--network=ns:{}", namespace.path().display())),
            None => command.arg("--network=none"),
        };
        command.arg("--rootfs").arg(overlay.root());
        command.args(resolved.entrypoint.iter().chain(&resolved.command));
        let network = namespace.map(Network::Namespace);
        Ok(Made { command, network, overlay: Some(overlay) })
    }

    /// What podman and Docker are told alike; its cgroup has the name `leaf`.
    fn engine_command(&self, action: &str, order: Order<'_>, leaf: &str) -> Command {
        let Order { spec, id, resolved, metered } = order;
        let cgroup_parent = metered.path_for(leaf);
        let mut command = self.runtime.command();
        let run = EngineRun { id, spec, resolved, subject: &self.subject, cgroup_parent };
        run.add_to(&mut command, action);
        command
    }

    fn docker(&self, docker: &Arc<Docker>, order: Order<'_>) -> Result<Made, WayError> {
        let Order { spec, id, resolved, metered } = order;
        let mut create = self.engine_command("create", order, "docker");
        let lease = spec.network.then(|| docker.connect()).transpose()?;
        match &lease {
            Some(lease) => create.args(lease.flags()),
            None => create.arg("--network=none"),
        };
        let mut words = resolved.entrypoint.iter().chain(&resolved.command);
        if let Some(program) = words.next() {
            create.arg(format!("--entrypoint={program}"));
        }
        create.arg(docker.image()).args(words);
        // `docker run` would put its warnings before the container's output.
        run_ok(metered.enter(create), PATIENCE, Some(&self.subject.interrupt))?;
        let mut command = self.runtime.command();
        command.args(["start", "--attach", id]);
        Ok(Made { command, network: lease.map(Network::Docker), overlay: None })
    }
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
    network: Option<Network>,
    _overlay: Option<Overlay>,
    subject: Arc<Subject>,
}

impl Container {
    fn kill(&self, signal: &str) -> Result<(), WayError> {
        let command = self.runtime.kill(&self.id, signal);
        run_ok(self.spawned.metered.enter(command), PATIENCE, None).map(drop)
    }
}

impl Instance for Container {
    spawned_methods!();

    fn address(&mut self, port: u16) -> Result<SocketAddr, WayError> {
        let network = self.network.as_ref();
        let network =
            network.ok_or_else(|| WayError::Unavailable("it has no network".to_owned()))?;
        Ok(at(network.address(), port))
    }

    fn steps(&mut self) -> Vec<Step> {
        Vec::new()
    }

    fn exec(&self, command: &[&str]) -> Result<Output, WayError> {
        let mut exec = self.runtime.command();
        exec.args(["exec", &self.id]).args(command);
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
        let _ = run(self.runtime.remove(&self.id), PATIENCE, None);
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
}
