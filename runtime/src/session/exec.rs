//! A session with a process that `exec` started, through the agent.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, Scope};
use std::time::Duration;

use agent_proto::{Client, ExitStatus, ProcessId, ProcessSpec, ProtocolError, Stream};

use super::input::{self, Cancel, DetachKeys, InputEnd};
use super::{SessionIo, write_output};
use crate::RuntimeError;
use crate::agent::{AGENT_TIMEOUT, agent_error};
use crate::error::system;
use crate::options::{OutputStream, SessionEnd};

const BUFFER_BYTES: usize = 64 << 10;

/// How long a process's output may take to end once the agent has said that all of it was read.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// A process that was started, and its streams.
#[derive(Debug)]
pub(crate) struct ExecLink {
    pub(crate) client: Client,
    pub(crate) process: ProcessId,
    outputs: Vec<(OutputStream, UnixStream)>,
    input: Option<UnixStream>,
    has_terminal: bool,
}

/// What happens in a session.
enum Note {
    Output(Result<(), RuntimeError>),
    Exited(Result<ExitStatus, ProtocolError>),
    Detached,
}

impl ExecLink {
    /// Prepares a process, connects its streams, and starts it.
    pub(crate) fn start(vsock: &Path, spec: ProcessSpec) -> Result<Self, RuntimeError> {
        let client = Client::connect(vsock, AGENT_TIMEOUT).map_err(agent_error)?;
        let (stdio, has_terminal) = (spec.stdio, spec.terminal.is_some());
        let process = client.exec(spec).map_err(agent_error)?;
        let open = |target| Client::stream(vsock, target, AGENT_TIMEOUT).map_err(agent_error);
        let (mut outputs, mut input) = (Vec::new(), None);
        if has_terminal && (stdio.stdin || stdio.stdout || stdio.stderr) {
            let tty = open(Stream::Tty { process })?;
            input = Some(tty.try_clone().map_err(system("share a socket"))?);
            outputs.push((OutputStream::Stdout, tty));
        } else if !has_terminal {
            if stdio.stdin {
                input = Some(open(Stream::Stdin { process })?);
            }
            if stdio.stdout {
                outputs.push((OutputStream::Stdout, open(Stream::Stdout { process })?));
            }
            if stdio.stderr {
                outputs.push((OutputStream::Stderr, open(Stream::Stderr { process })?));
            }
        }
        client.start(process).map_err(agent_error)?;
        Ok(Self { client, process, outputs, input, has_terminal })
    }
}

pub(super) fn relay(link: ExecLink, io: SessionIo) -> Result<SessionEnd, RuntimeError> {
    let SessionIo { stdin, stdout, stderr, detach_keys } = io;
    let cancel = Cancel::new().map_err(system("watch the input"))?;
    let (notes, received) = mpsc::channel();
    let mut sinks = [Some(stdout), Some(stderr)];
    thread::scope(|scope| {
        for (stream, from) in &link.outputs {
            let sink = match stream {
                OutputStream::Stdout => sinks[0].take(),
                OutputStream::Stderr => sinks[1].take(),
            };
            let Some(sink) = sink else { continue };
            spawn(scope, &notes, move || Some(Note::Output(pump_output(from, sink))));
        }
        if let Some(stdin) = stdin {
            let (link, cancel) = (&link, &cancel);
            let keys = DetachKeys::new(detach_keys);
            spawn(scope, &notes, move || match send_input(link, &stdin, keys, cancel) {
                Ok(InputEnd::Detached) => Some(Note::Detached),
                Ok(InputEnd::Eof | InputEnd::Cancelled) => None,
                Err(error) => {
                    log::debug!("input isn't sent any more: {error}");
                    None
                }
            });
        }
        let (client, process) = (&link.client, link.process);
        spawn(scope, &notes, move || Some(Note::Exited(client.wait(process))));
        drop(notes);
        let end = await_end(&received, link.outputs.len());
        // Whatever still waits has nothing to wait for.
        cancel.cancel();
        for socket in link.outputs.iter().map(|(_, socket)| socket).chain(&link.input) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        link.client.close();
        end
    })
}

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    notes: &Sender<Note>,
    work: impl FnOnce() -> Option<Note> + Send + 'scope,
) {
    let notes = notes.clone();
    scope.spawn(move || {
        if let Some(note) = work() {
            // The session may be over.
            let _ = notes.send(note);
        }
    });
}

/// Waits until the process has ended and `outputs` outputs have, too.
fn await_end(notes: &Receiver<Note>, outputs: usize) -> Result<SessionEnd, RuntimeError> {
    let (mut left, mut code) = (outputs, None);
    loop {
        if let Some(code) = code.filter(|_| left == 0) {
            return Ok(SessionEnd::Exited(code));
        }
        let note = match code {
            None => notes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(_) => notes.recv_timeout(DRAIN_PATIENCE),
        };
        match (note, code) {
            (Ok(Note::Output(outcome)), _) => {
                outcome?;
                left = left.saturating_sub(1);
            }
            (Ok(Note::Exited(status)), _) => code = Some(status.map_err(agent_error)?.code),
            (Ok(Note::Detached), _) => return Ok(SessionEnd::Detached),
            (Err(_), Some(code)) => {
                log::warn!("the agent leaves an output open after its end");
                return Ok(SessionEnd::Exited(code));
            }
            (Err(_), None) => return Err(agent_error(ProtocolError::Closed)),
        }
    }
}

fn pump_output(mut from: &UnixStream, mut sink: Box<dyn Write + Send>) -> Result<(), RuntimeError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => write_output(sink.as_mut(), buffer.get(..read).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Reset is the end, too: the VM is gone, which the wait for the process tells.
            Err(error) => {
                log::debug!("an output broke off: {error}");
                return Ok(());
            }
        }
    }
}

fn send_input(
    link: &ExecLink,
    stdin: &std::os::fd::OwnedFd,
    keys: DetachKeys,
    cancel: &Cancel,
) -> io::Result<InputEnd> {
    let Some(mut to) = link.input.as_ref() else { return Ok(InputEnd::Eof) };
    let end = input::pump(stdin, keys, cancel, |bytes| to.write_all(bytes))?;
    // A terminal's stream goes both ways; its process sees the end by Ctrl-D.
    if end == InputEnd::Eof && !link.has_terminal {
        to.shutdown(Shutdown::Write)?;
    }
    Ok(end)
}
