//! What's asked of a supervisor on its socket.

use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use agent_proto::{ProcessId, TerminalSize};

use super::listener::{Listener, Slots};
use super::shared::{Phase, Running, Shared};
use crate::agent::agent_error;
use crate::record::Status;
use crate::signals::{SIGKILL, signal_name};
use crate::wire::{self, Answer, Request};
use crate::{ErrorKind, RuntimeError};

/// How many connections are served at once; more are closed.
const MAX_CONNECTIONS: usize = 512;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a container has to end once it was killed, before its VM is.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// `stop`'s time until it kills, in seconds: Docker's.
const STOP_TIMEOUT_S: i32 = 10;

/// Serves a supervisor's socket.
pub(super) fn serve(shared: &Arc<Shared>) -> Result<Listener, RuntimeError> {
    let (theirs, slots) = (Arc::clone(shared), Slots::default());
    Listener::open(&shared.paths.supervisor_socket(), "requests", move |stream| {
        let Some(slot) = slots.take(MAX_CONNECTIONS) else { return ControlFlow::Continue(()) };
        let shared = Arc::clone(&theirs);
        let work = move || {
            let _slot = slot;
            if let Err(error) = converse(&shared, stream) {
                log::debug!("a request's connection ended: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("request".to_owned()).spawn(work) {
            log::warn!("a request isn't served: {error}");
        }
        ControlFlow::Continue(())
    })
}

fn converse(shared: &Arc<Shared>, mut stream: UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = wire::receive_request(&mut stream)?;
    stream.set_read_timeout(None)?;
    match request {
        Request::Attach(wants) => match running(shared) {
            Ok(running) => {
                wire::send_answer(&mut stream, &Ok(0))?;
                let client = running.hub.attach(stream, wants);
                client.map(|client| running.hub.listen(&client)).map_err(std::io::Error::other)
            }
            Err(error) => wire::send_answer(&mut stream, &Err(error.to_failure())),
        },
        // It ends with this process, or when the client goes.
        Request::Watch => std::io::copy(&mut stream, &mut std::io::sink()).map(drop),
        request => {
            let _unanswered = shared.unanswered();
            wire::send_answer(&mut stream, &answer(shared, request))
        }
    }
}

fn answer(shared: &Shared, request: Request) -> Answer {
    let done = |outcome: Result<(), RuntimeError>| outcome.map(|()| 0);
    let outcome = match request {
        Request::Wait => Ok(shared.wait_over()),
        Request::Stop { signal, timeout_s } => stop(shared, signal, timeout_s),
        Request::Signal(number) => done(signal(shared, number)),
        Request::Resize { rows, cols } => done(resize(shared, rows, cols)),
        Request::Pause => done(pause(shared)),
        Request::Unpause => done(unpause(shared)),
        Request::Start(_) | Request::Attach(_) | Request::Watch => {
            Err(RuntimeError::conflict("the container was started already"))
        }
    };
    outcome.map_err(|error| error.to_failure())
}

/// The running process. One that's just coming up is waited for.
fn running(shared: &Shared) -> Result<Arc<Running>, RuntimeError> {
    shared.wait(None, |phase| !matches!(phase, Phase::Between));
    match shared.phase() {
        Phase::Running(running) => Ok(running),
        _ => {
            let name = &shared.record.name;
            Err(RuntimeError::conflict(format!("container {name} is not running")))
        }
    }
}

fn signal(shared: &Shared, number: i32) -> Result<(), RuntimeError> {
    let running = running(shared)?;
    // What ends a container ends it for good: Docker's rule.
    if number == SIGKILL || number == shared.record.resolved.stop_signal {
        shared.end_for_good();
        shared.note(|state| state.stopped_by_user = true);
    }
    if number == SIGKILL && is_paused(shared) {
        unpause(shared)?;
    }
    send_signal(&running, number)?;
    if number == SIGKILL {
        end_what_wont(shared, &running);
        // Whoever removes it next finds nothing that holds it.
        shared.wait_over();
    }
    Ok(())
}

fn send_signal(running: &Running, number: i32) -> Result<(), RuntimeError> {
    match running.client.signal(ProcessId::MAIN, number, false).map_err(agent_error) {
        // It has ended meanwhile.
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
        outcome => outcome,
    }
}

/// Sees that a process that was killed ends: an output that nobody reads may hold it, or the guest
/// may not answer.
fn end_what_wont(shared: &Shared, running: &Arc<Running>) {
    let is_over = |phase: &Phase| !is_of(phase, running);
    if shared.wait(Instant::now().checked_add(KILL_PATIENCE), is_over) {
        return;
    }
    running.hub.drop_stuck();
    if !shared.wait(Instant::now().checked_add(KILL_PATIENCE), is_over) {
        log::warn!("the container doesn't end, and its VM is killed");
        running.killer.kill();
    }
}

fn is_of(phase: &Phase, running: &Arc<Running>) -> bool {
    matches!(phase, Phase::Running(other) if Arc::ptr_eq(other, running))
}

/// Ends the container: asks, waits, kills. Returns the exit code once nothing is left of it.
pub(super) fn stop(
    shared: &Shared,
    signal: Option<i32>,
    timeout_s: Option<i32>,
) -> Result<i32, RuntimeError> {
    shared.end_for_good();
    shared.note(|state| state.stopped_by_user = true);
    let Ok(running) = running(shared) else { return Ok(shared.wait_over()) };
    let timeout_s = timeout_s.or(shared.record.config.stop_timeout_s).unwrap_or(STOP_TIMEOUT_S);
    let number = signal.unwrap_or(shared.record.resolved.stop_signal);
    if is_paused(shared) {
        unpause(shared)?;
    }
    if let Err(error) = send_signal(&running, number) {
        log::warn!("{} can't be sent: {error}", signal_name(number));
    }
    // Negative for ever.
    let timeout = u64::try_from(timeout_s).ok().map(Duration::from_secs);
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    if !shared.wait(deadline, |phase| !is_of(phase, &running)) {
        if let Err(error) = send_signal(&running, SIGKILL) {
            log::warn!("the container can't be killed: {error}");
        }
        end_what_wont(shared, &running);
    }
    Ok(shared.wait_over())
}

fn resize(shared: &Shared, rows: u16, columns: u16) -> Result<(), RuntimeError> {
    let size = TerminalSize { rows, columns };
    running(shared)?.client.resize(ProcessId::MAIN, size).map_err(agent_error)
}

fn is_paused(shared: &Shared) -> bool {
    let state = shared.engine.store().state(&shared.id);
    state.is_ok_and(|state| state.status == Status::Paused)
}

fn pause(shared: &Shared) -> Result<(), RuntimeError> {
    running(shared)?;
    if is_paused(shared) {
        return Err(RuntimeError::conflict(format!(
            "container {} is already paused",
            shared.record.name
        )));
    }
    change_vm(&shared.paths.api_socket(), api::http::Client::pause)?;
    shared.update(|state| state.status = Status::Paused)
}

fn unpause(shared: &Shared) -> Result<(), RuntimeError> {
    running(shared)?;
    if !is_paused(shared) {
        return Err(RuntimeError::conflict(format!(
            "container {} is not paused",
            shared.record.name
        )));
    }
    change_vm(&shared.paths.api_socket(), api::http::Client::resume)?;
    shared.update(|state| state.status = Status::Running)
}

fn change_vm(
    socket: &Path,
    change: impl FnOnce(&mut api::http::Client) -> Result<(), api::http::ClientError>,
) -> Result<(), RuntimeError> {
    let outcome = api::http::Client::connect(socket).and_then(|mut client| change(&mut client));
    outcome.map_err(|error| RuntimeError::Protocol {
        who: "the VMM",
        source: std::io::Error::other(error),
    })
}

#[cfg(test)]
mod tests;
