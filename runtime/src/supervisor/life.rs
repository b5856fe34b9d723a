//! One life of a container: its VM's boot, its process's run, the VM's end.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use agent_proto::{
    Client, ExitStatus, HOST_DNS_PORT, ProcessId, ProtocolError, READY_PORT, Request, Response,
};
use api::config::{VmConfig, VmSpec};
use api::event::{Event, Failure, StopReason};
use network::{Dns, Upstream};

use super::hub::{Hub, Shape};
use super::listener::Listener;
use super::notify::ChangeWatch;
use super::place::Place;
use super::shared::{Phase, Running, Shared};
use super::starter::Starter;
use super::template::{self, Template};
use super::{changes, console, dns, guest, health, machine, upper};
use crate::agent::{AGENT_TIMEOUT, agent_error};
use crate::config::LogDriver;
use crate::error::{file, system};
use crate::logs::{LogWriter, Rotation};
use crate::process::ProcessIdentity;
use crate::record::{Health, Status, Summary};
use crate::vmm::{VmmEvents, VmmProcess};
use crate::wire::Exit;
use crate::{EXIT_LOST, ErrorKind, PublishedPort, RuntimeError};

/// How long a guest has until its agent is there: an emulated host takes a while.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);

/// How long the agent has to put the container together: volumes are filled from the image.
const CREATE_PATIENCE: Duration = Duration::from_secs(900);

/// How long the VMM has to tell why the agent is gone.
const EXPLANATION_PATIENCE: Duration = Duration::from_secs(5);

/// How long outputs have to end once the process's end is known, and the VM once it's asked to.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(20);

/// How a life ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit_code: i32,
    pub(super) oom_killed: bool,
    /// What was wrong; empty if nothing was.
    pub(super) error: String,
    /// How long the process ran.
    pub(super) ran: Duration,
}

impl Ended {
    /// What who is attached is told.
    pub(super) fn exit(&self) -> Exit {
        Exit { code: self.exit_code, lost: self.error.clone() }
    }
}

/// What happens while a VM lives.
enum Note {
    /// The VM's devices are there.
    VmCreated,
    /// The agent can be connected to.
    AgentReady,
    /// The VMM has ended.
    VmmOver(Option<LastWord>),
    /// The container's process has ended, or nobody will ever tell.
    Exited(Result<ExitStatus, ProtocolError>),
}

/// What a VMM said last.
enum LastWord {
    Failed(Failure),
    Stopped(StopReason),
}

/// A booted VM, and what happens to it.
pub(super) struct Vm {
    vmm: VmmProcess,
    notes: Receiver<Note>,
    notify: Sender<Note>,
    is_over: bool,
}

/// Boots a VM, runs the container's process in it to its end, and ends the VM. The starter, if
/// there's one, is taken and told once the process runs; an error comes before that only.
///
/// What's returned is to be told the exit code once nothing is left of the VM.
pub(super) fn live(
    shared: &Arc<Shared>,
    starter: &mut Option<Starter>,
) -> Result<(Ended, Arc<Hub>), RuntimeError> {
    let own = &shared.paths;
    machine::clean(own)?;
    let mut place = Place::take(&shared.engine, &shared.record, own)?;
    upper::provide(shared.engine.paths(), &own.upper())?;
    let spec = machine::spec(&shared.engine, own, &shared.record, &place)?;
    let template = Template::of(&shared.engine, &shared.record, &spec)?;
    let _dns = serve_dns(shared, &place)?;
    let (mut vm, warm) = Vm::start(shared, &mut place, &spec, template.as_ref())?;
    let size = starter.as_ref().and_then(|starter| starter.attach).and_then(|it| it.size);
    let (client, hub) = prepare(shared, &place, size).map_err(|error| vm.explain(error))?;
    client.start(ProcessId::MAIN).map_err(agent_error).map_err(|error| vm.explain(error))?;
    let began = Instant::now();
    let running = Arc::new(Running { client, hub, killer: vm.vmm.killer()? });
    shared.update(|state| state.warm = warm)?;
    tell_started(shared, &place, &running, starter)?;
    health::watch(shared, &running)?;
    let changes = watch_shares(shared);
    let ended = vm.run(shared, &running);
    let ended = Ended { ran: began.elapsed(), ..ended };
    shared.enter(Phase::Between);
    drop(changes);
    vm.keep_changes(shared, &running, &ended);
    vm.end(shared, &running);
    Ok((ended, Arc::clone(&running.hub)))
}

/// Listens for the agent, which connects once it can be connected to.
fn await_connection(shared: &Shared, notify: Sender<Note>) -> Result<Listener, RuntimeError> {
    Listener::open(&shared.paths.vsock_port(READY_PORT), "ready", move |_| {
        // Whoever waited may have given up.
        let _ = notify.send(Note::AgentReady);
        ControlFlow::Break(())
    })
}

fn serve_dns(shared: &Shared, place: &Place) -> Result<Option<Listener>, RuntimeError> {
    if matches!(place, Place::None) {
        return Ok(None);
    }
    let upstream = match shared.record.config.dns.as_slice() {
        [] => Upstream::of_host(),
        servers => Upstream::new(servers),
    };
    let dns = Dns::new(shared.engine.networks()?, shared.id.clone(), upstream);
    dns::serve(&shared.paths.vsock_port(HOST_DNS_PORT), dns).map(Some)
}

/// Makes the VM the container's, and its process ready to start.
fn prepare(
    shared: &Shared,
    place: &Place,
    size: Option<(u16, u16)>,
) -> Result<(Client, Arc<Hub>), RuntimeError> {
    let client = create(shared, place, size)?;
    let hub = Arc::new(Hub::new(shape(shared), open_log(shared)?));
    hub.connect(&shared.paths.vsock())?;
    Ok((client, hub))
}

/// Makes the VM the container's: its root is there then, and its process waits.
pub(super) fn create(
    shared: &Shared,
    place: &Place,
    size: Option<(u16, u16)>,
) -> Result<Client, RuntimeError> {
    let client = Client::connect(&shared.paths.vsock(), AGENT_TIMEOUT).map_err(agent_error)?;
    client.configure(guest::configuration(&shared.record, place)?).map_err(agent_error)?;
    let request = Request::Create(Box::new(guest::container(&shared.record, size)));
    match client.call(&request, Some(CREATE_PATIENCE)).map_err(agent_error)? {
        Response::Done => Ok(client),
        other => {
            let error = ProtocolError::Violation(format!("{other:?} isn't the answer"));
            Err(agent_error(error))
        }
    }
}

fn shape(shared: &Shared) -> Shape {
    let config = &shared.record.config;
    Shape { terminal: config.tty, stdin: config.open_stdin, stdin_once: config.stdin_once }
}

fn open_log(shared: &Shared) -> Result<Option<LogWriter>, RuntimeError> {
    let config = &shared.record.config.log;
    if config.driver == LogDriver::None {
        return Ok(None);
    }
    let rotation = config.max_size_bytes.map(|max_size_bytes| Rotation {
        max_size_bytes,
        max_files: config.max_files.unwrap_or(1),
    });
    let path = shared.paths.log();
    LogWriter::open(&path, rotation).map(Some).map_err(file("open", &path))
}

/// Puts on record that the process runs, and tells the starter, who misses none of its output.
fn tell_started(
    shared: &Arc<Shared>,
    place: &Place,
    running: &Arc<Running>,
    starter: &mut Option<Starter>,
) -> Result<(), RuntimeError> {
    let published = place.published();
    shared.update(|state| {
        state.status = Status::Running;
        state.started = Some(SystemTime::now());
        state.error.clear();
        state.oom_killed = false;
        state.endpoints = place.endpoints();
        state.summary.ports = merged(published, Summary::of(&shared.record).ports);
        state.health = shared.record.resolved.health.as_ref().map(|_| Health::default());
    })?;
    shared.enter(Phase::Running(Arc::clone(running)));
    shared.emit("start", None);
    let attached = starter.take().and_then(Starter::started);
    if let Some((stream, wants)) = attached {
        let client = running.hub.attach(stream, wants)?;
        let hub = Arc::clone(&running.hub);
        thread::Builder::new()
            .name("attached".to_owned())
            .spawn(move || hub.listen(&client))
            .map_err(system("start a thread"))?;
    }
    running.hub.begin()
}

/// The published ports, then those that are exposed only.
fn merged(published: Vec<PublishedPort>, others: Vec<PublishedPort>) -> Vec<PublishedPort> {
    let is_published = |port: &PublishedPort| {
        let same = |other: &PublishedPort| {
            (other.container_port, other.protocol) == (port.container_port, port.protocol)
        };
        published.iter().any(same)
    };
    let others: Vec<_> = others.into_iter().filter(|port| !is_published(port)).collect();
    published.into_iter().chain(others).collect()
}

/// Tells the guest of what's changed on the host in its shares. It goes on without that if need be.
fn watch_shares(shared: &Shared) -> Option<ChangeWatch> {
    let sources = guest::shares(&shared.record.mounts).map(|mount| mount.source.clone());
    let numbered: Vec<_> =
        (0..).zip(sources).filter_map(|(number, source)| Some((number, source?))).collect();
    if numbered.is_empty() {
        return None;
    }
    let client = Client::connect(&shared.paths.vsock(), AGENT_TIMEOUT).map_err(agent_error);
    match client.and_then(|client| ChangeWatch::start(numbered, client)) {
        Ok(watch) => Some(watch),
        Err(error) => {
            log::warn!("the guest isn't told of changes of shared files: {error}");
            None
        }
    }
}

impl Vm {
    /// Brings a VM to where its agent can be connected to: out of the template if there's one, else
    /// by booting it, and a template is made on the way. Says whether it came out of one.
    pub(super) fn start(
        shared: &Shared,
        place: &mut Place,
        spec: &VmSpec,
        template: Option<&Template>,
    ) -> Result<(Self, bool), RuntimeError> {
        let there = template.filter(|template| template.exists());
        if let Some(template) = there {
            match Self::restore(shared, place, spec, template) {
                Ok(vm) => return Ok((vm, true)),
                Err(error) => {
                    let why = error.to_failure().message;
                    log::warn!("the template can't be used, the VM is booted: {why}");
                    template.discard();
                    machine::clean(&shared.paths)?;
                }
            }
        }
        let vm = Self::boot(shared, place, spec)?;
        if let Some(template) = template
            && let Err(error) = template.make(&shared.engine, &shared.record, &shared.paths)
        {
            log::warn!("no template is made: {}", error.to_failure().message);
        }
        Ok((vm, false))
    }

    fn boot(shared: &Shared, place: &mut Place, spec: &VmSpec) -> Result<Self, RuntimeError> {
        let (notify, notes) = mpsc::channel();
        let _ready = await_connection(shared, notify.clone())?;
        let config = machine::checked(spec)?;
        let mut vm = Self::of_process(shared, Some(&config), notify, notes)?;
        vm.await_agent(place, shared)?;
        Ok(vm)
    }

    /// What the template's agent listened on, it listens on still.
    fn restore(
        shared: &Shared,
        place: &mut Place,
        spec: &VmSpec,
        template: &Template,
    ) -> Result<Self, RuntimeError> {
        let (notify, notes) = mpsc::channel();
        let vm = Self::of_process(shared, None, notify, notes)?;
        template.load(&shared.paths, &spec.network_interfaces)?;
        place.vm_created(&shared.paths)?;
        template::resume(&shared.paths)?;
        Ok(vm)
    }

    fn of_process(
        shared: &Shared,
        config: Option<&VmConfig>,
        notify: Sender<Note>,
        notes: Receiver<Note>,
    ) -> Result<Self, RuntimeError> {
        let (vmm, events) = VmmProcess::start(&shared.paths, &shared.id, config)?;
        let vm = Self { vmm, notes, notify, is_over: false };
        vm.watch(events)?;
        shared.update(|state| state.vmm = ProcessIdentity::of(vm.vmm.pid()).ok())?;
        Ok(vm)
    }

    /// Hears what the VMM says, on a thread of its own.
    fn watch(&self, events: VmmEvents) -> Result<(), RuntimeError> {
        let notify = self.notify.clone();
        let listen = move || {
            let mut last = None;
            for event in events {
                match event {
                    // Nobody may listen any more.
                    Event::VmCreated { .. } => drop(notify.send(Note::VmCreated)),
                    Event::Failed { error } => last = Some(LastWord::Failed(error)),
                    Event::Stopped { reason, .. } => last = Some(LastWord::Stopped(reason)),
                    _ => {}
                }
            }
            let _ = notify.send(Note::VmmOver(last));
        };
        let thread = thread::Builder::new().name("vmm-events".to_owned()).spawn(listen);
        thread.map(drop).map_err(system("start a thread"))
    }

    /// Waits until the guest's agent can be connected to.
    fn await_agent(&mut self, place: &mut Place, shared: &Shared) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + BOOT_PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.notes.recv_timeout(left) {
                Ok(Note::VmCreated) => place.vm_created(&shared.paths)?,
                Ok(Note::AgentReady) => return Ok(()),
                Ok(Note::VmmOver(last)) => {
                    self.is_over = true;
                    return Err(start_error(last, shared));
                }
                Ok(Note::Exited(_)) => {}
                Err(_) => {
                    return Err(RuntimeError::failed(
                        ErrorKind::Guest,
                        format!(
                            "the guest's agent isn't there after {BOOT_PATIENCE:?}; its console, {}, \
                             ends with: {}",
                            shared.paths.console().display(),
                            console::end(&shared.paths.console())
                        ),
                    ));
                }
            }
        }
    }

    /// Finds the reason why the agent can't be talked to: the VMM may know it.
    pub(super) fn explain(&mut self, error: RuntimeError) -> RuntimeError {
        if !matches!(error, RuntimeError::Protocol { .. }) {
            return error;
        }
        match self.await_vmm_over(EXPLANATION_PATIENCE) {
            Some(Some(last)) => lost_error(&last),
            _ => error,
        }
    }

    /// Waits for the VMM's end; none if that doesn't come in time.
    fn await_vmm_over(&mut self, patience: Duration) -> Option<Option<LastWord>> {
        if self.is_over {
            return Some(None);
        }
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.notes.recv_timeout(left) {
                Ok(Note::VmmOver(last)) => {
                    self.is_over = true;
                    return Some(last);
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Waits for the process's end.
    fn run(&mut self, shared: &Shared, running: &Running) -> Ended {
        let (client, notify) = (running.client.clone(), self.notify.clone());
        let wait = move || {
            // Nobody may listen any more.
            let _ = notify.send(Note::Exited(client.wait(ProcessId::MAIN)));
        };
        if let Err(error) = thread::Builder::new().name("wait".to_owned()).spawn(wait) {
            let error = format!("the container's process can't be waited for: {error}");
            return Ended { exit_code: EXIT_LOST, error, ..Ended::default() };
        }
        loop {
            match self.notes.recv() {
                Ok(Note::Exited(Ok(status))) => {
                    return Ended {
                        exit_code: status.code,
                        oom_killed: status.out_of_memory,
                        ..Ended::default()
                    };
                }
                Ok(Note::Exited(Err(error))) => {
                    let last = self.await_vmm_over(EXPLANATION_PATIENCE).flatten();
                    return lost(last, &agent_error(error), shared);
                }
                Ok(Note::VmmOver(last)) => {
                    self.is_over = true;
                    return lost(last, &agent_error(ProtocolError::Closed), shared);
                }
                Ok(Note::VmCreated | Note::AgentReady) => {}
                // This side keeps a sender.
                Err(mpsc::RecvError) => return Ended { exit_code: EXIT_LOST, ..Ended::default() },
            }
        }
    }

    /// Keeps what the process has changed, if that's asked for. Whoever asked finds it missing
    /// otherwise, and the reason in the log.
    fn keep_changes(&self, shared: &Shared, running: &Running, ended: &Ended) {
        let is_wanted = shared.record.config.keep_changes && ended.exit_code == 0;
        if is_wanted
            && !self.is_over
            && let Err(error) = changes::keep(shared, &running.client)
        {
            log::error!("what the container changed can't be kept: {error}");
        }
    }

    /// Ends the VM. What the guest has written is on its disk and in its shares then, unless all of
    /// that is thrown away.
    fn end(&mut self, shared: &Shared, running: &Running) {
        if !running.hub.wait_drained(DRAIN_PATIENCE) {
            running.hub.drop_stuck();
            running.hub.wait_drained(DRAIN_PATIENCE);
        }
        let has_shares = guest::shares(&shared.record.mounts).next().is_some();
        let config = &shared.record.config;
        let matters = has_shares || !(config.auto_remove || config.keep_changes);
        if matters && !self.is_over {
            self.power_off(&running.client);
        }
        running.client.close();
        running.killer.kill();
        self.reap();
    }

    /// Has the guest write what it hasn't yet, and switch itself off.
    fn power_off(&mut self, client: &Client) {
        match client.shutdown(Duration::ZERO) {
            Ok(()) => {}
            Err(error) => log::warn!("the guest can't be shut down: {error}"),
        }
        // It powers off once the connection is closed.
        client.close();
        if self.await_vmm_over(SHUTDOWN_PATIENCE).is_none() {
            log::warn!("the guest isn't off after {SHUTDOWN_PATIENCE:?}, and is ended");
        }
    }

    /// Ends a VM in which no process ran.
    pub(super) fn put_away(&mut self, client: &Client) {
        self.power_off(client);
        match self.vmm.killer() {
            Ok(killer) => killer.kill(),
            Err(error) => log::warn!("the VMM can't be ended: {error}"),
        }
        self.reap();
    }

    fn reap(&mut self) {
        if let Err(error) = self.vmm.wait() {
            log::warn!("the VMM can't be waited for: {error}");
        }
        self.is_over = true;
    }
}

/// Why a VM didn't come up.
fn start_error(last: Option<LastWord>, shared: &Shared) -> RuntimeError {
    match last {
        Some(last) => lost_error(&last),
        None => RuntimeError::failed(
            ErrorKind::Guest,
            format!("the VMM was killed; see {}", shared.paths.vmm_log().display()),
        ),
    }
}

fn lost_error(last: &LastWord) -> RuntimeError {
    match last {
        LastWord::Failed(failure) => {
            let causes = failure.causes.iter().map(|cause| format!(": {cause}"));
            let message =
                std::iter::once(failure.message.clone()).chain(causes).collect::<String>();
            RuntimeError::failed(ErrorKind::Vm(failure.kind), message)
        }
        LastWord::Stopped(reason) => {
            let what = match reason {
                StopReason::GuestPanic => "the guest's kernel panicked",
                StopReason::TripleFault => "the guest's CPU took a triple fault",
                StopReason::PowerOff | StopReason::Reset => "the guest switched itself off",
                StopReason::Killed | StopReason::Deadline => "the VM was ended from outside",
            };
            RuntimeError::failed(ErrorKind::Guest, what)
        }
    }
}

/// The end of a process whose VM is gone.
fn lost(last: Option<LastWord>, otherwise: &RuntimeError, shared: &Shared) -> Ended {
    let error = match &last {
        Some(last) => lost_error(last).to_string(),
        None if shared.is_ending() => String::new(),
        None => format!("the VM is gone: {}", otherwise.to_failure().message),
    };
    Ended { exit_code: EXIT_LOST, error, ..Ended::default() }
}
