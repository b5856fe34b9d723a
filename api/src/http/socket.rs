//! The Unix socket that clients connect to.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::ServerError;

/// The longest path of a Unix socket, in bytes.
pub(super) const MAX_PATH_LEN: usize = 107;
/// How many clients may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// A listening socket; its file, if this process made it, vanishes when this is dropped.
#[derive(Debug)]
pub(super) struct ListeningSocket {
    pub(super) listener: UnixListener,
    /// Held for its drop.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: what is at `path` later may be someone else's.
    identity: (u64, u64),
}

impl ListeningSocket {
    /// Listens on `path`, for this user alone. The file that a dead process left there is replaced.
    ///
    /// # Errors
    /// [`ServerError`], naming the path.
    pub(super) fn bind(path: &Path) -> Result<Self, ServerError> {
        if path.as_os_str().len() > MAX_PATH_LEN {
            return Err(ServerError::PathTooLong { path: path.to_owned(), longest: MAX_PATH_LEN });
        }
        let failed = |source: io::Error| ServerError::Bind { path: path.to_owned(), source };
        let socket = bind_or_replace(path)?;
        let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
        let identity = (metadata.dev(), metadata.ino());
        let file = SocketFile { path: path.to_owned(), identity };
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, _file: Some(file) })
    }

    /// Takes over a socket that somebody else bound and listens on.
    ///
    /// # Errors
    /// [`ServerError::NotListening`] when it is no such socket.
    pub(super) fn inherit(socket: OwnedFd) -> Result<Self, ServerError> {
        let listens = rustix::net::getsockname(&socket)
            .map(|address| address.address_family() == AddressFamily::UNIX)
            .and_then(|unix| Ok(unix && rustix::net::sockopt::socket_acceptconn(&socket)?));
        if listens != Ok(true) {
            return Err(ServerError::NotListening);
        }
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true).map_err(ServerError::Inherit)?;
        Ok(Self { listener, _file: None })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("can't remove the socket {}: {error}", self.path.display());
        }
    }
}

fn bind_or_replace(path: &Path) -> Result<OwnedFd, ServerError> {
    let failed = |error: Errno| ServerError::Bind { path: path.to_owned(), source: error.into() };
    // Of two processes that find the same left-over, one could remove what the other has just
    // bound, or is about to listen on: they take turns until this is closed.
    let _turn = lock_parent(path).map_err(failed)?;
    match bind(path) {
        Err(Errno::ADDRINUSE) => {}
        outcome => return outcome.map_err(failed),
    }
    remove_left_over(path)?;
    bind(path).map_err(|error| match error {
        Errno::ADDRINUSE => ServerError::InUse { path: path.to_owned() },
        error => failed(error),
    })
}

/// Locks the directory of `path`, as long as it is open. Where directories can't be locked (some
/// network file systems), it goes without.
fn lock_parent(path: &Path) -> rustix::io::Result<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = rustix::fs::open(directory, flags, Mode::empty())?;
    if let Err(error) = rustix::fs::flock(&lock, FlockOperation::LockExclusive) {
        log::debug!("can't lock {}: {error}", directory.display());
    }
    Ok(lock)
}

/// Removes the socket at `path` if nobody listens on it.
fn remove_left_over(path: &Path) -> Result<(), ServerError> {
    let failed = |source: io::Error| ServerError::Bind { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(ServerError::NotASocket { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    let socket = new_socket(SocketFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
    let address = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
    match rustix::net::connect(&socket, &address) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        // Somebody listens, even where too many clients wait for it (EAGAIN), or it isn't ours to
        // connect to (EACCES).
        _ => return Err(ServerError::InUse { path: path.to_owned() }),
    }
    log::info!("replacing {}, which a process that is gone left behind", path.display());
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

fn bind(path: &Path) -> rustix::io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = new_socket(SocketFlags::empty())?;
    // Linux makes the file with the socket's own mode (less the umask). There is no moment at
    // which others could connect, and no umask to change, which all threads would share.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn new_socket(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}
