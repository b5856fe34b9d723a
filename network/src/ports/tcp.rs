//! One TCP connection that's passed on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

const BUFFER_SIZE: usize = 32 << 10;
/// How often a connection's two directions move a buffer before others have their turn.
const ROUNDS: u32 = 8;

/// A client, and the container's side of its connection.
pub(super) struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Addresses to try if this one refuses; none once it's connected.
    connecting: Option<Vec<SocketAddr>>,
    up: Flow,
    down: Flow,
    failed: bool,
}

/// One direction.
#[derive(Default)]
struct Flow {
    buffer: Vec<u8>,
    /// What of the buffer is still to be written.
    start: usize,
    end: usize,
    /// The reading side has ended, and the writing side was told so.
    is_over: bool,
}

/// Accepts a connection, if one waits.
pub(super) fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept() {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            if error.kind() != io::ErrorKind::WouldBlock {
                log::debug!("a connection to a published port was lost: {error}");
            }
            None
        }
    }
}

/// Begins to connect.
fn begin(target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(errno) => Err(errno.into()),
    }
}

/// Begins to connect to the first of the targets that allows it; returns the others, too.
fn begin_any(targets: &[SocketAddr]) -> Option<(TcpStream, Vec<SocketAddr>)> {
    targets.iter().enumerate().find_map(|(index, target)| {
        let rest = targets.get(index + 1..).unwrap_or_default().to_vec();
        begin(*target).ok().map(|server| (server, rest))
    })
}

impl Connection {
    /// Begins to pass `client` on to the first of `targets` that takes it. Without one, the client
    /// is hung up on.
    pub(super) fn new(client: TcpStream, targets: &[SocketAddr]) -> Option<Self> {
        client.set_nonblocking(true).ok()?;
        let (server, rest) = begin_any(targets)?;
        let (up, down) = (Flow::default(), Flow::default());
        Some(Self { client, server, connecting: Some(rest), up, down, failed: false })
    }

    /// Whether nothing more will come of it.
    pub(super) fn is_over(&self) -> bool {
        self.failed || self.up.is_over && self.down.is_over
    }

    /// What is waited for on each side.
    pub(super) fn interests(&self) -> [(&TcpStream, PollFlags); 2] {
        if self.connecting.is_some() {
            return [(&self.client, PollFlags::empty()), (&self.server, PollFlags::OUT)];
        }
        let of = |read: &Flow, write: &Flow| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, read.wants_input());
            flags.set(PollFlags::OUT, write.has_output());
            flags
        };
        [(&self.client, of(&self.up, &self.down)), (&self.server, of(&self.down, &self.up))]
    }

    /// Does what can be done now.
    pub(super) fn serve(&mut self) {
        if self.connecting.is_some() && !self.finish_connecting() {
            return;
        }
        let up = self.up.pump(&self.client, &self.server);
        let down = self.down.pump(&self.server, &self.client);
        self.failed = up.is_err() || down.is_err();
    }

    /// Tells whether the container's side is connected.
    fn finish_connecting(&mut self) -> bool {
        match (sockopt::socket_error(&self.server), self.server.peer_addr()) {
            (Ok(Ok(())), Ok(_)) => {
                self.connecting = None;
                true
            }
            // Still on its way.
            (Ok(Ok(())), Err(_)) => false,
            _ => {
                match self.connecting.take().and_then(|rest| begin_any(&rest)) {
                    Some((server, rest)) => {
                        (self.server, self.connecting) = (server, Some(rest));
                    }
                    None => self.failed = true,
                }
                false
            }
        }
    }
}

impl Flow {
    fn has_output(&self) -> bool {
        self.start < self.end
    }

    fn wants_input(&self) -> bool {
        !self.is_over && !self.has_output()
    }

    /// Moves bytes until one side would have to be waited for.
    fn pump(&mut self, mut from: impl Read, mut to: &TcpStream) -> io::Result<()> {
        for _ in 0..ROUNDS {
            if self.is_over {
                return Ok(());
            }
            while let Some(output) = self.buffer.get(self.start..self.end)
                && !output.is_empty()
            {
                match to.write(output) {
                    Ok(written) => self.start += written,
                    Err(error) => return unless_it_blocks(error),
                }
            }
            self.buffer.resize(BUFFER_SIZE, 0);
            (self.start, self.end) = (0, 0);
            match from.read(&mut self.buffer) {
                // At once: nothing would wake a flow that has neither input nor output to wait for.
                Ok(0) => {
                    self.is_over = true;
                    to.shutdown(Shutdown::Write)?;
                }
                Ok(read) => self.end = read,
                Err(error) => return unless_it_blocks(error),
            }
        }
        Ok(())
    }
}

fn unless_it_blocks(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn end_is_passed_on_in_whichever_round_it_comes() {
        for buffers in 0..=2 * ROUNDS as usize {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut received, _) = listener.accept().unwrap();
            received.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let reader = thread::spawn(move || io::copy(&mut received, &mut io::sink()).unwrap());

            let sent = vec![1; buffers * BUFFER_SIZE];
            let (mut from, mut flow) = (sent.as_slice(), Flow::default());
            while flow.wants_input() || flow.has_output() {
                flow.pump(&mut from, &to).unwrap();
            }
            assert!(flow.is_over);
            assert_eq!(reader.join().unwrap(), sent.len() as u64, "{buffers} buffers");
        }
    }
}
