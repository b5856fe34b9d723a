//! A process's standard streams: read once, kept in the log, and sent to whoever is attached.
//!
//! A thread reads each output. It writes a piece to the log, then to each client, and only then
//! reads on: a client that doesn't read holds the process up, and nothing piles up. One that still
//! doesn't when the process is to end is dropped ([`Hub::drop_stuck`]).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use agent_proto::{ProcessId, Stream};

use crate::RuntimeError;
use crate::agent::{AGENT_TIMEOUT, agent_error};
use crate::error::system;
use crate::logs::LogWriter;
use crate::options::OutputStream;
use crate::wire::{self, Attach, Exit, FrameType};

/// Bytes of an output that are read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// How long a client may take with the last that it's sent.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a process's streams are like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Whether the process has a terminal.
    pub(super) terminal: bool,
    /// Whether it has an input.
    pub(super) stdin: bool,
    /// Whether the end of a client's input is the end of the process's.
    pub(super) stdin_once: bool,
}

/// A process's streams.
#[derive(Debug)]
pub(super) struct Hub {
    shape: Shape,
    log: Mutex<Option<LogWriter>>,
    clients: Mutex<Clients>,
    /// What the process reads; none before it's connected and after its end.
    stdin: Mutex<Option<UnixStream>>,
    /// Outputs that aren't read yet.
    outputs: Mutex<Vec<(OutputStream, UnixStream)>>,
    /// Outputs that aren't at their end.
    open: Mutex<usize>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct Clients {
    attached: Vec<Arc<Client>>,
    /// How the process has ended, once all were told.
    over: Option<Exit>,
}

/// Who is attached.
#[derive(Debug)]
pub(super) struct Client {
    wants: Attach,
    writer: Mutex<UnixStream>,
    socket: UnixStream,
    /// Whether it's being sent something.
    busy: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(super) fn new(shape: Shape, log: Option<LogWriter>) -> Self {
        Self {
            shape,
            log: Mutex::new(log),
            clients: Mutex::default(),
            stdin: Mutex::default(),
            outputs: Mutex::default(),
            open: Mutex::default(),
            closed: Condvar::new(),
        }
    }

    /// Connects the streams of the container's process, which isn't started yet. Nothing is read
    /// before [`begin`](Self::begin): who attaches until then misses nothing.
    pub(super) fn connect(&self, vsock: &Path) -> Result<(), RuntimeError> {
        let process = ProcessId::MAIN;
        let open =
            |target| agent_proto::Client::stream(vsock, target, AGENT_TIMEOUT).map_err(agent_error);
        if self.shape.terminal {
            let tty = open(Stream::Tty { process })?;
            if self.shape.stdin {
                *lock(&self.stdin) = Some(tty.try_clone().map_err(system("share a socket"))?);
            }
            lock(&self.outputs).push((OutputStream::Stdout, tty));
            return Ok(());
        }
        if self.shape.stdin {
            *lock(&self.stdin) = Some(open(Stream::Stdin { process })?);
        }
        let mut outputs = lock(&self.outputs);
        outputs.push((OutputStream::Stdout, open(Stream::Stdout { process })?));
        outputs.push((OutputStream::Stderr, open(Stream::Stderr { process })?));
        Ok(())
    }

    /// Begins to read the outputs.
    pub(super) fn begin(self: &Arc<Self>) -> Result<(), RuntimeError> {
        for (stream, from) in std::mem::take(&mut *lock(&self.outputs)) {
            self.read(stream, from)?;
        }
        Ok(())
    }

    /// Reads an output on a thread of its own.
    fn read(self: &Arc<Self>, stream: OutputStream, from: UnixStream) -> Result<(), RuntimeError> {
        *lock(&self.open) += 1;
        let hub = Arc::clone(self);
        let work = move || {
            if let Err(error) = hub.pump(stream, from) {
                log::debug!("an output broke off: {error}");
            }
            let mut open = lock(&hub.open);
            *open = open.saturating_sub(1);
            hub.closed.notify_all();
        };
        let thread = thread::Builder::new().name("output".to_owned()).spawn(work);
        thread.map(drop).map_err(system("start a thread"))
    }

    fn pump(&self, stream: OutputStream, mut from: UnixStream) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let outcome = loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
            };
            let bytes = buffer.get(..read).unwrap_or_default();
            self.keep(|log| log.write(stream, bytes));
            self.send(stream, bytes);
        };
        self.keep(|log| log.finish(stream));
        outcome
    }

    /// Writes to the log. When that fails (a full disk) the container goes on without it.
    fn keep(&self, write: impl FnOnce(&mut LogWriter) -> io::Result<()>) {
        if let Some(log) = lock(&self.log).as_mut()
            && let Err(error) = write(log)
        {
            log::warn!("output is missing in the container's log: {error}");
        }
    }

    fn send(&self, stream: OutputStream, bytes: &[u8]) {
        let clients = lock(&self.clients).attached.clone();
        for client in clients {
            let (wanted, kind) = match stream {
                OutputStream::Stdout => (client.wants.stdout, FrameType::Stdout),
                OutputStream::Stderr => (client.wants.stderr, FrameType::Stderr),
            };
            if wanted && client.send(kind, bytes).is_err() {
                self.forget(&client);
            }
        }
    }

    /// Adds a client. It gets what comes from now on: the exit code alone, if that's all.
    pub(super) fn attach(
        &self,
        stream: UnixStream,
        wants: Attach,
    ) -> Result<Arc<Client>, RuntimeError> {
        let socket = stream.try_clone().map_err(system("share a socket"))?;
        let client = Arc::new(Client {
            wants,
            writer: Mutex::new(stream),
            socket,
            busy: AtomicBool::new(false),
        });
        let mut clients = lock(&self.clients);
        match &clients.over {
            None => clients.attached.push(Arc::clone(&client)),
            Some(exit) => client.finish(exit),
        }
        drop(clients);
        Ok(client)
    }

    fn forget(&self, client: &Arc<Client>) {
        lock(&self.clients).attached.retain(|other| !Arc::ptr_eq(other, client));
        client.shut();
    }

    /// Reads what a client sends, until it leaves.
    pub(super) fn listen(&self, client: &Arc<Client>) {
        if let Err(error) = self.read_client(client) {
            log::debug!("an attached client is gone: {error}");
        }
        if client.wants.stdin {
            self.input_ended();
        }
        // Its end of input may be all that has ended: what it's sent goes on until it closes.
    }

    fn read_client(&self, client: &Arc<Client>) -> io::Result<()> {
        let mut from = &client.socket;
        let mut contents = Vec::new();
        loop {
            match wire::receive(&mut from, &mut contents) {
                Ok(Some(FrameType::Stdin)) if client.wants.stdin => self.write_input(&contents),
                Ok(Some(FrameType::StdinEnd)) if client.wants.stdin => self.input_ended(),
                Ok(Some(kind)) => {
                    self.forget(client);
                    return Err(io::Error::other(format!("an unexpected frame: {kind:?}")));
                }
                Ok(None) => {
                    self.forget(client);
                    return Ok(());
                }
                Err(error) => {
                    self.forget(client);
                    return Err(error);
                }
            }
        }
    }

    /// Hands input to the process; waits as long as that doesn't read. Nobody else's is lost: what
    /// the process didn't take before its end is.
    fn write_input(&self, bytes: &[u8]) {
        let mut stdin = lock(&self.stdin);
        if let Some(to) = stdin.as_mut()
            && let Err(error) = to.write_all(bytes)
        {
            log::debug!("the process doesn't read its input any more: {error}");
            *stdin = None;
        }
    }

    /// A client's input has ended.
    fn input_ended(&self) {
        // A terminal's process sees the end by Ctrl-D.
        if !self.shape.stdin_once || self.shape.terminal {
            return;
        }
        if let Some(to) = lock(&self.stdin).take() {
            // The process may be gone.
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    /// Waits until all outputs are at their end, but not longer than `patience`; returns whether
    /// they are.
    pub(super) fn wait_drained(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut open = lock(&self.open);
        while *open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            open = self.closed.wait_timeout(open, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Drops the clients that are being sent something right now: they don't read, and the process
    /// is to end.
    pub(super) fn drop_stuck(&self) {
        for client in &lock(&self.clients).attached {
            if client.busy.load(Ordering::Acquire) {
                log::warn!("an attached client doesn't read, and is dropped");
                client.shut();
            }
        }
    }

    /// Tells all clients how the process has ended, the last that they get.
    pub(super) fn finish(&self, exit: &Exit) {
        let mut clients = lock(&self.clients);
        clients.over.get_or_insert_with(|| exit.clone());
        let told = std::mem::take(&mut clients.attached);
        drop(clients);
        for client in told {
            client.finish(exit);
        }
    }
}

impl Client {
    fn send(&self, kind: FrameType, bytes: &[u8]) -> io::Result<()> {
        let mut writer = lock(&self.writer);
        self.busy.store(true, Ordering::Release);
        let sent = wire::send(&mut *writer, kind, bytes);
        self.busy.store(false, Ordering::Release);
        sent
    }

    fn finish(&self, exit: &Exit) {
        let timeout = self.socket.set_write_timeout(Some(FAREWELL_TIMEOUT));
        if let Err(error) = timeout.and_then(|()| wire::send_exit(&mut *lock(&self.writer), exit)) {
            log::debug!("an attached client isn't told the exit code: {error}");
        }
        self.shut();
    }

    fn shut(&self) {
        // The other side may be gone.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests;
