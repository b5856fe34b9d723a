//! A guest's console on a Unix socket, for clients that come and go.
//!
//! ```text
//! guest's output ──> scrollback (the newest 64 KiB) ──> each client that connects gets it first
//!                └─> each client's queue ──> its socket
//! any client's input ──> pending ──> InputTarget
//! ```
//!
//! The guest never waits: output goes into queues of a fixed size, whose oldest bytes make room. A
//! client that reads too slowly misses bytes and nothing else. All sending and reading happens on
//! the event loop that [`ConsoleServer`] is added to.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{ConsoleOutput, InputTarget};

/// How much of the guest's output is kept: for a client that connects later, and for one that
/// reads slowly.
const CAPACITY: usize = 64 << 10;

/// How many bytes of input wait for the guest; beyond that, clients wait.
const READ_AHEAD: usize = 4096;

/// How many clients are served at once; others are turned away.
const MAX_CLIENTS: usize = 16;

/// How many connections the kernel keeps before they're accepted.
const BACKLOG: i32 = 16;

/// A socket that listens and isn't served yet. Its file vanishes when this, or the server made of
/// it, is dropped.
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what is at `path` later may be someone else's.
    identity: (u64, u64),
    hub: Arc<Hub>,
}

impl ConsoleSocket {
    /// Listens on `path`, where nothing may be yet, for the user that this process runs as.
    ///
    /// # Errors
    /// Something is at `path`, or no socket can be made there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Before it has a name: at no moment may anybody else connect.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self {
            listener: socket.into(),
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            hub: Arc::new(Hub::new()?),
        })
    }

    /// Returns an output whose bytes go to the socket's clients.
    #[must_use]
    pub fn output(&self) -> ConsoleOutput {
        ConsoleOutput::to_hub(Arc::clone(&self.hub))
    }

    /// Hands what clients type to `target`.
    #[must_use]
    pub fn serve(self, target: Arc<dyn InputTarget>) -> ConsoleServer {
        ConsoleServer { socket: self, target, pending: VecDeque::new() }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("can't remove the console's socket {}: {error}", self.path.display());
        }
    }
}

/// What the guest's side and the event loop share.
pub(super) struct Hub {
    state: Mutex<State>,
    /// Tells the event loop that a client has something to get.
    wake: EventFd,
}

#[derive(Default)]
struct State {
    scrollback: VecDeque<u8>,
    clients: Vec<Client>,
    /// The event loop has been told, and hasn't looked yet.
    awake: bool,
    /// Bytes that some client missed.
    dropped_bytes: u64,
}

struct Client {
    stream: UnixStream,
    unsent: VecDeque<u8>,
    /// What epoll watches it for; none while it isn't watched at all.
    watched: Option<EventSet>,
    /// It sends no more.
    read_ended: bool,
    /// It takes no more.
    gone: bool,
}

impl Hub {
    fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(Self { state: Mutex::default(), wake })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all of `bytes` without waiting.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let State { scrollback, clients, awake, dropped_bytes } = &mut *state;
        push_newest(scrollback, bytes);
        for client in clients.iter_mut().filter(|client| !client.gone) {
            let dropped = push_newest(&mut client.unsent, bytes);
            *dropped_bytes = dropped_bytes.saturating_add(dropped);
        }
        if !clients.is_empty() && !std::mem::replace(awake, true) {
            // An eventfd's write fails only when it is full: it is readable then.
            let _ = self.wake.write(1);
        }
    }

    /// Sends what clients take now; returns whether that was all there is.
    pub(super) fn flush(&self) -> bool {
        let mut state = self.lock();
        state.clients.iter_mut().for_each(Client::send);
        state.clients.iter().all(|client| client.unsent.is_empty())
    }

    /// Counts the bytes that clients missed.
    pub(super) fn dropped_bytes(&self) -> u64 {
        self.lock().dropped_bytes
    }
}

/// Appends to a buffer that keeps the newest [`CAPACITY`] bytes; returns how many were lost.
fn push_newest(buffer: &mut VecDeque<u8>, bytes: &[u8]) -> u64 {
    let skipped = bytes.len().saturating_sub(CAPACITY);
    let kept = bytes.get(skipped..).unwrap_or_default();
    let excess = buffer.len().saturating_add(kept.len()).saturating_sub(CAPACITY);
    // `kept` alone never exceeds the capacity.
    buffer.drain(..excess.min(buffer.len()));
    buffer.extend(kept);
    u64::try_from(skipped.saturating_add(excess)).unwrap_or(u64::MAX)
}

impl Client {
    fn new(stream: UnixStream, scrollback: &VecDeque<u8>) -> Self {
        let unsent = scrollback.clone();
        Self { stream, unsent, watched: None, read_ended: false, gone: false }
    }

    /// Sends as much as the socket takes now.
    fn send(&mut self) {
        while !self.gone && !self.unsent.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.stream, self.unsent.as_slices().0, flags) {
                Ok(count) => drop(self.unsent.drain(..count.min(self.unsent.len()))),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.hang_up(),
            }
        }
    }

    /// Reads as much as `pending` has room for.
    fn read(&mut self, pending: &mut VecDeque<u8>) {
        let mut buffer = [0; READ_AHEAD];
        while !self.read_ended && pending.len() < READ_AHEAD {
            let room = READ_AHEAD.saturating_sub(pending.len());
            let Some(buffer) = buffer.get_mut(..room) else { return };
            match rustix::io::read(&self.stream, &mut *buffer) {
                Ok(0) => self.read_ended = true,
                Ok(count) => pending.extend(buffer.get(..count).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.read_ended = true;
                    self.hang_up();
                }
            }
        }
    }

    fn hang_up(&mut self) {
        self.gone = true;
        self.unsent.clear();
    }

    /// Whether nothing more will come from it or go to it.
    fn is_over(&self) -> bool {
        self.gone && self.read_ended
    }

    /// What to watch it for. Nothing at all while its input has to wait: a client that hung up is
    /// reported whether that's asked for or not, again and again.
    fn wanted(&self, has_room: bool) -> Option<EventSet> {
        let mut wanted = EventSet::empty();
        if !self.read_ended && has_room {
            wanted |= EventSet::IN;
        }
        if !self.unsent.is_empty() {
            wanted |= EventSet::OUT;
        }
        (self.read_ended || !wanted.is_empty()).then_some(wanted)
    }

    fn watch(&mut self, has_room: bool, ops: &mut EventOps) {
        let wanted = self.wanted(has_room);
        let done = match (self.watched, wanted) {
            (before, after) if before == after => Ok(()),
            (None, Some(events)) => ops.add(Events::new(&self.stream, events)),
            (Some(_), Some(events)) => ops.modify(Events::new(&self.stream, events)),
            (_, None) => ops.remove(Events::empty(&self.stream)),
        };
        self.watched = wanted;
        if let Err(error) = done {
            log::warn!("a client of the console can't be watched: {error}");
            self.read_ended = true;
            self.hang_up();
        }
    }
}

/// Serves a console's clients, on whatever event loop it is added to.
pub struct ConsoleServer {
    socket: ConsoleSocket,
    target: Arc<dyn InputTarget>,
    /// Input that the guest hasn't taken yet.
    pending: VecDeque<u8>,
}

impl ConsoleServer {
    fn accept(&self) {
        loop {
            match self.socket.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!("a client can't connect to the console: {error}");
                    return;
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream) {
        let mut state = self.socket.hub.lock();
        if state.clients.len() >= MAX_CLIENTS {
            log::warn!("a client of the console is turned away: there are {MAX_CLIENTS} already");
            return;
        }
        if let Err(error) = stream.set_nonblocking(true) {
            log::warn!("a client can't connect to the console: {error}");
            return;
        }
        let client = Client::new(stream, &state.scrollback);
        state.clients.push(client);
    }

    fn client_ready(&mut self, fd: RawFd, events: EventSet) {
        let mut state = self.socket.hub.lock();
        let mut clients = state.clients.iter_mut();
        let Some(client) = clients.find(|client| client.stream.as_raw_fd() == fd) else { return };
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            client.hang_up();
        }
        client.read(&mut self.pending);
    }

    fn deliver(&mut self) {
        while !self.pending.is_empty() {
            let bytes = self.pending.make_contiguous();
            let offered = bytes.len();
            let taken = self.target.offer(bytes).min(offered);
            self.pending.drain(..taken);
            if taken < offered {
                break;
            }
        }
    }

    /// Sends, lets go of clients that are through, and says what to wait for next.
    fn settle(&self, ops: &mut EventOps) {
        let has_room = self.pending.len() < READ_AHEAD;
        let mut state = self.socket.hub.lock();
        state.awake = false;
        for client in &mut state.clients {
            client.send();
            client.watch(has_room, ops);
        }
        // Closing takes it out of the epoll set, but not out of the event manager's own table.
        for client in state.clients.iter().filter(|client| client.is_over()) {
            if client.watched.is_some()
                && let Err(error) = ops.remove(Events::empty(&client.stream))
            {
                log::warn!("a client of the console can't be let go: {error}");
            }
        }
        state.clients.retain(|client| !client.is_over());
    }
}

impl MutEventSubscriber for ConsoleServer {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if fd == self.socket.hub.wake.as_raw_fd() {
            let _ = self.socket.hub.wake.read();
        } else if fd == self.target.room().as_raw_fd() {
            let _ = self.target.room().read();
        } else if fd == self.socket.listener.as_raw_fd() {
            self.accept();
        } else {
            self.client_ready(fd, events.event_set());
        }
        self.deliver();
        self.settle(ops);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let watched = [
            self.socket.listener.as_raw_fd(),
            self.socket.hub.wake.as_raw_fd(),
            self.target.room().as_raw_fd(),
        ];
        for fd in watched {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("the console's socket can't be served: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
