//! How a VM fares, found out by looking.
//!
//! ```text
//! process lives ── its API answers ──> created | running | paused
//!               └─ it doesn't ───────> unresponsive
//! process gone ─── last event ───────> stopped (why) | failed (message)
//!               └─ none: vmctl killed it ──> killed, else crashed
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use api::event::{Event, Failure, StopReason};
use api::v1::InstanceState;
use serde::Serialize;

use super::Entry;
use crate::vm::Connection;

/// How long a VMM may take to say how its VM fares.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How much of the end of an event log is read: more than a last word takes.
const TAIL_BYTES: u64 = 256 * 1024;

/// How a VM fares. As JSON, `status` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(crate) enum Status {
    /// Its VMM is just being started.
    Starting,
    /// Its VMM waits to be told what to run.
    Created,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs and devices stand still.
    Paused,
    /// Its VMM lives and doesn't answer.
    Unresponsive {
        /// What came instead of an answer.
        message: String,
    },
    /// It came to an end.
    Stopped {
        /// Why.
        reason: StopReason,
    },
    /// It couldn't be started, or couldn't go on.
    Failed {
        /// What went wrong.
        error: Failure,
    },
    /// `vmctl` killed its VMM.
    Killed,
    /// Its VMM is gone without a word.
    Crashed,
}

impl Status {
    /// The word for it, as in JSON.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Unresponsive { .. } => "unresponsive",
            Self::Stopped { .. } => "stopped",
            Self::Failed { .. } => "failed",
            Self::Killed => "killed",
            Self::Crashed => "crashed",
        }
    }

    /// The word and why, for a table.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Stopped { reason } => format!("stopped ({})", reason_words(*reason)),
            Self::Failed { error } => format!("failed ({})", error.message),
            other => other.name().to_owned(),
        }
    }

    /// Whether the VMM lives.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(
            self,
            Self::Starting
                | Self::Created
                | Self::Running
                | Self::Paused
                | Self::Unresponsive { .. }
        )
    }
}

/// A few words for the reason of an end.
pub(crate) fn reason_words(reason: StopReason) -> &'static str {
    match reason {
        StopReason::PowerOff => "powered off",
        StopReason::Reset => "reset",
        StopReason::GuestPanic => "guest panic",
        StopReason::TripleFault => "triple fault",
        StopReason::Killed => "ended at once",
        StopReason::Deadline => "ended at the deadline",
    }
}

impl Entry {
    /// Looks how the VM fares. Takes at most a little over [`ANSWER_LIMIT`].
    pub(crate) fn status(&self) -> Status {
        if self.is_starting() {
            return Status::Starting;
        }
        if self.process().is_none() {
            return self.end();
        }
        match ask(&self.record.api_socket) {
            Ok(InstanceState::NotStarted) => Status::Created,
            Ok(InstanceState::Running) => Status::Running,
            Ok(InstanceState::Paused) => Status::Paused,
            // It may have ended while it was asked.
            Err(_) if self.process().is_none() => self.end(),
            Err(message) => Status::Unresponsive { message },
        }
    }

    /// How a VM whose VMM is gone came to its end.
    fn end(&self) -> Status {
        match last_word(&self.record.events) {
            Some(status) => status,
            None if self.record.killed_unix_ms.is_some() => Status::Killed,
            None => Status::Crashed,
        }
    }
}

/// Looks how several VMs fare, at once: some may take their time.
pub(crate) fn look_at_all(entries: &[Entry]) -> Vec<Status> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = entries.iter().map(|entry| scope.spawn(|| entry.status())).collect();
        let unknown = || Status::Unresponsive { message: "the look failed".to_owned() };
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| unknown())).collect()
    })
}

fn ask(socket: &Path) -> Result<InstanceState, String> {
    let state = Connection::open(socket, ANSWER_LIMIT)
        .and_then(|mut connection| connection.instance_info());
    state.map(|info| info.state).map_err(|error| error.to_string())
}

/// The last event of a process, if it wrote one.
fn last_word(log: &Path) -> Option<Status> {
    let tail = read_tail(log).ok()?;
    let events = tail.split(|byte| *byte == b'\n').rev();
    events.filter_map(|line| Event::parse_line(line).ok()).find_map(|event| match event {
        Event::Stopped { reason, .. } => Some(Status::Stopped { reason }),
        Event::Failed { error } => Some(Status::Failed { error }),
        _ => None,
    })
}

fn read_tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(tail)
}
