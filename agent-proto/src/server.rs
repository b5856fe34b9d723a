//! The agent's side of a control connection.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::message::{ClientFrame, ServerFrame};
use crate::{AgentError, ErrorKind, Event, ProtocolError, Request, Response, frame, handshake};

/// A control connection after its handshake.
#[derive(Debug)]
pub struct Accepted<R, W> {
    /// Where requests come from.
    pub requests: Requests<R>,
    /// Where answers go.
    pub responder: Responder<W>,
    /// The version that holds.
    pub version: u32,
}

/// Does the handshake on a new connection. `agent` is the agent's own version, for people.
///
/// # Errors
///
/// Fails when the connection does, or when there's no common version, which the client was told.
pub fn accept<R: Read, W: Write>(
    mut reader: R,
    mut writer: W,
    agent: &str,
) -> Result<Accepted<R, W>, ProtocolError> {
    let version = handshake::answer(&mut reader, &mut writer, agent)?;
    let responder = Responder { writer: Arc::new(Mutex::new(writer)) };
    Ok(Accepted { requests: Requests { reader }, responder, version })
}

/// The requests of a connection.
#[derive(Debug)]
pub struct Requests<R> {
    reader: R,
}

/// A request.
#[derive(Debug)]
pub struct Incoming {
    /// The id that its answer goes by.
    pub id: u64,
    /// The request, or the error to answer with.
    pub request: Result<Request, AgentError>,
}

impl<R: Read> Requests<R> {
    /// Returns the next request; none when the host has closed the connection.
    ///
    /// # Errors
    ///
    /// Fails when the connection does, or when what came has no id to answer to.
    pub fn next_request(&mut self) -> Result<Option<Incoming>, ProtocolError> {
        let frame = frame::read::<ClientFrame<serde_json::Value>>(&mut self.reader)?;
        let Some(ClientFrame { id, request }) = frame else { return Ok(None) };
        let request = serde_json::from_value(request);
        Ok(Some(Incoming { id, request: request.map_err(|e| handshake::unsupported(&e)) }))
    }
}

/// Sends answers and events. Clones share the connection; each frame is written whole.
#[derive(Debug)]
pub struct Responder<W> {
    writer: Arc<Mutex<W>>,
}

impl<W> Clone for Responder<W> {
    fn clone(&self) -> Self {
        Self { writer: Arc::clone(&self.writer) }
    }
}

impl<W: Write> Responder<W> {
    /// Answers a request. An answer too long for a frame becomes an error.
    ///
    /// # Errors
    ///
    /// Fails when the connection does.
    pub fn answer(
        &self,
        id: u64,
        result: Result<Response, AgentError>,
    ) -> Result<(), ProtocolError> {
        let bytes = match frame::encode(&ServerFrame::Answer { id, result }) {
            Err(error @ (ProtocolError::TooLong { .. } | ProtocolError::Json(_))) => {
                let error = AgentError::new(ErrorKind::Internal, error.to_string());
                frame::encode(&ServerFrame::Answer { id, result: Err(error) })?
            }
            bytes => bytes?,
        };
        self.write(&bytes)
    }

    /// Sends an event.
    ///
    /// # Errors
    ///
    /// Fails when the connection does.
    pub fn event(&self, event: Event) -> Result<(), ProtocolError> {
        self.write(&frame::encode(&ServerFrame::Event(event))?)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(bytes).and_then(|()| writer.flush()).map_err(ProtocolError::Io)
    }
}
