//! The stage: the agent's binary once more, as the process that becomes one of the container's.
//!
//! A new process has to enter namespaces, mount things, give up privileges and look up its command,
//! all of which may fail for reasons to be told. Between `fork(2)` and `execve(2)` of a process
//! with threads almost nothing is allowed; a fresh single-threaded program may do anything. So the
//! agent starts itself with the child's descriptors in place and a socket on one more, and the
//! stage does the rest:
//!
//! ```text
//! agent                              stage
//!  │ spawn, in a PID namespace         │
//!  │ StageSpec ──────────────────────▶ │ joins the cgroup, enters or makes namespaces
//!  │ ◀──────────── Ready (or Failed)   │ … mounts, pivots
//!  │ Go ─────────────────────────────▶ │ identity, command
//!  │ ◀──────────── Failed, or the end  │ execve closes the socket
//! ```

mod enter;
mod init;
mod limits;
mod privileges;

use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use init::exit_code;

use agent_proto::{ProcessSpec, frame};
use serde::{Deserialize, Serialize};

use crate::fault::{AgentError, Context, ErrorKind, Result, fault};
use crate::users::{Databases, Identity};
use crate::{capabilities, cgroup, command, sys};

/// The name by which the agent's binary knows that it's a stage.
pub(crate) const NAME: &str = "agent-stage";

/// What a stage is to become.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StageSpec {
    /// The process; what an exec takes from the container's is filled in.
    pub(crate) process: ProcessSpec,
    /// All capabilities, nothing masked.
    pub(crate) privileged: bool,
    /// Where it runs.
    pub(crate) place: Place,
}

/// Where a stage's process runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Place {
    /// In namespaces that are made for it: the container's main process.
    New {
        /// Whether a small init is the first process.
        init: bool,
        /// Whether the root is read-only.
        read_only: bool,
        /// The terminal for `/dev/console`, by its name below the container's `/dev/pts`.
        console: Option<String>,
    },
    /// In those of the container's main process, by its number.
    Of(i32),
    /// Where the agent is: for tests.
    Here,
}

/// What a stage says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StageReply {
    /// Its place is made; it waits to go on.
    Ready,
    /// It failed.
    Failed(AgentError),
}

/// What a stage is told once it's ready.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Go;

/// Runs a stage, whose socket has the number in `argument`. Returns its exit code if it comes to
/// that.
pub(crate) fn main(argument: Option<&str>) -> i32 {
    let socket = argument.and_then(|number| number.parse().ok()).and_then(sys::take_inherited);
    let Some(socket) = socket else { return 125 };
    let mut socket = UnixStream::from(socket);
    // What's in this process's memory is the agent's, not the container's.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    match run(&mut socket) {
        Ok(code) => code,
        Err(error) => {
            // An agent that's gone has taken the machine along.
            let _ = frame::write(&mut socket, &StageReply::Failed(error));
            125
        }
    }
}

fn run(socket: &mut UnixStream) -> Result<i32> {
    let spec: StageSpec = frame::expect(socket).internal("cannot read what to start")?;
    if !matches!(spec.place, Place::Here) {
        cgroup::join()?;
    }
    enter::enter(&spec)?;
    if matches!(spec.place, Place::New { .. }) {
        frame::write(socket, &StageReply::Ready).internal("cannot tell the agent")?;
        // The end of the socket means that nobody wants this process any more.
        let Ok(Some(Go)) = frame::read(socket) else { return Ok(0) };
    }
    let prepared = prepare(&spec)?;
    if matches!(spec.place, Place::New { init: true, .. }) {
        return init::run(prepared.command(), socket, |error| prepared.describe(error));
    }
    // The agent, whose mask this process has, blocks all of them.
    sys::unblock_signals();
    let error = prepared.command().exec();
    Err(prepared.describe(&error))
}

/// A process that only has to be executed.
struct Prepared {
    file: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Prepared {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.file);
        let (name, arguments) = match self.args.split_first() {
            Some((name, arguments)) => (name.as_str(), arguments),
            None => ("", &[][..]),
        };
        command.arg0(name).args(arguments).env_clear();
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn describe(&self, error: &io::Error) -> AgentError {
        let name = self.args.first().map_or("", String::as_str);
        let kind = match error.kind() {
            // The command is there: what's missing is its interpreter.
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::NotExecutable,
        };
        AgentError::new(kind, format!("exec: {name:?}: {error}"))
    }
}

/// Becomes who the process is to be.
fn prepare(spec: &StageSpec) -> Result<Prepared> {
    let process = &spec.process;
    let Some(command) = process.args.first() else {
        return fault(ErrorKind::Invalid, "no command");
    };
    let databases = Databases::read(Path::new("/"))?;
    let identity = databases.identity(&process.user, &process.groups)?;
    let set = match &process.capabilities {
        _ if spec.privileged => capabilities::all(),
        Some(wanted) => capabilities::resolve(wanted)?,
        None => capabilities::resolve(&agent_proto::CapabilitySpec::default())?,
    };
    new_session(process)?;
    limits::apply(process)?;
    let cwd = enter_directory(&process.cwd)?;
    privileges::own_stdio(&identity);
    privileges::become_user(&identity, set, process.no_new_privileges)?;
    // A directory that only the user may enter.
    std::env::set_current_dir(&cwd)
        .context(ErrorKind::NotExecutable, || format!("cannot enter {}", cwd.display()))?;
    let env = environment(process, &identity)?;
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_str());
    let file = command::find(command, path, &cwd)?;
    Ok(Prepared { file, args: process.args.clone(), env })
}

fn new_session(process: &ProcessSpec) -> Result<()> {
    // The leader of a process group can't; a stage is none.
    rustix::process::setsid().internal("cannot start a session")?;
    if process.terminal.is_some() {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
            .internal("cannot take the terminal")?;
    }
    Ok(())
}

/// Goes to the working directory, made if it's missing.
fn enter_directory(cwd: &str) -> Result<PathBuf> {
    let cwd = Path::new("/").join(cwd);
    let what = || format!("cannot use the working directory {}", cwd.display());
    if !cwd.exists() {
        std::fs::create_dir_all(&cwd).context(ErrorKind::NotExecutable, what)?;
    }
    match std::env::set_current_dir(&cwd) {
        // The user may be allowed what root isn't, on a network's file system.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        result => result.context(ErrorKind::NotExecutable, what)?,
    }
    Ok(cwd)
}

/// Returns the environment: of a name that comes twice, the last value holds.
fn environment(process: &ProcessSpec, identity: &Identity) -> Result<Vec<(String, String)>> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set =
        |name: &str, value: &str, over: bool| match env.iter_mut().find(|(known, _)| known == name)
        {
            Some((_, old)) if over => *old = value.to_owned(),
            Some(_) => {}
            None => env.push((name.to_owned(), value.to_owned())),
        };
    set("PATH", command::DEFAULT_PATH, false);
    let hostname = rustix::system::uname();
    set("HOSTNAME", &hostname.nodename().to_string_lossy(), false);
    if process.terminal.is_some() {
        set("TERM", "xterm", false);
    }
    for variable in &process.env {
        match variable.split_once('=') {
            Some((name, value)) if !name.is_empty() && !variable.contains('\0') => {
                set(name, value, true);
            }
            _ => return fault(ErrorKind::Invalid, format!("{variable:?} is no NAME=VALUE")),
        }
    }
    set("HOME", &identity.home, false);
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_defaults_and_the_last_value_holds() {
        let identity = Identity { home: "/home/me".into(), ..Identity::default() };
        let env = ["A=1", "PATH=/x", "A=2=3", "E="].map(str::to_owned).to_vec();
        let process = ProcessSpec { env, ..ProcessSpec::default() };
        let env = environment(&process, &identity).unwrap();
        let value = |wanted| env.iter().find(|(name, _)| name == wanted).map(|(_, v)| v.as_str());
        assert_eq!((value("A"), value("PATH"), value("E")), (Some("2=3"), Some("/x"), Some("")));
        assert_eq!((value("HOME"), value("TERM")), (Some("/home/me"), None));
        for bad in ["NAME", "=x", "A=\0"] {
            let process = ProcessSpec { env: vec![bad.into()], ..ProcessSpec::default() };
            assert!(environment(&process, &identity).is_err(), "{bad:?}");
        }
    }
}
