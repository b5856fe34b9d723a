//! What runs containers: an OCI runtime that takes bundles, podman, or Docker.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use runtime::Resolved;

use super::bundle::PIDS_LIMIT;
use super::docker::Docker;
use super::process::run;
use super::subject::Subject;
use super::{NAME_PREFIX, PROBE_PATH, Spec, WayError};

/// How long a runtime may take to say its version.
const PATIENCE: Duration = Duration::from_secs(300);

/// What can run containers, in the order that it's looked for.
pub const RUNTIMES: [&str; 5] = ["crun", "runc", "youki", "podman", "docker"];

/// A program that runs containers.
#[derive(Clone, Debug)]
pub(super) enum Runtime {
    /// One that takes bundles.
    Oci(String),
    Podman(String),
    Docker(Arc<Docker>),
}

/// Which sort of program it is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Oci,
    Podman,
    Docker,
}

impl Sort {
    fn of(program: &str) -> Self {
        match Path::new(program).file_name().and_then(|name| name.to_str()) {
            Some("podman") => Self::Podman,
            Some("docker") => Self::Docker,
            _ => Self::Oci,
        }
    }
}

impl Runtime {
    /// Finds it, the first that is there unless it's named; returns its version, too.
    ///
    /// # Errors
    /// There's none, or Docker doesn't take the image.
    pub(super) fn find(named: Option<&str>, subject: &Subject) -> Result<(Self, String), WayError> {
        let (program, version) = look_for(named)?;
        let runtime = match Sort::of(&program) {
            Sort::Oci => Self::Oci(program),
            Sort::Podman => Self::Podman(program),
            Sort::Docker => Self::Docker(Arc::new(Docker::prepare(&program, subject)?)),
        };
        Ok((runtime, version))
    }

    /// Its command, with what has to be said always.
    pub(super) fn command(&self) -> Command {
        match self {
            Self::Oci(program) => {
                let mut command = Command::new(program);
                if program.ends_with("crun") {
                    // The others have no other manager unless they're asked for it.
                    command.arg("--cgroup-manager=cgroupfs");
                }
                command
            }
            Self::Podman(program) => {
                let mut command = Command::new(program);
                command.arg("--cgroup-manager=cgroupfs");
                command
            }
            Self::Docker(docker) => Command::new(docker.program()),
        }
    }

    /// Sends a signal, a number, to a container's first process.
    pub(super) fn kill(&self, id: &str, signal: &str) -> Command {
        let mut command = self.command();
        match self {
            Self::Oci(_) => command.args(["kill", id, signal]),
            Self::Podman(_) | Self::Docker(_) => command.args(["kill", "--signal", signal, id]),
        };
        command
    }

    /// Removes a container, whatever it does.
    pub(super) fn remove(&self, id: &str) -> Command {
        let mut command = self.command();
        match self {
            Self::Oci(_) => command.args(["delete", "--force", id]),
            Self::Podman(_) => command.args(["rm", "--force", "--ignore", id]),
            Self::Docker(_) => command.args(["rm", "--force", id]),
        };
        command
    }

    /// Removes the containers of a process that was killed.
    pub(super) fn remove_leftovers(&self) {
        let mut list = self.command();
        match self {
            Self::Oci(_) => {
                // Where `runc list` and the others look unless they're told another place.
                let name = list.get_program().to_string_lossy().into_owned();
                let name = name.rsplit('/').next().unwrap_or_default().to_owned();
                let ids = fs::read_dir(Path::new("/run").join(name)).into_iter().flatten();
                for id in ids.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
                    if id.starts_with(NAME_PREFIX) {
                        let _ = run(self.remove(&id), PATIENCE, None);
                    }
                }
            }
            Self::Podman(_) => {
                list.args(["ps", "--all", "--quiet", &format!("--filter=name=^{NAME_PREFIX}")]);
                for id in run(list, PATIENCE, None).unwrap_or_default().stdout.split_whitespace() {
                    let _ = run(self.remove(id), PATIENCE, None);
                }
            }
            // It has seen to that itself.
            Self::Docker(_) => {}
        }
    }
}

/// The program and its version: `crun 1.8.1`.
fn look_for(named: Option<&str>) -> Result<(String, String), WayError> {
    let all: Vec<&str> = named.map_or_else(|| RUNTIMES.to_vec(), |name| vec![name]);
    let mut problem = None;
    for program in &all {
        match version(program) {
            Ok(version) => return Ok(((*program).to_owned(), version)),
            Err(error) => problem = Some(error),
        }
    }
    Err(WayError::Unavailable(match (named, problem) {
        // Its client is there.
        (Some(name), Some(WayError::Program { message, .. })) => {
            format!("{name} doesn't work: {message}")
        }
        (Some(name), _) => {
            let package = if name == "docker" { "docker.io" } else { name };
            format!("there's no {name} that runs; on Debian: apt install {package}")
        }
        (None, _) => {
            format!("there's none of {}; on Debian: apt install crun", RUNTIMES.join(", "))
        }
    }))
}

fn version(program: &str) -> Result<String, WayError> {
    if Sort::of(program) == Sort::Docker {
        return Docker::version(program);
    }
    let mut command = Command::new(program);
    command.arg("--version");
    let said = super::process::run_ok(command, PATIENCE, None)?;
    // `crun version 1.8.1`, `runc version 1.1.5`, `podman version 4.3.1`.
    Ok(said.lines().next().unwrap_or(program).replace(" version ", " "))
}

/// What `podman run` and `docker create` are told alike.
pub(super) struct EngineRun<'a> {
    pub(super) id: &'a str,
    pub(super) spec: &'a Spec,
    pub(super) resolved: &'a Resolved,
    pub(super) subject: &'a Subject,
    /// Where the container's cgroup is to be made.
    pub(super) cgroup_parent: Option<String>,
}

impl EngineRun<'_> {
    /// Adds `run` or `create` and its flags, but for those of the network and the root file system.
    pub(super) fn add_to(&self, command: &mut Command, action: &str) {
        let Self { id, spec, resolved, subject, cgroup_parent } = self;
        command.args([action, "--rm", "--log-driver=none"]);
        command.args(["--name", id, "--hostname", &spec.name]);
        command.arg(format!("--memory={}m", subject.memory_mib));
        command.arg(format!("--cpus={}", subject.cpus));
        command.arg(format!("--pids-limit={PIDS_LIMIT}"));
        if let Some(parent) = cgroup_parent {
            command.arg(format!("--cgroup-parent={parent}"));
        }
        if spec.privileged {
            command.arg("--privileged");
        }
        if spec.probe {
            let probe = subject.probe.display();
            command.arg(format!("--volume={probe}:{PROBE_PATH}:ro"));
        }
        command.args(resolved.env.iter().map(|variable| format!("--env={variable}")));
        if !resolved.user.is_empty() {
            command.arg(format!("--user={}", resolved.user));
        }
        command.arg(format!("--workdir={}", resolved.working_dir));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A program of this name that runs these shell commands.
    fn program(name: &str, script: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_runtime_that_is_not_there_is_named_with_the_way_to_get_it() {
        let error = look_for(Some("no-such-runtime")).unwrap_err().to_string();
        assert_eq!(
            error,
            "there's no no-such-runtime that runs; on Debian: apt install no-such-runtime"
        );
    }

    #[test]
    fn docker_without_its_daemon_is_told_in_its_own_words() {
        let (_dir, path) = program("docker", "echo 'Is the docker daemon running?' >&2; exit 1");
        let path = path.to_str().unwrap();
        let error = look_for(Some(path)).unwrap_err().to_string();
        assert_eq!(error, format!("{path} doesn't work: Is the docker daemon running?"));
    }

    #[test]
    fn dockers_version_is_its_daemons_and_the_others_their_own() {
        let (_dir, path) = program("docker", r#"[ "$1" = version ] && echo 20.10.24"#);
        let path = path.to_str().unwrap();
        assert_eq!(look_for(Some(path)).unwrap(), (path.to_owned(), "docker 20.10.24".to_owned()));
        let (_dir, path) = program("runc", "echo runc version 1.1.5; echo commit: x");
        let path = path.to_str().unwrap();
        assert_eq!(look_for(Some(path)).unwrap(), (path.to_owned(), "runc 1.1.5".to_owned()));
    }
}
