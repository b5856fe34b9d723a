//! The agent's state, and how requests are carried out.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use agent_proto::{
    ContainerSpec, Event, ExitStatus, ProcessId, ProcessSpec, Request, Response, Stream,
};
use rustix::process::{WaitOptions, wait};

use crate::fault::{Context, ErrorKind, Result, fault};
use crate::launch::{self, Stage};
use crate::paths::ROOT;
use crate::relay::Port;
use crate::root::{self, MountedRoot};
use crate::server::{Subscriber, Ticket};
use crate::stage::{Place, StageSpec};
use crate::stdio::{self, Streams};
use crate::table::{Process, State, Table};
use crate::transfers::{Job, Transfers};
use crate::{boot, cgroup, configure, listing, lookup, notify, stats, sys};

/// Stacks of threads that carry out what may take long.
const STACK: usize = 512 << 10;

/// How long processes have to disappear after `SIGKILL`.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long the host has to close the connection on which it asked for the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The agent.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    table: Mutex<Table>,
    container: Mutex<Option<Container>>,
    subscribers: Mutex<Vec<Subscriber>>,
    configuration: Mutex<configure::State>,
    pub(crate) transfers: Transfers,
    /// The connection on which the end was asked for, until the host closes it.
    leaving: Mutex<Option<u64>>,
    left: Condvar,
}

/// The container, once it's made.
#[derive(Debug)]
struct Container {
    spec: ContainerSpec,
    root: Arc<MountedRoot>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    /// Carries out a request that came on the connection `connection`.
    pub(crate) fn handle(self: &Arc<Self>, request: Request, ticket: Ticket, connection: u64) {
        match request {
            Request::Wait { process } => lock(&self.table).wait(process, ticket),
            Request::Finish { transfer } => self.transfers.finish(transfer, ticket),
            Request::Create(_) | Request::Start { .. } | Request::Configure(_) => {
                let agent = Arc::clone(self);
                in_background(ticket, move |ticket| {
                    ticket.answer(agent.carry_out(request, connection));
                });
            }
            Request::Shutdown { grace_ms } => {
                let agent = Arc::clone(self);
                in_background(ticket, move |ticket| agent.shut_down(grace_ms, ticket, connection));
            }
            request => ticket.answer(self.carry_out(request, connection)),
        }
    }

    fn carry_out(self: &Arc<Self>, request: Request, connection: u64) -> Result<Response> {
        match request {
            Request::Ping => Ok(Response::Done),
            Request::Configure(configuration) => {
                configure::apply(&configuration, &mut lock(&self.configuration))?;
                Ok(Response::Done)
            }
            Request::Create(spec) => self.create(*spec).map(|()| Response::Done),
            Request::Exec(spec) => {
                self.exec(*spec, connection).map(|process| Response::Prepared { process })
            }
            Request::Start { process } => self.start(process).map(|pid| Response::Started { pid }),
            Request::Signal { process, signal, all } => {
                self.signal(process, signal, all).map(|()| Response::Done)
            }
            Request::Resize { process, size } => {
                lock(&self.table).get(process)?.streams.resize(size).map(|()| Response::Done)
            }
            Request::CloseStdin { process } => {
                lock(&self.table).get(process)?.streams.close_input.happen();
                Ok(Response::Done)
            }
            Request::Processes => listing::processes().map(Response::Processes),
            Request::Stats => Ok(Response::Stats(Box::new(stats::collect()))),
            Request::Stat { path, follow } => {
                lookup::stat(&self.root()?.dir, &path, follow).map(Response::Stat)
            }
            Request::CopyIn { path, keep_owners, replace } => {
                self.prepare_transfer(Job::CopyIn { path, keep_owners, replace }, connection)
            }
            Request::CopyOut { path } => self.prepare_transfer(Job::CopyOut { path }, connection),
            Request::Changes => self.prepare_transfer(Job::Changes, connection),
            Request::CopyLayer { freeze } => {
                self.prepare_transfer(Job::CopyLayer { freeze }, connection)
            }
            Request::Notify { changes } => {
                notify::show(&changes);
                Ok(Response::Done)
            }
            Request::Wait { .. }
            | Request::Finish { .. }
            | Request::Subscribe
            | Request::Shutdown { .. } => fault(ErrorKind::Internal, "a request went astray"),
        }
    }

    /// Adds a connection that hears of events.
    pub(crate) fn subscribe(&self, subscriber: Subscriber) {
        lock(&self.subscribers).push(subscriber);
    }

    /// Forgets what a connection prepared.
    pub(crate) fn connection_closed(&self, connection: u64) {
        lock(&self.table).disown(connection);
        self.transfers.disown(connection);
        let mut leaving = lock(&self.leaving);
        if *leaving == Some(connection) {
            *leaving = None;
            self.left.notify_all();
        }
    }

    /// Returns where a stream's connections go.
    pub(crate) fn port(&self, stream: Stream) -> Result<Arc<Port>> {
        lock(&self.table).connect(stream)
    }

    fn root(&self) -> Result<Arc<MountedRoot>> {
        match &*lock(&self.container) {
            Some(container) => Ok(Arc::clone(&container.root)),
            None => fault(ErrorKind::Busy, "there's no container yet"),
        }
    }

    fn create(self: &Arc<Self>, spec: ContainerSpec) -> Result<()> {
        let mut container = lock(&self.container);
        if container.is_some() {
            return fault(ErrorKind::Busy, "there's a container already");
        }
        let root = Arc::new(root::assemble(&spec)?);
        cgroup::create(&spec.limits)?;
        self.watch_memory();
        let (ends, streams) = stdio::make(&spec.process, &format!("{ROOT}/dev/pts"))?;
        let place = Place::New {
            init: spec.init,
            read_only: spec.root.read_only,
            console: ends.terminal.clone(),
        };
        let mut stage = {
            let mut table = lock(&self.table);
            let stage = launch::spawn(ends, &stage_spec(&spec, spec.process.clone(), place))?;
            table.note_pid(stage.pid, ProcessId::MAIN);
            stage
        };
        stage.ready()?;
        let state = State::Prepared { ends: None, stage: Some(stage) };
        lock(&self.table).add_main(Process::new(spec.process.clone(), streams, state));
        *container = Some(Container { spec, root });
        Ok(())
    }

    fn watch_memory(self: &Arc<Self>) {
        let agent = Arc::clone(self);
        let watch = move || {
            let report = |kills| agent.tell(&Event::OutOfMemory { kills });
            if let Err(error) = cgroup::watch_memory(report) {
                eprintln!("agent: cannot watch the container's memory: {error}");
            }
        };
        let thread = thread::Builder::new().name("memory".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(watch) {
            eprintln!("agent: cannot watch the container's memory: {error}");
        }
    }

    fn exec(&self, spec: ProcessSpec, connection: u64) -> Result<ProcessId> {
        let spec = match &*lock(&self.container) {
            Some(container) => inherit(spec, &container.spec.process),
            None => return fault(ErrorKind::Busy, "there's no container yet"),
        };
        if spec.args.is_empty() {
            return fault(ErrorKind::Invalid, "no command");
        }
        let (ends, streams) = stdio::make(&spec, &format!("{ROOT}/dev/pts"))?;
        let state = State::Prepared { ends: Some(ends), stage: None };
        lock(&self.table).add(Process::new(spec, streams, state), connection)
    }

    fn start(self: &Arc<Self>, id: ProcessId) -> Result<u32> {
        let started = self.launch(id).and_then(|(stage, is_main)| {
            let (pid, mut stage) = (stage.pid, stage);
            if is_main {
                stage.go()?;
            }
            stage.executed().map(|()| pid)
        });
        match started {
            Ok(pid) => Ok(listing::inner_pid(pid).unwrap_or(0)),
            Err(error) => {
                // Busy means that it's not its time, and everything is as it was.
                if error.kind != ErrorKind::Busy
                    && let Some(process) = lock(&self.table).forget(id)
                {
                    process.streams.process_ended();
                }
                Err(error)
            }
        }
    }

    /// Spawns a prepared process's stage, unless it has one, and starts copying its streams.
    fn launch(self: &Arc<Self>, id: ProcessId) -> Result<(Stage, bool)> {
        let mut table = lock(&self.table);
        let leader = table.running(ProcessId::MAIN);
        let process = table.get(id)?;
        let State::Prepared { ends, stage } = &mut process.state else {
            return fault(ErrorKind::Busy, "the process was started before");
        };
        process.streams.check_connected()?;
        let (ends, stage) = (ends.take(), stage.take());
        process.state = State::Starting;
        let is_main = stage.is_some();
        let stage = match (stage, ends) {
            (Some(stage), _) => stage,
            (None, Some(ends)) => {
                let process = process.spec.clone();
                let container = lock(&self.container);
                let Some(container) = &*container else {
                    return fault(ErrorKind::Busy, "there's no container yet");
                };
                let stage =
                    launch::spawn(ends, &stage_spec(&container.spec, process, Place::Of(leader?)))?;
                table.note_pid(stage.pid, id);
                stage
            }
            (None, None) => return fault(ErrorKind::Internal, "a prepared process without ends"),
        };
        let process = table.get(id)?;
        process.owner = None;
        process.state = State::Running { pid: stage.pid };
        let agent = Arc::clone(self);
        process.streams.start(&move || agent.drained(id))?;
        Ok((stage, is_main))
    }

    fn signal(&self, id: ProcessId, signal: i32, all: bool) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return fault(ErrorKind::Invalid, format!("{signal} is no signal's number"));
        }
        // Nothing is reaped while the lock is held: the number is still this process's.
        let mut table = lock(&self.table);
        let pid = table.running(id)?;
        let targets = if all { cgroup::processes() } else { vec![pid] };
        for target in targets {
            let sent = sys::kill(target, signal);
            if target == pid {
                sent.context(ErrorKind::NoSuchProcess, || "cannot signal the process".into())?;
            }
        }
        Ok(())
    }

    fn prepare_transfer(&self, job: Job, connection: u64) -> Result<Response> {
        let transfer = self.transfers.prepare(job, self.root()?, connection)?;
        Ok(Response::Transfer { transfer })
    }

    /// Reaps children, and what their children left behind, for ever.
    pub(crate) fn reap_forever(&self) {
        loop {
            // The first process of a machine is sent few other signals, and none that matters.
            if let Ok(libc::SIGCHLD) = sys::wait_signal() {
                while self.reap_one() {}
            }
        }
    }

    /// Reaps a child if one has ended. Returns whether there may be more.
    fn reap_one(&self) -> bool {
        let mut table = lock(&self.table);
        let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) else { return false };
        let signal = status.terminating_signal();
        let status = ExitStatus {
            code: crate::stage::exit_code(status),
            signal,
            out_of_memory: cgroup::memory_kills() > 0,
        };
        let ended = table.ended(pid.as_raw_pid(), status);
        drop(table);
        if let Some(id) = ended {
            self.settle(id);
        }
        true
    }

    fn drained(&self, id: ProcessId) {
        lock(&self.table).drained(id);
        self.settle(id);
    }

    /// Tells of a process's end, once there's nothing more to come from it.
    fn settle(&self, id: ProcessId) {
        let Some((status, waiters)) = lock(&self.table).settle(id) else { return };
        for waiter in waiters {
            waiter.answer(Ok(Response::Exited(status)));
        }
        self.tell(&Event::Exited { process: id, status });
    }

    fn tell(&self, event: &Event) {
        let subscribers = lock(&self.subscribers).clone();
        let gone: Vec<bool> =
            subscribers.iter().map(|subscriber| !subscriber.send(event.clone())).collect();
        if gone.contains(&true) {
            let mut gone = gone.into_iter();
            // Those that were added since then come last.
            lock(&self.subscribers).retain(|_| !gone.next().unwrap_or(false));
        }
    }

    fn shut_down(&self, grace_ms: u64, ticket: Ticket, connection: u64) {
        end_processes(Duration::from_millis(grace_ms));
        self.transfers.stop();
        *lock(&self.container) = None;
        boot::unmount_all();
        rustix::fs::sync();
        *lock(&self.leaving) = Some(connection);
        ticket.answer(Ok(Response::Done));
        // The answer has arrived when the host closes the connection.
        let waiting = self
            .left
            .wait_timeout_while(lock(&self.leaving), FAREWELL, |leaving| leaving.is_some());
        drop(waiting);
        let error = boot::power_off();
        eprintln!("agent: cannot power the machine off: {error}");
    }
}

/// Ends the container's processes: asks, waits, kills.
fn end_processes(grace: Duration) {
    for pid in cgroup::processes() {
        // It may have ended just now.
        let _ = sys::kill(pid, libc::SIGTERM);
    }
    if cgroup::wait_until_empty(Instant::now().checked_add(grace)) {
        return;
    }
    if let Err(error) = cgroup::kill_all() {
        eprintln!("agent: cannot kill the container's processes: {error}");
    }
    if !cgroup::wait_until_empty(Instant::now().checked_add(KILL_PATIENCE)) {
        eprintln!("agent: some of the container's processes can't be killed");
    }
}

fn stage_spec(container: &ContainerSpec, process: ProcessSpec, place: Place) -> StageSpec {
    StageSpec { process, privileged: container.privileged, place }
}

/// Fills in what an exec takes from the container's main process.
fn inherit(mut spec: ProcessSpec, main: &ProcessSpec) -> ProcessSpec {
    spec.env = main.env.iter().cloned().chain(spec.env).collect();
    if spec.cwd.is_empty() {
        spec.cwd.clone_from(&main.cwd);
    }
    if spec.user.is_empty() {
        spec.user.clone_from(&main.user);
        spec.groups.extend(main.groups.iter().cloned());
    }
    if spec.capabilities.is_none() {
        spec.capabilities.clone_from(&main.capabilities);
    }
    if spec.rlimits.is_empty() {
        spec.rlimits.clone_from(&main.rlimits);
    }
    spec.no_new_privileges |= main.no_new_privileges;
    spec
}

/// Does what may take long on a thread of its own, so that the connection's other requests don't
/// wait for it.
fn in_background(ticket: Ticket, work: impl FnOnce(Ticket) + Send + 'static) {
    let thread = thread::Builder::new().name("request".into()).stack_size(STACK);
    let slot = Arc::new(Mutex::new(Some(ticket)));
    let theirs = Arc::clone(&slot);
    let spawned = thread.spawn(move || {
        // Not in the condition: the lock would be held as long as the work takes.
        let ticket = lock(&theirs).take();
        if let Some(ticket) = ticket {
            work(ticket);
        }
    });
    // Only now: otherwise the ticket is the thread's, which may not have taken it yet.
    if let Err(error) = spawned
        && let Some(ticket) = lock(&slot).take()
    {
        ticket.answer(fault(ErrorKind::Internal, format!("cannot start a thread: {error}")));
    }
}

/// Streams of a process that no longer matters.
impl Drop for Streams {
    fn drop(&mut self) {
        self.process_ended();
    }
}

#[cfg(test)]
mod tests;
