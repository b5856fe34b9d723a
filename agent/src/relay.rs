//! Standard streams: bytes between a process's pipes or terminal and the host's connections.
//!
//! A thread per direction, a buffer of 64 KiB each, nothing queued: a host that doesn't read stops
//! the process once the pipe is full, and a process that doesn't read stops the host. A host that
//! has *gone* stops nobody: what the process writes is then dropped until another connection comes,
//! as a container's output isn't anyone's to block by disappearing.
//!
//! A process's output is drained when the host has taken all that was written before its end. Its
//! children may hold the pipe open for longer: nobody waits for those, and what they write later is
//! dropped, but their pipe never breaks.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

const BUFFER_BYTES: usize = 64 << 10;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Something that happens once, and can be polled for.
#[derive(Debug)]
pub(crate) struct Once(OwnedFd);

impl Once {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn happen(&self) {
        // It can only fail when it has happened very often.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// Where the host's connections for one stream arrive. The newest is the one that counts.
#[derive(Debug, Default)]
pub(crate) struct Port {
    state: Mutex<PortState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct PortState {
    connection: Option<Arc<File>>,
    arrived: u64,
    closed: bool,
}

impl Port {
    fn state(&self) -> MutexGuard<'_, PortState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether a connection has come yet.
    pub(crate) fn is_connected(&self) -> bool {
        self.state().arrived > 0
    }

    /// Hands over a connection, after `greet` has written to it: before that, no output goes there,
    /// and whoever reads the greeting may rely on the connection being in place.
    pub(crate) fn connect(&self, mut connection: File, greet: impl FnOnce(&mut File) -> bool) {
        let mut state = self.state();
        // At the stream's end the connection is closed right away, which says so.
        if !greet(&mut connection) || state.closed {
            return;
        }
        if let Some(old) = state.connection.replace(Arc::new(connection)) {
            shut(&old);
        }
        state.arrived += 1;
        self.changed.notify_all();
    }

    /// Ends the stream: what was written arrives, then the end.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        if let Some(connection) = state.connection.take() {
            shut(&connection);
        }
        self.changed.notify_all();
    }

    /// Returns the connection after the one numbered `seen`; none when the stream has ended.
    fn next(&self, seen: u64) -> Option<(u64, Arc<File>)> {
        let mut state = self.state();
        loop {
            match &state.connection {
                _ if state.closed => return None,
                Some(connection) if state.arrived > seen => {
                    return Some((state.arrived, Arc::clone(connection)));
                }
                _ => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Writes to the connection, as long as there is one.
    fn send(&self, bytes: &[u8]) {
        let Some(connection) = self.state().connection.clone() else { return };
        if (&*connection).write_all(bytes).is_err() {
            let mut state = self.state();
            if state.connection.as_ref().is_some_and(|now| Arc::ptr_eq(now, &connection)) {
                state.connection = None;
            }
        }
    }
}

/// Ends both directions of a connection that may be in use by another thread. vsock delivers what
/// was sent before.
fn shut(connection: &File) {
    // The other side may be gone.
    let _ = rustix::net::shutdown(connection, rustix::net::Shutdown::Both);
}

/// Copies a process's output to the host until its end, or until the process has ended and nothing
/// is left. Then calls `drained`, and drops what its children may still write.
pub(crate) fn pump_output(from: &File, exited: &Once, port: &Port, drained: impl FnOnce()) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let ended = copy_output(from, exited, port, &mut buffer);
    port.close();
    drained();
    if !ended {
        while read_some(from, &mut buffer).is_some() {}
    }
}

/// Returns whether the pipe is at its end.
fn copy_output(from: &File, exited: &Once, port: &Port, buffer: &mut [u8]) -> bool {
    let mut gone = false;
    loop {
        let (readable, exited_now) = if gone {
            (ready(&mut [PollFd::new(from, PollFlags::IN)], Some(&NOW)).0, false)
        } else {
            let mut fds = [PollFd::new(from, PollFlags::IN), PollFd::new(&exited.0, PollFlags::IN)];
            ready(&mut fds, None)
        };
        if readable {
            match read_some(from, buffer) {
                Some(count) => port.send(buffer.get(..count).unwrap_or_default()),
                None => return true,
            }
        } else if gone {
            return false;
        }
        gone |= exited_now;
    }
}

/// Reads what there is; none at the end. A terminal whose last user has gone fails with `EIO`.
fn read_some(mut from: &File, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match from.read(buffer) {
            Ok(0) => return None,
            Ok(count) => return Some(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready(&mut [PollFd::new(from, PollFlags::IN)], None);
            }
            Err(_) => return None,
        }
    }
}

/// What ends a process's input, besides the host.
#[derive(Debug)]
pub(crate) struct InputEnds {
    /// The process has ended.
    pub(crate) exited: Arc<Once>,
    /// Someone asked for the end.
    pub(crate) close: Arc<Once>,
}

/// Copies the host's input to a process until its end. A terminal has none: it waits for the next
/// connection. `to` doesn't block.
pub(crate) fn pump_input(port: &Port, to: &File, ends: &InputEnds, is_terminal: bool) {
    let mut seen = 0;
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Some((number, connection)) = port.next(seen) {
        seen = number;
        let end = copy_input(&connection, to, ends, &mut buffer);
        if !is_terminal || end == InputEnd::Process {
            return;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputEnd {
    Host,
    Process,
}

fn copy_input(from: &File, to: &File, ends: &InputEnds, buffer: &mut [u8]) -> InputEnd {
    let mut closing = false;
    loop {
        let timeout = closing.then_some(&NOW);
        let mut fds = [
            PollFd::new(from, PollFlags::IN),
            PollFd::new(&ends.exited.0, PollFlags::IN),
            PollFd::new(&ends.close.0, PollFlags::IN),
        ];
        let (readable, exited) = ready(&mut fds, timeout);
        let asked = fds.last().is_some_and(|fd| !fd.revents().is_empty());
        if exited {
            return InputEnd::Process;
        }
        if readable {
            let Some(count) = read_some(from, buffer) else { return InputEnd::Host };
            if write_all(to, buffer.get(..count).unwrap_or_default(), &ends.exited).is_err() {
                return InputEnd::Process;
            }
        } else if closing {
            return InputEnd::Host;
        }
        closing |= asked;
    }
}

fn write_all(mut to: &File, mut bytes: &[u8], exited: &Once) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds =
                    [PollFd::new(to, PollFlags::OUT), PollFd::new(&exited.0, PollFlags::IN)];
                if ready(&mut fds, None).1 {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Polls, and tells which of the first two is ready (or broken, which reading tells).
fn ready(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> (bool, bool) {
    // An interrupted poll says that nothing is ready: the caller polls again.
    if poll(fds, timeout).is_err() {
        return (false, false);
    }
    let is_ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
    (is_ready(0), is_ready(1))
}

/// Makes a descriptor's calls return rather than wait.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests;
