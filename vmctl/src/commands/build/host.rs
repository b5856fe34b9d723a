//! What a build asks for: images pulled, commands run, each in a container that's removed again.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use ::image::{BuildHost, HostError, RunOutcome, RunRequest, Script};
use runtime::{
    AttachOptions, ContainerConfig, Engine, HealthConfig, LogConfig, LogDriver, MountKind,
    MountSpec, RuntimeError, SessionEnd, SessionIo,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::{TempDir, TempPath};

use crate::commands::container::Pull;
use crate::commands::image;
use crate::errors::{CliError, notice};
use crate::format::human;
use crate::output;

/// The exit code of a process that a signal has ended is the signal's number and this.
const SIGNALLED: i32 = 128;

/// How much of a quiet build's output is shown when it fails, in bytes: its end.
const SHOWN_BYTES: u64 = 64 << 10;

/// What mustn't be left behind.
#[derive(Debug, Default)]
struct Leftovers {
    /// The container of the command that runs.
    container: Option<String>,
    /// The context, if it came as an archive.
    context: Option<TempDir>,
}

/// This host, for a build.
#[derive(Debug)]
pub(super) struct Host {
    engine: Arc<Engine>,
    pull: Pull,
    quiet: bool,
    memory_bytes: Option<u64>,
    leftovers: Arc<Mutex<Leftovers>>,
    /// What commands have written, while nobody is to see it.
    unseen: Option<File>,
}

fn lock(leftovers: &Mutex<Leftovers>) -> MutexGuard<'_, Leftovers> {
    leftovers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// Takes `context` along, which is removed with it.
    ///
    /// # Errors
    /// Signals can't be handled.
    pub(super) fn new(
        engine: Arc<Engine>,
        pull: Pull,
        quiet: bool,
        memory_bytes: Option<u64>,
        context: Option<TempDir>,
    ) -> Result<Self, CliError> {
        let leftovers = Arc::new(Mutex::new(Leftovers { container: None, context }));
        clean_up_on_signals(&engine, &leftovers)
            .map_err(|source| CliError::System { what: "signals can't be handled", source })?;
        let unseen = quiet.then(tempfile::tempfile).transpose();
        let unseen = unseen.map_err(|source| CliError::System { what: "a file", source })?;
        Ok(Self { engine, pull, quiet, memory_bytes, leftovers, unseen })
    }

    /// Shows what the commands of a quiet build wrote, after it failed.
    pub(super) fn show_output(&mut self) {
        let Some(file) = &mut self.unseen else { return };
        let shown = file.seek(io::SeekFrom::End(0)).and_then(|length| {
            file.seek(io::SeekFrom::Start(length.saturating_sub(SHOWN_BYTES)))?;
            io::copy(&mut file.take(SHOWN_BYTES), &mut io::stderr())
        });
        if let Err(error) = shown {
            log::debug!("the commands' output can't be shown: {error}");
        }
    }

    fn config(&self, request: &RunRequest, script: Option<&Path>) -> ContainerConfig {
        let mounts = request.script.iter().zip(script).map(|(script, path)| MountSpec {
            kind: MountKind::Bind,
            source: Some(path.display().to_string()),
            target: script.path.clone(),
            read_only: true,
            ..MountSpec::default()
        });
        ContainerConfig {
            image: request.image_id.clone(),
            // The image's own entry point is for its containers.
            entrypoint: Some(Vec::new()),
            command: request.words.clone(),
            env: request.env.clone(),
            user: Some(request.user.clone()).filter(|user| !user.is_empty()),
            working_dir: Some(request.cwd.clone()),
            mounts: mounts.collect(),
            memory_bytes: self.memory_bytes,
            health: Some(HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..HealthConfig::default()
            }),
            log: LogConfig { driver: LogDriver::None, ..LogConfig::default() },
            keep_changes: true,
            ..ContainerConfig::default()
        }
    }

    /// Runs a container to its end.
    fn run_container(&mut self, id: &str) -> Result<RunOutcome, HostError> {
        let wants = AttachOptions { stdin: false, stdout: true, stderr: true, size: None };
        let session = self.engine.start(id, Some(wants))?;
        let session = session.ok_or_else(|| RuntimeError::invalid("there's no session"))?;
        let (stdout, stderr) = self.outputs()?;
        let io = SessionIo { stdin: None, stdout, stderr, detach_keys: Vec::new() };
        let code = match session.relay(io)? {
            SessionEnd::Exited(code) => code,
            SessionEnd::Lost { reason, .. } => return Err(reason.into()),
            SessionEnd::Detached => return Err("the command was left to itself".into()),
        };
        let layer = match code {
            0 => Some(self.engine.kept_changes(id)?),
            _ => None,
        };
        Ok(RunOutcome { code, layer })
    }

    fn outputs(&self) -> io::Result<(Box<dyn Write + Send>, Box<dyn Write + Send>)> {
        Ok(match &self.unseen {
            None => (Box::new(io::stdout()), Box::new(io::stderr())),
            Some(file) => (Box::new(file.try_clone()?), Box::new(file.try_clone()?)),
        })
    }
}

impl BuildHost for Host {
    fn provide(&mut self, reference: &str, platform: Option<&str>) -> Result<(), HostError> {
        Ok(image::provide(&self.engine, reference, platform, self.pull, self.quiet)?)
    }

    fn run(&mut self, request: &RunRequest) -> Result<RunOutcome, HostError> {
        let script = request.script.as_ref().map(write_script).transpose()?;
        let config = self.config(request, script.as_deref());
        let created = {
            // A signal that comes now waits until it's known what to remove.
            let mut leftovers = lock(&self.leftovers);
            let created = self.engine.create(&config)?;
            leftovers.container = Some(created.id.clone());
            created
        };
        self.say(&format!(" ---> Running in {}", human::short_id(&created.id)));
        let outcome = self.run_container(&created.id);
        let mut leftovers = lock(&self.leftovers);
        leftovers.container = None;
        let removed = self.engine.remove(&created.id, true, true);
        drop(leftovers);
        let outcome = outcome?;
        removed?;
        Ok(outcome)
    }

    fn say(&mut self, line: &str) {
        if !self.quiet {
            // A build whose output nobody reads goes on.
            let _ = output::print(&format!("{line}\n"));
        }
    }

    fn warn(&mut self, line: &str) {
        notice(&format!("[Warning] {line}"));
    }
}

/// A script in a file that every user may execute.
fn write_script(script: &Script) -> io::Result<TempPath> {
    let mut file = tempfile::Builder::new().prefix("vmctl-build-").tempfile()?;
    file.write_all(script.content.as_bytes())?;
    fs::set_permissions(file.path(), Permissions::from_mode(0o755))?;
    Ok(file.into_temp_path())
}

/// Leaves nothing behind when the build is broken off.
fn clean_up_on_signals(engine: &Arc<Engine>, leftovers: &Arc<Mutex<Leftovers>>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let (engine, leftovers) = (Arc::clone(engine), Arc::clone(leftovers));
    let wait = move || {
        let Some(signal) = signals.forever().next() else { return };
        let mut leftovers = lock(&leftovers);
        if let Some(id) = leftovers.container.take()
            && let Err(error) = engine.remove(&id, true, true)
        {
            log::warn!("{id} can't be removed: {error}");
        }
        drop(leftovers.context.take());
        std::process::exit(SIGNALLED + signal);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}
