//! The host's side of stream sockets to a guest.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};

use crate::PATIENCE;

/// Connects to the guest's `port`; returns none if nobody listens there.
pub fn connect(socket: &Path, port: u32) -> Result<Option<BufReader<UnixStream>>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut stream = BufReader::new(stream);
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    if answer.is_empty() {
        return Ok(None);
    }
    let assigned = answer.strip_prefix("OK ").and_then(|port| port.strip_suffix('\n'));
    let assigned = assigned.with_context(|| format!("the answer {answer:?}"))?;
    assigned.parse::<u32>().with_context(|| format!("the port {assigned:?}"))?;
    Ok(Some(stream))
}
