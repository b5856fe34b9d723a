//! Connecting to a vsock port of a VM through its Unix socket.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::ProtocolError;

/// The longest answer: `OK `, a port, a line feed.
const MAX_ANSWER_BYTES: usize = 32;

/// Connects to `port` in the VM whose vsock device has the Unix socket `socket`.
///
/// The returned stream has no time limits set.
///
/// # Errors
///
/// Fails with [`ProtocolError::Closed`] when nobody listens on the port, with
/// [`ProtocolError::TimedOut`] when no answer comes within `timeout`, and when the socket can't be
/// connected to.
pub fn dial(socket: &Path, port: u32, timeout: Duration) -> Result<UnixStream, ProtocolError> {
    let deadline = Instant::now() + timeout;
    let mut stream = UnixStream::connect(socket).map_err(ProtocolError::Io)?;
    stream.set_write_timeout(Some(timeout)).map_err(ProtocolError::Io)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).map_err(ProtocolError::of_io)?;
    let answer = read_answer(&mut stream, deadline)?;
    if !answer.starts_with(b"OK ") {
        return Err(ProtocolError::Violation("the vsock device's answer isn't OK".into()));
    }
    stream.set_write_timeout(None).map_err(ProtocolError::Io)?;
    stream.set_read_timeout(None).map_err(ProtocolError::Io)?;
    Ok(stream)
}

/// Reads a line, byte by byte: what follows it is the agent's.
fn read_answer(stream: &mut UnixStream, deadline: Instant) -> Result<Vec<u8>, ProtocolError> {
    let mut answer = Vec::new();
    let mut byte = [0];
    while answer.len() < MAX_ANSWER_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Some(left).filter(|left| !left.is_zero()).ok_or(ProtocolError::TimedOut)?;
        stream.set_read_timeout(Some(left)).map_err(ProtocolError::Io)?;
        match stream.read(&mut byte) {
            Ok(0) => return Err(ProtocolError::Closed),
            Ok(_) if byte == *b"\n" => return Ok(answer),
            Ok(_) => answer.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return Err(ProtocolError::Closed);
            }
            Err(error) => return Err(ProtocolError::of_io(error)),
        }
    }
    Err(ProtocolError::Violation("the vsock device's answer is too long".into()))
}
