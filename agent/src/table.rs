//! The processes that the host asked for.

use std::collections::BTreeMap;

use agent_proto::{ExitStatus, ProcessId, ProcessSpec, Response, Stream};

use crate::fault::{AgentError, ErrorKind, Result, fault};
use crate::launch::Stage;
use crate::server::Ticket;
use crate::stdio::{ChildEnds, Streams};

/// The most prepared and running processes that were asked for.
const MAX_LIVE: usize = 4096;

/// The most ended ones whose status is kept for who asks late.
const MAX_ENDED: usize = 1024;

/// A process that was asked for.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) spec: ProcessSpec,
    pub(crate) streams: Streams,
    /// The connection that asked for it, until it's started.
    pub(crate) owner: Option<u64>,
    pub(crate) state: State,
    /// Outputs that the host hasn't taken to their end.
    pub(crate) undrained: usize,
    waiters: Vec<Ticket>,
}

/// Where a process is in its life: `Prepared → Starting → Running → Ended`.
#[derive(Debug)]
pub(crate) enum State {
    /// Waiting for its start. The main process's stage runs already.
    Prepared { ends: Option<ChildEnds>, stage: Option<Stage> },
    /// Being started.
    Starting,
    /// Running, by its number where the agent is.
    Running { pid: i32 },
    /// Ended. Its output may not be drained yet.
    Ended(ExitStatus),
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    processes: BTreeMap<ProcessId, Process>,
    /// By the numbers of those that are starting or running.
    by_pid: BTreeMap<i32, ProcessId>,
    next: u64,
}

impl Process {
    pub(crate) fn new(spec: ProcessSpec, streams: Streams, state: State) -> Self {
        let undrained = streams.outputs();
        Self { spec, streams, owner: None, state, undrained, waiters: Vec::new() }
    }

    /// Returns how it ended, when that may be told.
    fn outcome(&self) -> Option<ExitStatus> {
        match self.state {
            State::Ended(status) if self.undrained == 0 => Some(status),
            _ => None,
        }
    }
}

impl Table {
    /// Adds the main process.
    pub(crate) fn add_main(&mut self, process: Process) {
        self.processes.insert(ProcessId::MAIN, process);
    }

    /// Adds another one, which is forgotten with the connection `owner`.
    pub(crate) fn add(&mut self, mut process: Process, owner: u64) -> Result<ProcessId> {
        let live = |process: &&Process| process.outcome().is_none();
        if self.processes.values().filter(live).count() >= MAX_LIVE {
            return fault(ErrorKind::Busy, "too many processes were asked for");
        }
        self.next += 1;
        process.owner = Some(owner);
        self.processes.insert(ProcessId(self.next), process);
        Ok(ProcessId(self.next))
    }

    pub(crate) fn get(&mut self, id: ProcessId) -> Result<&mut Process> {
        self.processes.get_mut(&id).ok_or_else(|| no_such(id))
    }

    /// Notes the number of a stage, before anybody can reap it.
    pub(crate) fn note_pid(&mut self, pid: i32, id: ProcessId) {
        self.by_pid.insert(pid, id);
    }

    /// Returns the number of a running process.
    pub(crate) fn running(&mut self, id: ProcessId) -> Result<i32> {
        match self.get(id)?.state {
            State::Running { pid } => Ok(pid),
            _ => Err(no_such(id)),
        }
    }

    /// Hands a connection to a process's stream.
    pub(crate) fn connect(&mut self, stream: Stream) -> Result<std::sync::Arc<crate::relay::Port>> {
        let (id, port) = match stream {
            Stream::Stdin { process } => {
                let streams = &self.get(process)?.streams;
                (process, if streams.tty.is_some() { &None } else { &streams.input })
            }
            Stream::Stdout { process } => (process, &self.get(process)?.streams.stdout),
            Stream::Stderr { process } => (process, &self.get(process)?.streams.stderr),
            Stream::Tty { process } => (process, &self.get(process)?.streams.tty),
            Stream::Transfer { .. } => {
                return fault(ErrorKind::Invalid, "a transfer is no process's stream");
            }
        };
        port.clone().ok_or_else(|| {
            let message = format!("process {} was asked for without this stream", id.0);
            AgentError::new(ErrorKind::Invalid, message)
        })
    }

    /// Answers when a process has ended, now or later.
    pub(crate) fn wait(&mut self, id: ProcessId, ticket: Ticket) {
        match self.get(id) {
            Err(error) => ticket.answer(Err(error)),
            Ok(process) => match process.outcome() {
                Some(status) => ticket.answer(Ok(Response::Exited(status))),
                None => process.waiters.push(ticket),
            },
        }
    }

    /// Notes that a child has ended. Returns which process it was, if it was one.
    pub(crate) fn ended(&mut self, pid: i32, status: ExitStatus) -> Option<ProcessId> {
        let id = self.by_pid.remove(&pid)?;
        let process = self.processes.get_mut(&id)?;
        process.state = State::Ended(status);
        process.streams.process_ended();
        Some(id)
    }

    /// Notes that one more of a process's outputs is drained.
    pub(crate) fn drained(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.undrained = process.undrained.saturating_sub(1);
        }
    }

    /// Returns the outcome of a process that has ended and is drained, and who waits for it.
    pub(crate) fn settle(&mut self, id: ProcessId) -> Option<(ExitStatus, Vec<Ticket>)> {
        let process = self.processes.get_mut(&id)?;
        let status = process.outcome()?;
        let waiters = std::mem::take(&mut process.waiters);
        self.forget_oldest();
        Some((status, waiters))
    }

    /// Forgets a process that never was. Its number stays noted until it's reaped.
    pub(crate) fn forget(&mut self, id: ProcessId) -> Option<Process> {
        self.processes.remove(&id)
    }

    /// Forgets what a connection asked for and didn't start.
    pub(crate) fn disown(&mut self, owner: u64) {
        self.processes.retain(|_, process| {
            process.owner != Some(owner) || !matches!(process.state, State::Prepared { .. })
        });
    }

    fn forget_oldest(&mut self) {
        let ended: Vec<ProcessId> = self
            .processes
            .iter()
            .filter(|(id, process)| **id != ProcessId::MAIN && process.outcome().is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in ended.iter().take(ended.len().saturating_sub(MAX_ENDED)) {
            self.processes.remove(id);
        }
    }
}

/// The error for a process that isn't there.
pub(crate) fn no_such(id: ProcessId) -> AgentError {
    let what =
        if id == ProcessId::MAIN { "the container".into() } else { format!("process {}", id.0) };
    AgentError::new(ErrorKind::NoSuchProcess, format!("{what} isn't running"))
}
