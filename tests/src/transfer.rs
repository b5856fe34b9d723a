//! Data to send, its hash, and connections that are never waited for without an end.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::PATIENCE;

/// Returns so many random bytes.
pub fn random_bytes(count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Returns the SHA-256 of `bytes` in hexadecimal, as `sha256sum` prints it.
pub fn sha256(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run sha256sum")?;
    child.stdin.take().context("no stdin")?.write_all(bytes)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().context("no hash")?.to_owned())
}

/// Waits for a connection.
pub fn accept_tcp(listener: &TcpListener) -> Result<TcpStream> {
    wait_readable(listener)?;
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Waits for a connection.
pub fn accept_unix(listener: &UnixListener) -> Result<UnixStream> {
    wait_readable(listener)?;
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn wait_readable(listener: &impl AsFd) -> Result<()> {
    let limit = Timespec::try_from(PATIENCE)?;
    let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&limit))?;
    ensure!(ready == 1, "nobody connected");
    Ok(())
}

/// Reads until the other side has closed.
pub fn read_to_end(mut stream: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).context("read to the connection's end")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_that_of_the_bytes() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b"").unwrap(), empty);
        assert_ne!(sha256(&random_bytes(32).unwrap()).unwrap(), empty);
    }
}
