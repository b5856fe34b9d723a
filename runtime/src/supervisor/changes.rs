//! What the process has changed, kept for whoever asked for that: a build's `RUN`.
//!
//! Only the agent can tell while the VM lives, and it knows all of it once the process has ended.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use agent_proto::{Client, Request, Stream};

use super::shared::Shared;
use crate::RuntimeError;
use crate::agent::{AGENT_TIMEOUT, agent_error};
use crate::error::{file, system};

/// The largest archive that a guest may send, in bytes: twice what its disk holds.
const MAX_BYTES: u64 = 128 << 30;

/// Writes what has changed to the container's directory, whole or not at all.
pub(super) fn keep(shared: &Shared, client: &Client) -> Result<(), RuntimeError> {
    let transfer = client.transfer(&Request::CopyLayer { freeze: false }).map_err(agent_error)?;
    let stream = Stream::Transfer { transfer };
    let stream = Client::stream(&shared.paths.vsock(), stream, AGENT_TIMEOUT);
    let mut stream = stream.map_err(agent_error)?.take(MAX_BYTES);
    let path = shared.paths.changes();
    let unfinished = path.with_extension("tmp");
    let mut archive = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(file("create", &unfinished))?;
    io::copy(&mut stream, &mut archive).map_err(system("read what the container changed"))?;
    if stream.limit() == 0 {
        return Err(RuntimeError::invalid("the container changed more than its disk holds"));
    }
    client.finish(transfer).map_err(agent_error)?;
    fs::rename(&unfinished, &path).map_err(file("create", &path))
}
