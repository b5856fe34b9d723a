//! Streams: what opens them, and lists that are too long for a frame.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::{
    AgentError, Change, ErrorKind, ProcessId, ProtocolError, TransferId, VERSIONS, frame, limits,
};

/// The first frame of a stream connection, from the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHeader {
    /// The version of the protocol.
    pub version: u32,
    /// What the stream is of.
    #[serde(flatten)]
    pub target: Stream,
}

/// What a stream is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "stream", rename_all = "snake_case")]
pub enum Stream {
    /// A process's standard input: the host writes.
    Stdin {
        /// Whose.
        process: ProcessId,
    },
    /// A process's standard output: the host reads.
    Stdout {
        /// Whose.
        process: ProcessId,
    },
    /// A process's standard error: the host reads.
    Stderr {
        /// Whose.
        process: ProcessId,
    },
    /// A process's terminal: both.
    Tty {
        /// Whose.
        process: ProcessId,
    },
    /// A transfer: the host writes or reads, as it asked for.
    Transfer {
        /// Which.
        transfer: TransferId,
    },
}

/// The agent's answer to [`StreamHeader`]: what is wrong with it, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamReply {
    /// What's wrong.
    pub error: Option<AgentError>,
}

/// Opens a stream on a connection to [`crate::STREAM_PORT`]. The caller sets the connection's time
/// limits.
///
/// # Errors
///
/// Fails when the connection does, and with the agent's error.
pub fn open_stream(
    connection: &mut (impl Read + Write),
    target: Stream,
) -> Result<(), ProtocolError> {
    frame::write(connection, &StreamHeader { version: VERSIONS.max, target })?;
    match frame::expect::<StreamReply>(connection)?.error {
        None => Ok(()),
        Some(error) => Err(limits::check_error(error).into()),
    }
}

/// Reads what a connection to [`crate::STREAM_PORT`] is to be, as the agent.
///
/// # Errors
///
/// Fails when the connection does. A header that can't be read is answered before that.
pub fn accept_stream(connection: &mut (impl Read + Write)) -> Result<Stream, ProtocolError> {
    let value: serde_json::Value = frame::expect(connection)?;
    let header = serde_json::from_value::<StreamHeader>(value);
    let refusal = match &header {
        Ok(header) if (VERSIONS.min..=VERSIONS.max).contains(&header.version) => None,
        Ok(header) => Some(format!("version {} of streams, of {VERSIONS}", header.version)),
        Err(error) => Some(format!("the agent can't read the stream's header: {error}")),
    };
    if let Some(message) = refusal {
        let error = AgentError::new(ErrorKind::Unsupported, message);
        answer_stream(connection, Some(error.clone()))?;
        return Err(error.into());
    }
    header.map(|header| header.target).map_err(ProtocolError::Json)
}

/// Answers a stream's header, as the agent.
///
/// # Errors
///
/// Fails when the connection does.
pub fn answer_stream(
    connection: &mut impl Write,
    error: Option<AgentError>,
) -> Result<(), ProtocolError> {
    frame::write(connection, &StreamReply { error })
}

/// Writes a list of changes to a transfer's stream, as frames.
#[derive(Debug)]
pub struct ChangeWriter<W> {
    writer: W,
    batch: Vec<Change>,
    batch_bytes: usize,
}

/// What a frame of changes holds, before JSON's escapes (at most six times as much).
const BATCH_BYTES: usize = 64 << 10;

impl<W: Write> ChangeWriter<W> {
    /// Makes a writer.
    pub fn new(writer: W) -> Self {
        Self { writer, batch: Vec::new(), batch_bytes: 0 }
    }

    /// Writes a change.
    ///
    /// # Errors
    ///
    /// Fails when the stream does.
    pub fn push(&mut self, change: Change) -> Result<(), ProtocolError> {
        self.batch_bytes += change.path.len() + 32;
        self.batch.push(change);
        if self.batch_bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what's left, and the end.
    ///
    /// # Errors
    ///
    /// Fails when the stream does.
    pub fn finish(mut self) -> Result<(), ProtocolError> {
        if !self.batch.is_empty() {
            self.flush()?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), ProtocolError> {
        self.batch_bytes = 0;
        frame::write(&mut self.writer, &std::mem::take(&mut self.batch))
    }
}

/// Reads a list of changes from a transfer's stream, with bounded memory.
#[derive(Debug)]
pub struct ChangeReader<R> {
    reader: R,
    left: usize,
}

impl<R: Read> ChangeReader<R> {
    /// Makes a reader.
    pub fn new(reader: R) -> Self {
        Self { reader, left: limits::MAX_CHANGES }
    }

    /// Returns the next few changes; none at the end.
    ///
    /// # Errors
    ///
    /// Fails when the stream ends early, or holds something else than changes or too many.
    pub fn next_batch(&mut self) -> Result<Option<Vec<Change>>, ProtocolError> {
        let mut batch: Vec<Change> = frame::expect(&mut self.reader)?;
        let count = batch.len();
        self.left = self.left.checked_sub(count).ok_or_else(|| {
            ProtocolError::Violation(format!("more than {} changes", limits::MAX_CHANGES))
        })?;
        for change in &mut batch {
            change.path = limits::clean(&change.path, limits::MAX_PATH_BYTES);
        }
        Ok(Some(batch).filter(|batch| !batch.is_empty()))
    }
}
