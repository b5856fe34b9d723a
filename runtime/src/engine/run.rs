//! Processes: a container's own, and those beside it.

use std::env;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;

use agent_proto::{CapabilitySpec, ProcessSpec, Stdio as AgentStdio, TerminalSize};

use super::Engine;
use super::observe::must_run;
use crate::error::{file, system};
use crate::options::{AttachOptions, ExecConfig};
use crate::paths::{ContainerPaths, Paths};
use crate::record::{State, Status};
use crate::session::{ExecLink, Session, supervisor_gone};
use crate::store::Store;
use crate::watch::ContainerWatch;
use crate::wire::{self, Attach, Request};
use crate::{ErrorKind, RuntimeError};

/// The command that [`crate::supervise`] is called by unless the options say.
const SUPERVISE: &str = "supervise";

impl Engine {
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) const fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Starts a container and returns when its process runs; with `attach`, with a session that
    /// misses nothing of its output. One that runs already is left alone.
    ///
    /// # Errors
    /// The VM, the network or the process can't be started: [`RuntimeError::exit_code`] says 125,
    /// 126 or 127.
    pub fn start(
        &self,
        reference: &str,
        attach: Option<AttachOptions>,
    ) -> Result<Option<Session>, RuntimeError> {
        // What a crash has left is seen to by this.
        let id = self.find(reference)?.0.id;
        let paths = self.store.paths(&id);
        while self.store.is_supervised(&id) {
            // It runs, or it's just coming up or ending: watch first, then look.
            let mut watch = ContainerWatch::open(&paths)?;
            let state = self.store.state(&id)?;
            match state.status {
                Status::Paused => return Err(paused(&state)),
                Status::Running | Status::Restarting => {
                    return attach.map(|options| self.attach(&id, options)).transpose();
                }
                _ => drop(watch.wait(None)?),
            }
        }
        let stream = self.launch(&id, &paths, attach.map(Attach::from))?;
        Ok(attach.map(|_| Session::with_supervisor(stream, paths.supervisor_socket())))
    }

    /// Starts a supervisor, and waits until it has started the container.
    fn launch(
        &self,
        id: &str,
        paths: &ContainerPaths,
        attach: Option<Attach>,
    ) -> Result<UnixStream, RuntimeError> {
        let (mut ours, theirs) = UnixStream::pair().map_err(system("make a socket"))?;
        let mut child = self.spawn_supervisor(id, paths, theirs.into())?;
        // Nobody waits for it any more once this process has ended; while it lasts, this does.
        let reap = move || {
            if let Err(error) = child.wait() {
                log::debug!("a supervisor can't be waited for: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("reaper".to_owned()).spawn(reap) {
            log::debug!("supervisors aren't waited for: {error}");
        }
        wire::send_request(&mut ours, &Request::Start(attach)).map_err(supervisor_gone)?;
        match wire::receive_answer(&mut ours).map_err(supervisor_gone)? {
            Ok(_) => Ok(ours),
            Err(failure) => Err(RuntimeError::Failed(failure)),
        }
    }

    fn spawn_supervisor(
        &self,
        id: &str,
        paths: &ContainerPaths,
        starter: OwnedFd,
    ) -> Result<Child, RuntimeError> {
        let own = || -> io::Result<_> {
            Ok(vec![env::current_exe()?.into_os_string(), SUPERVISE.into()])
        };
        let words = match &self.options.supervisor {
            Some(words) => words.clone(),
            None => own().map_err(system("find this program"))?,
        };
        let (program, arguments) = words
            .split_first()
            .ok_or_else(|| RuntimeError::invalid("the supervisor's command is empty"))?;
        let log_path = paths.supervisor_log();
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
        let log = log.map_err(file("open", &log_path))?;
        let errors = log.try_clone().map_err(file("open", &log_path))?;
        Command::new(program)
            .args(arguments)
            .arg(id)
            .env("VMCTL_DATA_DIR", self.paths.data())
            .env("VMCTL_RUNTIME_DIR", self.paths.run())
            // It keeps no directory busy.
            .current_dir("/")
            .stdin(Stdio::from(starter))
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(file("start", program.as_ref()))
    }

    /// Attaches to a running container.
    ///
    /// # Errors
    /// It doesn't run, or is paused.
    pub fn attach(&self, reference: &str, options: AttachOptions) -> Result<Session, RuntimeError> {
        let (record, state) = self.find(reference)?;
        must_run(&state)?;
        let id = record.id;
        let socket = self.store.paths(&id).supervisor_socket();
        let mut stream = UnixStream::connect(&socket).map_err(supervisor_gone)?;
        wire::send_request(&mut stream, &Request::Attach(options.into()))
            .map_err(supervisor_gone)?;
        match wire::receive_answer(&mut stream).map_err(supervisor_gone)? {
            Ok(_) => Ok(Session::with_supervisor(stream, socket)),
            Err(failure) => Err(RuntimeError::Failed(failure)),
        }
    }

    /// Runs another process in a running container.
    ///
    /// # Errors
    /// The container doesn't run or is paused, or the command can't be started (126, 127).
    pub fn exec(&self, reference: &str, config: &ExecConfig) -> Result<Session, RuntimeError> {
        let (record, state) = self.find(reference)?;
        must_run(&state)?;
        let id = record.id;
        if config.command.is_empty() {
            return Err(RuntimeError::NoCommand);
        }
        let words = config.command.iter().chain(&config.env);
        if let Some(word) = words.chain(&config.user).find(|word| word.contains('\0')) {
            return Err(RuntimeError::invalid(format!("{word:?} has a zero byte in it")));
        }
        let link = ExecLink::start(&self.store.paths(&id).vsock(), exec_spec(config))?;
        Ok(Session::with_exec(link))
    }
}

fn paused(state: &State) -> RuntimeError {
    let name = &state.summary.name;
    RuntimeError::failed(
        ErrorKind::Conflict,
        format!("container {name} is paused, unpause it first"),
    )
}

/// What the agent is asked for: what isn't said comes from the container's own process there.
fn exec_spec(config: &ExecConfig) -> ProcessSpec {
    let attached = !config.detach;
    let stdio = AgentStdio {
        stdin: attached && config.stdin,
        stdout: attached,
        stderr: attached && !config.tty,
    };
    let size = config
        .size
        .map_or_else(TerminalSize::default, |(rows, columns)| TerminalSize { rows, columns });
    ProcessSpec {
        args: config.command.clone(),
        env: config.env.clone(),
        cwd: config.working_dir.clone().unwrap_or_default(),
        user: config.user.clone().unwrap_or_default(),
        terminal: config.tty.then_some(size),
        stdio,
        capabilities: config
            .privileged
            .then(|| CapabilitySpec { add: vec!["ALL".to_owned()], ..CapabilitySpec::default() }),
        ..ProcessSpec::default()
    }
}
