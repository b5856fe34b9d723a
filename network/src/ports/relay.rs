//! The thread that passes on what comes to the host's sockets.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::Target;
use super::bind::Listener;
use super::tcp::{self, Connection};
use super::udp::Sessions;

/// The most connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How often UDP sessions that nobody uses are looked for, in seconds.
const SWEEP_INTERVAL_S: i64 = 30;

/// All of a container's sockets, connections and sessions.
pub(super) struct Relay {
    listeners: Vec<Listener>,
    target: Target,
    stop: OwnedFd,
    connections: Vec<Connection>,
    /// Sessions of each UDP listener, by its place among the listeners.
    sessions: Vec<Sessions>,
}

/// What a descriptor that's waited for belongs to.
#[derive(Clone, Copy)]
enum Source {
    Stop,
    Listener(usize),
    Connection(usize),
    Sessions(usize),
}

impl Relay {
    pub(super) fn new(listeners: Vec<Listener>, target: Target, stop: OwnedFd) -> Self {
        let sessions = listeners.iter().map(|_| Sessions::default()).collect();
        Self { listeners, target, stop, connections: Vec::new(), sessions }
    }

    /// Works until it's told to stop.
    pub(super) fn run(mut self) {
        loop {
            match self.wait() {
                Ok(ready) => {
                    if ready.iter().any(|source| matches!(source, Source::Stop)) {
                        return;
                    }
                    self.serve(&ready);
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    log::error!("published ports can't be served any more: {errno}");
                    return;
                }
            }
        }
    }

    /// Waits until there's something to do, and says for what.
    fn wait(&self) -> Result<Vec<Source>, Errno> {
        let mut fds = vec![PollFd::new(&self.stop, PollFlags::IN)];
        let mut sources = vec![Source::Stop];
        let is_full = self.connections.len() >= MAX_CONNECTIONS;
        for (index, listener) in self.listeners.iter().enumerate() {
            let fd = match listener {
                Listener::Tcp(..) if is_full => continue,
                Listener::Tcp(socket, _) => socket.as_fd(),
                Listener::Udp(socket, _) => socket.as_fd(),
            };
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            sources.push(Source::Listener(index));
        }
        for (index, connection) in self.connections.iter().enumerate() {
            for (socket, interest) in connection.interests() {
                // Without an interest, a hang-up would wake us for ever.
                if !interest.is_empty() {
                    fds.push(PollFd::from_borrowed_fd(socket.as_fd(), interest));
                    sources.push(Source::Connection(index));
                }
            }
        }
        for (index, sessions) in self.sessions.iter().enumerate() {
            for socket in sessions.sockets() {
                fds.push(PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN));
                sources.push(Source::Sessions(index));
            }
        }
        let has_sessions = self.sessions.iter().any(|sessions| !sessions.is_empty());
        let timeout = Timespec { tv_sec: SWEEP_INTERVAL_S, tv_nsec: 0 };
        poll(&mut fds, has_sessions.then_some(&timeout))?;
        let ready = fds.iter().zip(&sources).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, source)| *source).collect())
    }

    fn serve(&mut self, ready: &[Source]) {
        for source in ready {
            match *source {
                Source::Stop => {}
                Source::Listener(index) => self.serve_listener(index),
                Source::Connection(index) => {
                    if let Some(connection) = self.connections.get_mut(index) {
                        connection.serve();
                    }
                }
                Source::Sessions(index) => {
                    let sessions = self.sessions.get_mut(index);
                    if let (Some(Listener::Udp(socket, _)), Some(sessions)) =
                        (self.listeners.get(index), sessions)
                    {
                        sessions.serve_answers(socket);
                    }
                }
            }
        }
        self.connections.retain(|connection| !connection.is_over());
        for sessions in &mut self.sessions {
            sessions.drop_idle();
        }
    }

    fn serve_listener(&mut self, index: usize) {
        match self.listeners.get(index) {
            Some(Listener::Tcp(socket, port)) => {
                while self.connections.len() < MAX_CONNECTIONS {
                    let Some((client, peer)) = tcp::accept(socket) else { return };
                    let targets = self.target.addresses(peer, *port);
                    self.connections.extend(Connection::new(client, &targets));
                }
            }
            Some(Listener::Udp(socket, port)) => {
                if let Some(sessions) = self.sessions.get_mut(index) {
                    sessions.serve_clients(socket, |peer| self.target.addresses(peer, *port)[0]);
                }
            }
            None => {}
        }
    }
}
