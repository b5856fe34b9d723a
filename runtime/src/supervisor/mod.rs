//! Stays with one container: boots its VM, relays its streams, keeps its state on disk true, starts
//! it again as its policy says, and leaves nothing behind.
//!
//! ```text
//! vmctl run ──socket, standard input──▶ supervisor ──▶ vmm (its child, killed with it)
//!      ▲                                  │  │   ▲ status pipe, API
//!      └── frames (`wire`) ◀── hub ◀──────┘  └───┴─▶ vsock.sock ─▶ agent
//! ```
//!
//! The main thread starts each VMM, which the kernel ends with that thread, waits for what happens,
//! and cleans up. Others serve requests (`serve`), relay outputs (`hub`), answer DNS queries
//! (`dns`), check health (`health`). Everybody may be killed at any moment: the life lock tells
//! whether a supervisor lives, and what it leaves is taken back by the next command.

mod changes;
mod console;
mod dns;
mod guest;
mod health;
mod hub;
mod life;
mod listener;
mod machine;
mod notify;
mod place;
mod restart;
mod serve;
mod shared;
mod starter;
mod template;
mod upper;
mod visit;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::hub::Hub;
use self::life::Ended;
use self::listener::Listener;
use self::restart::Backoff;
use self::shared::{Phase, Shared};
use self::starter::Starter;
pub(crate) use self::template::sweep_templates;
pub(crate) use self::visit::Visit;
use crate::error::system;
use crate::files::LockFile;
use crate::record::{Status, Summary};
use crate::{Engine, EngineOptions, RuntimeError};

/// How long answers may take to be sent at the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Supervises a container: see [`crate::supervise`].
pub(crate) fn run(options: EngineOptions, id: &str) -> Result<i32, RuntimeError> {
    if let Err(errno) = rustix::process::setsid() {
        // It leads a process group: whoever started it made that choice.
        log::debug!("no session of its own: {errno}");
    }
    let starter = Starter::take().map_err(system("hear what's to be started"))?;
    match Supervisor::begin(options, id) {
        Ok(supervisor) => supervisor.run(starter),
        Err(error) => {
            starter.failed(error.to_failure());
            Err(error)
        }
    }
}

struct Supervisor {
    shared: Arc<Shared>,
    requests: Listener,
    life: LockFile,
}

impl Supervisor {
    fn begin(options: EngineOptions, id: &str) -> Result<Self, RuntimeError> {
        let engine = Engine::open(options)?;
        let record = engine.store().record(id)?;
        let paths = engine.store().paths(&record.id);
        let life = engine.store().take_life(&record.id)?.ok_or_else(|| {
            RuntimeError::conflict(format!("container {} is being started or ended", record.name))
        })?;
        let shared = Arc::new(Shared::new(engine, paths, record));
        let requests = serve::serve(&shared)?;
        shared.update(|state| {
            state.supervisor_pid = Some(std::process::id());
            state.stopped_by_user = false;
            state.restart_count = 0;
        })?;
        end_on_signals(&shared)?;
        Ok(Self { shared, requests, life })
    }

    fn run(self, starter: Starter) -> Result<i32, RuntimeError> {
        let (mut starter, mut backoff) = (Some(starter), Backoff::default());
        loop {
            let (ended, hub) = match life::live(&self.shared, &mut starter) {
                Ok((ended, hub)) => (ended, Some(hub)),
                Err(error) => {
                    log::error!("the container can't be started: {}", error.to_failure().message);
                    if let Some(starter) = starter.take() {
                        return self.never_started(error, starter);
                    }
                    let exit_code = error.exit_code().into();
                    let error = error.to_failure().message;
                    (Ended { exit_code, error, ..Ended::default() }, None)
                }
            };
            self.shared.emit("die", Some(("exitCode", ended.exit_code.to_string())));
            if ended.oom_killed {
                self.shared.emit("oom", None);
            }
            if !self.comes_again(&ended, &mut backoff, hub.as_deref())? {
                self.over(&ended, Status::Exited, hub.as_deref());
                return Ok(ended.exit_code);
            }
        }
    }

    /// Decides whether the container is started again, and waits until then.
    fn comes_again(
        &self,
        ended: &Ended,
        backoff: &mut Backoff,
        hub: Option<&Hub>,
    ) -> Result<bool, RuntimeError> {
        let shared = &self.shared;
        let restarts = shared.engine.store().state(&shared.id)?.restart_count;
        let policy = shared.record.config.restart;
        if shared.is_ending() || !restart::is_wanted(policy, ended.exit_code, restarts) {
            return Ok(false);
        }
        let delay = backoff.delay(ended.ran);
        record(shared, ended, Status::Restarting);
        shared.enter(Phase::Waiting);
        if let Some(hub) = hub {
            hub.finish(&ended.exit());
        }
        if shared.wait_ending(delay) {
            return Ok(false);
        }
        shared.enter(Phase::Between);
        shared.note(|state| state.restart_count = state.restart_count.saturating_add(1));
        Ok(true)
    }

    /// Ends a supervisor whose container never ran: its state stays what it was.
    fn never_started(self, error: RuntimeError, starter: Starter) -> Result<i32, RuntimeError> {
        let before = self.shared.engine.store().state(&self.shared.id).map(|state| state.status);
        let status = match before {
            Ok(Status::Created) => Status::Created,
            _ => Status::Exited,
        };
        let failure = error.to_failure();
        let exit_code = error.exit_code().into();
        let ended = Ended { exit_code, error: failure.message.clone(), ..Ended::default() };
        self.over(&ended, status, None);
        starter.failed(failure);
        Err(error)
    }

    /// Leaves nothing behind, and then tells everybody who waits for that.
    fn over(self, ended: &Ended, status: Status, hub: Option<&Hub>) {
        let Self { shared, requests, life } = self;
        record(&shared, ended, status);
        drop(requests);
        if shared.record.config.auto_remove && status == Status::Exited {
            shared.note(|state| state.status = Status::Removing);
            if let Err(error) = shared.engine.discard(&shared.id, &life, true) {
                log::error!("the container can't be removed: {error}");
            }
        }
        // From here on another supervisor may begin.
        drop(life);
        shared.enter(Phase::Over(ended.exit_code));
        if let Some(hub) = hub {
            hub.finish(&ended.exit());
        }
        shared.wait_answered(FAREWELL);
    }
}

/// Writes down how a life ended.
fn record(shared: &Shared, ended: &Ended, status: Status) {
    shared.note(|state| {
        state.status = status;
        state.exit_code = ended.exit_code;
        state.oom_killed = ended.oom_killed;
        state.error.clone_from(&ended.error);
        state.vmm = None;
        state.endpoints.clear();
        state.summary.ports = Summary::of(&shared.record).ports;
        if status != Status::Created {
            state.finished = Some(SystemTime::now());
        }
        if status != Status::Restarting {
            state.supervisor_pid = None;
        }
    });
}

/// Ends the container in order when the host shuts down.
fn end_on_signals(shared: &Arc<Shared>) -> Result<(), RuntimeError> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(system("handle signals"))?;
    let shared = Arc::clone(shared);
    let wait = move || {
        for signal in &mut signals {
            if signal == SIGTERM
                && let Err(error) = serve::stop(&shared, None, None)
            {
                log::error!("the container can't be stopped: {error}");
            }
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned()).spawn(wait);
    thread.map(drop).map_err(system("start a thread"))
}
