//! Unix sockets on the host.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use vmm_sys_util::epoll::EventSet;

use super::VsockError;

/// The longest path of a Unix socket, in bytes.
const MAX_PATH_LEN: usize = 107;
/// What is appended to the path for the largest of a guest's ports.
const LONGEST_SUFFIX: &str = "_4294967295";
/// The longest line that a host's program may begin with, its newline included.
const MAX_LINE_LEN: usize = 32;

/// What a stream is watched for. Edge-triggered: once an edge is seen it is kept in mind, so that
/// nothing has to be told to epoll when a connection can't take data for a while.
pub(super) fn stream_events() -> EventSet {
    EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED
}

/// The listening socket that host programs connect to, which vanishes when this is dropped.
#[derive(Debug)]
pub(super) struct HostSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what is at `path` later may be someone else's.
    identity: (u64, u64),
}

impl HostSocket {
    /// Listens on `path`, where nothing may be yet.
    ///
    /// # Errors
    /// [`VsockError`], naming the path.
    pub(super) fn bind(path: &Path) -> Result<Self, VsockError> {
        let longest = MAX_PATH_LEN.saturating_sub(LONGEST_SUFFIX.len());
        if path.as_os_str().len() > longest {
            return Err(VsockError::PathTooLong { path: path.to_owned(), longest });
        }
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => VsockError::SocketExists { path: path.to_owned() },
            _ => VsockError::Bind { path: path.to_owned(), source },
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
        let identity = (metadata.dev(), metadata.ino());
        let socket = Self { listener, path: path.to_owned(), identity };
        socket.listener.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }

    /// Returns the listening socket.
    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Accepts a host program's connection, non-blocking; none if nobody waits.
    ///
    /// # Errors
    /// When the process is out of file descriptors or memory; the program goes on waiting.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Connects to the host program that serves `port` for the guest, without waiting for it.
    ///
    /// # Errors
    /// When nobody listens there, or too many wait already.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket.into())
    }
}

impl Drop for HostSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("can't remove the socket {}: {error}", self.path.display());
        }
    }
}

/// What a host's program has said so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeted {
    /// Not a whole line yet.
    Waiting,
    /// It wants to be connected to this port of the guest.
    Port(u32),
    /// It hung up, or said something else.
    Refused,
}

/// A host program's connection whose first line, `CONNECT port`, is awaited.
#[derive(Debug)]
pub(super) struct Greeting {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Greeting {
    /// Waits for a line on `stream`.
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, line: Vec::new() }
    }

    /// Returns the file descriptor, as epoll knows it.
    pub(super) fn raw_fd(&self) -> i32 {
        self.stream.as_raw_fd()
    }

    /// Gives the connection back, read up to the end of its line.
    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Reads what came of the line, and nothing behind its end: that is for the guest.
    pub(super) fn advance(&mut self) -> Greeted {
        loop {
            let mut bytes = [0; MAX_LINE_LEN];
            let room = MAX_LINE_LEN.saturating_sub(self.line.len());
            let Some(target) = bytes.get_mut(..room).filter(|room| !room.is_empty()) else {
                return Greeted::Refused;
            };
            let seen = match rustix::net::recv(&self.stream, target, RecvFlags::PEEK) {
                Ok((seen, _)) if seen > 0 => seen,
                Err(rustix::io::Errno::AGAIN) => return Greeted::Waiting,
                Err(rustix::io::Errno::INTR) => continue,
                // Hung up.
                _ => return Greeted::Refused,
            };
            let new = bytes.get(..seen).unwrap_or_default();
            let end = new.iter().position(|&byte| byte == b'\n');
            let taken = end.map_or(seen, |end| end.saturating_add(1));
            self.line.extend(new.iter().take(taken));
            let Some(consumed) = bytes.get_mut(..taken) else { return Greeted::Refused };
            match rustix::net::recv(&self.stream, consumed, RecvFlags::empty()) {
                Ok((len, _)) if len == taken => {}
                _ => return Greeted::Refused,
            }
            if end.is_some() {
                return parse_line(&self.line).map_or(Greeted::Refused, Greeted::Port);
            }
        }
    }
}

/// Returns the port in a line `CONNECT port`.
fn parse_line(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let command = words.next()?;
    let port = words.next()?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let whole = words.next().is_none() && command.eq_ignore_ascii_case("connect") && digits;
    whole.then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn greet(said: &[u8]) -> Greeted {
        let (mut program, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        program.write_all(said).unwrap();
        Greeting::new(stream).advance()
    }

    #[test]
    fn line_names_a_port_and_anything_else_is_refused() {
        assert_eq!(greet(b"CONNECT 52\n"), Greeted::Port(52));
        assert_eq!(greet(b"connect 4294967295\r\n"), Greeted::Port(u32::MAX));
        for line in [
            &b"\n"[..],
            b"CONNECT\n",
            b"CONNECT 4294967296\n",
            b"CONNECT -1\n",
            b"CONNECT +1\n",
            b"CONNECT 1 2\n",
            b"HELLO 1\n",
            b"CONNECT \xff\n",
            &[b'1'; 32],
            b"CONNECT 1                        \n",
        ] {
            assert_eq!(greet(line), Greeted::Refused, "{}", line.escape_ascii());
        }
        for line in [&b""[..], b"CONNECT 1", &[b'1'; 31]] {
            assert_eq!(greet(line), Greeted::Waiting, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn line_may_come_in_pieces_and_what_follows_stays_unread() {
        let (mut program, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut greeting = Greeting::new(stream);
        for piece in [&b"CON"[..], b"NECT", b" 7"] {
            program.write_all(piece).unwrap();
            assert_eq!(greeting.advance(), Greeted::Waiting);
        }
        program.write_all(b"\nmore\nand more").unwrap();
        assert_eq!(greeting.advance(), Greeted::Port(7));
        let mut rest = [0; 13];
        greeting.into_stream().read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"more\nand more");
    }

    #[test]
    fn program_that_hangs_up_is_refused() {
        let (program, stream) = UnixStream::pair().unwrap();
        drop(program);
        assert_eq!(Greeting::new(stream).advance(), Greeted::Refused);
    }

    #[test]
    fn socket_is_removed_with_its_owner_unless_it_was_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v.sock");
        drop(HostSocket::bind(&path).unwrap());
        assert!(!path.exists());

        let socket = HostSocket::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "someone else's").unwrap();
        assert!(matches!(HostSocket::bind(&path), Err(VsockError::SocketExists { .. })));
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn impossible_paths_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let absent = directory.path().join("absent/v.sock");
        assert!(matches!(HostSocket::bind(&absent), Err(VsockError::Bind { .. })));
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(92)));
        assert!(matches!(HostSocket::bind(&long), Err(VsockError::PathTooLong { .. })));
    }
}
