//! The host's side of a control connection.

use std::collections::HashMap;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::message::{ClientFrame, ServerFrame};
use crate::{
    AgentError, CONTROL_PORT, Configuration, ContainerSpec, Event, ExitStatus, FileChange,
    HelloReply, PathStat, ProcessId, ProcessInfo, ProcessSpec, ProtocolError, Request, Response,
    STREAM_PORT, Stats, Stream, TerminalSize, TransferId, dial, frame, handshake, limits,
    open_stream,
};

/// How long the agent has to answer what it can answer at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How many events wait for their reader. When they're not read, the connection isn't either: an
/// agent that floods the host with events only stops itself.
const EVENTS_WAITING: usize = 256;

type Answer = Result<Response, AgentError>;

/// A control connection, for any number of threads: clones share it.
///
/// It's closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    hello: HelloReply,
}

/// Events of a connection that subscribed to them. It ends with the connection.
pub type Events = Receiver<Event>;

/// Closes the socket when the last client goes, which ends the reader's thread.
#[derive(Debug)]
struct Inner {
    socket: UnixStream,
    shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A socket that's closed already is as good.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// What the clients and the reader's thread share.
#[derive(Debug)]
struct Shared {
    writer: Mutex<UnixStream>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    waiting: HashMap<u64, SyncSender<Answer>>,
    events: Option<SyncSender<Event>>,
    /// Why nothing more will come.
    end: Option<End>,
}

#[derive(Clone, Debug)]
enum End {
    Closed,
    Violation(String),
}

impl From<End> for ProtocolError {
    fn from(end: End) -> Self {
        match end {
            End::Closed => Self::Closed,
            End::Violation(message) => Self::Violation(message),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Connects to the agent of the VM whose vsock device has the Unix socket `socket`.
    ///
    /// # Errors
    ///
    /// Fails as [`dial`] and [`Client::open`].
    pub fn connect(socket: &Path, timeout: Duration) -> Result<Self, ProtocolError> {
        Self::open(dial(socket, CONTROL_PORT, timeout)?, timeout)
    }

    /// Does the handshake on a new connection, within `timeout`.
    ///
    /// # Errors
    ///
    /// Fails when the connection does, and when the two sides have no version in common.
    pub fn open(mut socket: UnixStream, timeout: Duration) -> Result<Self, ProtocolError> {
        socket.set_read_timeout(Some(timeout)).map_err(ProtocolError::Io)?;
        socket.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(ProtocolError::Io)?;
        let hello = handshake::open(&mut socket).map_err(|error| match error {
            ProtocolError::Io(error) => ProtocolError::of_io(error),
            error => error,
        })?;
        socket.set_read_timeout(None).map_err(ProtocolError::Io)?;
        let writer = Mutex::new(socket.try_clone().map_err(ProtocolError::Io)?);
        let shared = Arc::new(Shared { writer, state: Mutex::default() });
        let reader = (socket.try_clone().map_err(ProtocolError::Io)?, Arc::clone(&shared));
        thread::Builder::new()
            .name("agent-client".into())
            .spawn(move || read_all(reader.0, &reader.1))
            .map_err(ProtocolError::Io)?;
        Ok(Self { inner: Arc::new(Inner { socket, shared }), hello })
    }

    /// Returns what the agent said of itself.
    #[must_use]
    pub fn hello(&self) -> &HelloReply {
        &self.hello
    }

    /// Closes the connection: whoever waits for an answer learns that there'll be none.
    pub fn close(&self) {
        // A socket that's closed already is as good.
        let _ = self.inner.socket.shutdown(Shutdown::Both);
    }

    /// Sends a request and waits for its answer: for ever, if no `timeout` is given, but not longer
    /// than the connection holds.
    ///
    /// # Errors
    ///
    /// Fails when the connection does, when the agent breaks the protocol (which closes the
    /// connection), with the agent's own error, and with [`ProtocolError::TimedOut`], after which
    /// the answer is dropped when it comes.
    pub fn call(
        &self,
        request: &Request,
        timeout: Option<Duration>,
    ) -> Result<Response, ProtocolError> {
        let (id, answer) = self.register()?;
        let sent = frame::encode(&ClientFrame { id, request }).and_then(|bytes| self.send(&bytes));
        if let Err(error) = sent {
            self.inner.shared.state().waiting.remove(&id);
            return Err(error);
        }
        let received = match timeout {
            None => answer.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(timeout) => answer.recv_timeout(timeout),
        };
        match received {
            Ok(result) => result.map_err(ProtocolError::Agent),
            Err(RecvTimeoutError::Timeout) => Err(ProtocolError::TimedOut),
            Err(RecvTimeoutError::Disconnected) => Err(self.end()),
        }
    }

    fn register(&self) -> Result<(u64, Receiver<Answer>), ProtocolError> {
        let mut state = self.inner.shared.state();
        if let Some(end) = state.end.clone() {
            return Err(end.into());
        }
        if state.waiting.len() >= limits::MAX_OUTSTANDING {
            return Err(ProtocolError::Violation("it leaves too many requests unanswered".into()));
        }
        let id = state.next_id;
        state.next_id += 1;
        let (sender, receiver) = mpsc::sync_channel(1);
        state.waiting.insert(id, sender);
        Ok((id, receiver))
    }

    /// Writes a frame. One that was written in part leaves the connection useless: it's closed.
    fn send(&self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let mut writer = self.inner.shared.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(bytes).map_err(|error| {
            // A socket that's closed already is as good.
            let _ = writer.shutdown(Shutdown::Both);
            ProtocolError::of_io(error)
        })
    }

    fn end(&self) -> ProtocolError {
        self.inner.shared.state().end.clone().unwrap_or(End::Closed).into()
    }
}

/// Reads the connection to its end.
fn read_all(mut socket: UnixStream, shared: &Shared) {
    let end = match read_frames(&mut socket, shared) {
        Ok(()) | Err(ProtocolError::Io(_) | ProtocolError::Closed) => End::Closed,
        Err(ProtocolError::Violation(message)) => End::Violation(message),
        Err(error) => End::Violation(error.to_string()),
    };
    let mut state = shared.state();
    state.end = Some(end);
    // Dropping the senders wakes whoever waits.
    state.waiting.clear();
    state.events = None;
    drop(state);
    // A socket that's closed already is as good.
    let _ = socket.shutdown(Shutdown::Both);
}

fn read_frames(socket: &mut UnixStream, shared: &Shared) -> Result<(), ProtocolError> {
    while let Some(frame) = frame::read(socket)? {
        match frame {
            ServerFrame::Answer { id, result } => {
                let result = match result {
                    Ok(response) => Ok(limits::check_response(response)?),
                    Err(error) => Err(limits::check_error(error)),
                };
                let waiting = shared.state().waiting.remove(&id);
                let waiting = waiting.ok_or_else(|| {
                    ProtocolError::Violation(format!(
                        "an answer to request {id}, which nobody made"
                    ))
                })?;
                // Whoever asked may have given up.
                let _ = waiting.try_send(result);
            }
            ServerFrame::Event(event) => {
                let event = limits::check_event(event)?;
                let events = shared.state().events.clone();
                if let Some(events) = events {
                    // The reader may be gone.
                    let _ = events.send(event);
                }
            }
        }
    }
    Ok(())
}

/// Makes a method per request: what it sends, and the one answer that fits.
macro_rules! expect {
    ($self:ident, $request:expr, $timeout:expr, $pattern:pat => $value:expr) => {
        match $self.call(&$request, $timeout)? {
            $pattern => Ok($value),
            other => Err(ProtocolError::Violation(format!(
                "an answer that doesn't fit the request: {:?}",
                std::mem::discriminant(&other)
            ))),
        }
    };
}

/// Each request as a method. All fail as [`Client::call`].
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Client {
    /// Asks whether the agent is there.
    pub fn ping(&self) -> Result<(), ProtocolError> {
        expect!(self, Request::Ping, Some(ANSWER_TIMEOUT), Response::Done => ())
    }

    /// Makes the VM this container's.
    pub fn configure(&self, configuration: Configuration) -> Result<(), ProtocolError> {
        let request = Request::Configure(Box::new(configuration));
        expect!(self, request, Some(ANSWER_TIMEOUT), Response::Done => ())
    }

    /// Makes the container. It may take long: volumes are filled from the image.
    pub fn create(&self, spec: ContainerSpec) -> Result<(), ProtocolError> {
        expect!(self, Request::Create(Box::new(spec)), None, Response::Done => ())
    }

    /// Prepares another process.
    pub fn exec(&self, spec: ProcessSpec) -> Result<ProcessId, ProtocolError> {
        let request = Request::Exec(Box::new(spec));
        expect!(self, request, Some(ANSWER_TIMEOUT), Response::Prepared { process } => process)
    }

    /// Starts a prepared process. Returns its number in the container.
    pub fn start(&self, process: ProcessId) -> Result<u32, ProtocolError> {
        let request = Request::Start { process };
        expect!(self, request, Some(ANSWER_TIMEOUT), Response::Started { pid } => pid)
    }

    /// Sends a signal to a process, or to all of the container's.
    pub fn signal(&self, process: ProcessId, signal: i32, all: bool) -> Result<(), ProtocolError> {
        let request = Request::Signal { process, signal, all };
        expect!(self, request, Some(ANSWER_TIMEOUT), Response::Done => ())
    }

    /// Sets the size of a process's terminal.
    pub fn resize(&self, process: ProcessId, size: TerminalSize) -> Result<(), ProtocolError> {
        let request = Request::Resize { process, size };
        expect!(self, request, Some(ANSWER_TIMEOUT), Response::Done => ())
    }

    /// Ends a process's standard input.
    pub fn close_stdin(&self, process: ProcessId) -> Result<(), ProtocolError> {
        let request = Request::CloseStdin { process };
        expect!(self, request, Some(ANSWER_TIMEOUT), Response::Done => ())
    }

    /// Waits for a process's end, for as long as it takes.
    pub fn wait(&self, process: ProcessId) -> Result<ExitStatus, ProtocolError> {
        expect!(self, Request::Wait { process }, None, Response::Exited(status) => status)
    }

    /// Lists the container's processes.
    pub fn processes(&self) -> Result<Vec<ProcessInfo>, ProtocolError> {
        let timeout = Some(ANSWER_TIMEOUT);
        expect!(self, Request::Processes, timeout, Response::Processes(processes) => processes)
    }

    /// Tells what the container uses.
    pub fn stats(&self) -> Result<Stats, ProtocolError> {
        expect!(self, Request::Stats, Some(ANSWER_TIMEOUT), Response::Stats(stats) => *stats)
    }

    /// Tells what is at a path in the container.
    pub fn stat(&self, path: &str, follow: bool) -> Result<PathStat, ProtocolError> {
        let request = Request::Stat { path: path.to_owned(), follow };
        expect!(self, request, Some(ANSWER_TIMEOUT), Response::Stat(stat) => stat)
    }

    /// Asks for a copy ([`Request::CopyIn`], [`Request::CopyOut`], [`Request::Changes`] or
    /// [`Request::CopyLayer`]), whose stream is opened next.
    pub fn transfer(&self, request: &Request) -> Result<TransferId, ProtocolError> {
        let timeout = Some(ANSWER_TIMEOUT);
        expect!(self, *request, timeout, Response::Transfer { transfer } => transfer)
    }

    /// Waits for a transfer's end, for as long as it takes.
    pub fn finish(&self, transfer: TransferId) -> Result<(), ProtocolError> {
        expect!(self, Request::Finish { transfer }, None, Response::Done => ())
    }

    /// Tells of changes of shared files.
    pub fn notify(&self, changes: Vec<FileChange>) -> Result<(), ProtocolError> {
        let request = Request::Notify { changes };
        expect!(self, request, Some(ANSWER_TIMEOUT), Response::Done => ())
    }

    /// Has events sent on this connection. While they aren't read, answers don't come either:
    /// a connection of its own is best for it.
    pub fn subscribe(&self) -> Result<Events, ProtocolError> {
        let (sender, receiver) = mpsc::sync_channel(EVENTS_WAITING);
        self.inner.shared.state().events = Some(sender);
        expect!(self, Request::Subscribe, Some(ANSWER_TIMEOUT), Response::Done => receiver)
    }

    /// Ends all processes, then the machine.
    pub fn shutdown(&self, grace: Duration) -> Result<(), ProtocolError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let timeout = grace.checked_add(ANSWER_TIMEOUT);
        expect!(self, Request::Shutdown { grace_ms }, timeout, Response::Done => ())
    }

    /// Opens a stream to the VM whose vsock device has the Unix socket `socket`.
    pub fn stream(
        socket: &Path,
        target: Stream,
        timeout: Duration,
    ) -> Result<UnixStream, ProtocolError> {
        let mut stream = dial(socket, STREAM_PORT, timeout)?;
        stream.set_read_timeout(Some(timeout)).map_err(ProtocolError::Io)?;
        stream.set_write_timeout(Some(timeout)).map_err(ProtocolError::Io)?;
        open_stream(&mut stream, target)?;
        stream.set_read_timeout(None).map_err(ProtocolError::Io)?;
        stream.set_write_timeout(None).map_err(ProtocolError::Io)?;
        Ok(stream)
    }
}
