//! HTTP over one TCP connection.

use std::time::Instant;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

use super::Mmds;
use super::http::{MAX_HEAD_SIZE, Parsed, Response, parse};

/// One connection: requests in, one answer at a time out. The next request waits until the last
/// byte of the answer before it has gone to TCP.
pub(super) struct Connection {
    handle: SocketHandle,
    /// The beginning of the next request.
    input: Vec<u8>,
    /// How much of what comes next is a body, which nobody reads.
    skip: usize,
    output: Vec<u8>,
    /// How much of `output` has gone to TCP.
    sent: usize,
    /// Nothing more is read.
    closing: bool,
    last_active: Instant,
}

impl Connection {
    /// Creates the HTTP side of the socket behind `handle`.
    pub(super) fn new(handle: SocketHandle, now: Instant) -> Self {
        Self {
            handle,
            input: Vec::new(),
            skip: 0,
            output: Vec::new(),
            sent: 0,
            closing: false,
            last_active: now,
        }
    }

    /// Returns the socket's handle.
    pub(super) fn handle(&self) -> SocketHandle {
        self.handle
    }

    /// Returns when bytes went through last.
    pub(super) fn last_active(&self) -> Instant {
        self.last_active
    }

    /// Moves what can be moved: answers into `socket`, requests out of it.
    pub(super) fn serve(&mut self, socket: &mut Socket<'_>, mmds: &Mmds, now: Instant) {
        loop {
            self.send(socket, now);
            if !self.output.is_empty() {
                return;
            }
            if self.closing {
                // What it still says is read, so that its end is seen.
                self.skip = usize::MAX;
                self.receive(socket, now);
                socket.close();
                return;
            }
            self.receive(socket, now);
            if !self.answer_next(mmds, now) {
                break;
            }
        }
        if socket.state() == State::CloseWait && !socket.can_recv() {
            socket.close();
        }
    }

    fn send(&mut self, socket: &mut Socket<'_>, now: Instant) {
        let rest = self.output.get(self.sent..).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        // An error means that the connection is gone, and with it whoever waits for the rest.
        let sent = if socket.may_send() { socket.send_slice(rest) } else { Ok(rest.len()) };
        let sent = sent.unwrap_or(rest.len());
        if sent > 0 {
            self.last_active = now;
        }
        self.sent = self.sent.saturating_add(sent);
        if self.sent >= self.output.len() {
            self.output = Vec::new();
            self.sent = 0;
        }
    }

    fn receive(&mut self, socket: &mut Socket<'_>, now: Instant) {
        while socket.can_recv() {
            let skip = self.skip;
            let room = MAX_HEAD_SIZE.saturating_sub(self.input.len());
            let taken = socket.recv(|bytes| {
                let wanted = if skip > 0 { skip } else { room };
                let bytes = bytes.get(..wanted).unwrap_or(bytes);
                if skip == 0 {
                    self.input.extend_from_slice(bytes);
                }
                (bytes.len(), bytes.len())
            });
            let Some(taken) = taken.ok().filter(|&taken| taken > 0) else { return };
            self.skip = skip.saturating_sub(taken);
            self.last_active = now;
        }
    }

    /// Answers the request at the start of the input; tells whether there was one.
    fn answer_next(&mut self, mmds: &Mmds, now: Instant) -> bool {
        match parse(&self.input) {
            Parsed::Incomplete => return false,
            Parsed::Request { request, head_size, body_size } => {
                let here = head_size.saturating_add(body_size).min(self.input.len());
                self.skip = head_size.saturating_add(body_size).saturating_sub(here);
                self.input.drain(..here);
                let response = mmds.answer(&request, now);
                self.output = response.encode(request.minor_version, request.keep_alive);
                self.closing = !request.keep_alive;
            }
            Parsed::Invalid(status) => {
                self.input = Vec::new();
                self.output = Response::text(status, status.reason()).encode(1, false);
                self.closing = true;
            }
        }
        true
    }
}
