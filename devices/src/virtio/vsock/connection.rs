//! One connection between a program on the host and one in the guest.
//!
//! ```text
//!              RESPONSE                    RST, or both shut down,
//!  Requested ───────────▶ Established ─────────────────────────────▶ Flushing
//!                              ▲            with bytes for the host      │
//!   a guest's REQUEST ─────────┘                                         ▼
//!                                    gone: flushed, reset, or out of time
//! ```
//!
//! Data goes straight from one side to the other. What the host's program doesn't take waits in a
//! bounded buffer, whose room is the credit that the guest gets (VIRTIO 1.3 §5.10.6.3).

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use event_manager::EventSet;
use sys::memory::{GuestRam, GuestSlice};
use vm_memory::{ReadVolatile, VolatileMemoryError};

use super::buffer::{SEND_BUFFER_SIZE, SendBuffer};
use super::packet::{
    GuestPacket, Header, MAX_PAYLOAD, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND,
};

/// How much room the guest doesn't know of before it's told without having asked.
const CREDIT_UPDATE_THRESHOLD: u32 = SEND_BUFFER_SIZE / 4;

/// How many connections there can be, and how long a side may take to do what the other waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// At once.
    pub(super) connections: usize,
    /// For the guest to answer a request to connect.
    pub(super) connect: Duration,
    /// For the guest to confirm an end, and for the host's program to take any of its last bytes.
    pub(super) linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let ten_seconds = Duration::from_secs(10);
        Self { connections: 1023, connect: ten_seconds, linger: ten_seconds }
    }
}

/// The two ports that make a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Fate {
    /// It goes on.
    Alive,
    /// It ends, and the guest must be told.
    Reset,
    /// It ends, and the guest knows or never heard of it.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The host's program waits for the guest's answer.
    Requested,
    Established,
    /// The guest is done; the host's program has still to take what is buffered. Ends with the
    /// given fate.
    Flushing(Fate),
}

/// What has to be sent to the guest, apart from data.
#[derive(Debug, Default)]
struct Pending {
    request: bool,
    response: bool,
    shutdown: u32,
    credit_update: bool,
}

/// What [`Connection::next_packet`] found to send.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// This packet; its payload, if it has one, is written already.
    Packet { op: Op, len: u32, flags: u32 },
    /// Nothing.
    Nothing,
    /// The end of the connection.
    Dead(Fate),
}

impl Outgoing {
    fn plain(op: Op) -> Self {
        Self::Packet { op, len: 0, flags: 0 }
    }
}

/// A connection's state, without the tables that it is listed in.
#[derive(Debug)]
pub(super) struct Connection {
    ports: Ports,
    stream: UnixStream,
    state: State,
    limits: Limits,
    deadline: Option<Instant>,
    pending: Pending,
    buffer: SendBuffer,
    /// Bytes that the host's program took of the guest's: our `fwd_cnt`.
    forwarded: u32,
    /// The value of `forwarded` that the guest knows.
    announced: u32,
    /// Bytes sent to the guest.
    sent: u32,
    guest_buf_alloc: u32,
    guest_fwd_cnt: u32,
    credit_requested: bool,
    /// Which directions the guest shut down.
    guest_shutdown: u32,
    /// An edge said that the stream can be read, and no read since that it can't.
    readable: bool,
    /// The host's program sends no more.
    ended: bool,
    /// The host's program has closed its socket.
    hung_up: bool,
    /// It is listed as having something to send.
    pub(super) queued: bool,
    /// What epoll's events for the stream are marked with.
    pub(super) token: u32,
}

impl Connection {
    /// A host's program asks for a connection to the guest's port.
    pub(super) fn from_host(ports: Ports, stream: UnixStream, token: u32, limits: Limits) -> Self {
        Self {
            deadline: Instant::now().checked_add(limits.connect),
            pending: Pending { request: true, ..Pending::default() },
            ..Self::new(ports, stream, State::Requested, token, limits)
        }
    }

    /// The guest asked for a connection by `request`, and a host's program accepted.
    pub(super) fn from_guest(
        ports: Ports,
        stream: UnixStream,
        token: u32,
        limits: Limits,
        request: &Header,
    ) -> Self {
        let mut connection = Self {
            pending: Pending { response: true, ..Pending::default() },
            ..Self::new(ports, stream, State::Established, token, limits)
        };
        connection.learn_credit(request);
        connection
    }

    fn new(ports: Ports, stream: UnixStream, state: State, token: u32, limits: Limits) -> Self {
        Self {
            ports,
            stream,
            state,
            limits,
            deadline: None,
            pending: Pending::default(),
            buffer: SendBuffer::default(),
            forwarded: 0,
            announced: 0,
            sent: 0,
            guest_buf_alloc: 0,
            guest_fwd_cnt: 0,
            credit_requested: false,
            guest_shutdown: 0,
            // An edge may have passed before anybody looked.
            readable: true,
            ended: false,
            hung_up: false,
            queued: false,
            token,
        }
    }

    /// Returns the stream's file descriptor, as epoll knows it.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Returns when the connection must be reset, if it is waiting for something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Moves the deadline, if there is one, to `by` later.
    pub(super) fn postpone(&mut self, by: Duration) {
        self.deadline = self.deadline.map(|at| at.checked_add(by).unwrap_or(at));
    }

    /// Tells that only bytes for the host keep the connection, of which the guest knows no more.
    pub(super) fn is_forgotten(&self) -> bool {
        self.state == State::Flushing(Fate::Gone)
    }

    /// Returns what a packet's header says of our side's credit, and notes that the guest knows.
    pub(super) fn announce_credit(&mut self) -> (u32, u32) {
        self.announced = self.forwarded;
        self.pending.credit_update = false;
        (SEND_BUFFER_SIZE, self.forwarded)
    }

    /// Handles a packet from the guest that isn't a REQUEST.
    pub(super) fn handle_packet(
        &mut self,
        op: Op,
        packet: &GuestPacket,
        memory: &GuestRam,
    ) -> Fate {
        self.learn_credit(&packet.header);
        match (op, self.state) {
            (Op::Rst, _) => self.finish(Fate::Gone),
            (_, State::Flushing(_)) => Fate::Alive,
            (Op::Response, State::Requested) => self.establish(),
            (Op::Rw, State::Established) => self.forward(packet, memory),
            (Op::Shutdown, State::Established) => self.shut_down(packet.header.flags.get()),
            (Op::CreditUpdate, State::Established) => Fate::Alive,
            (Op::CreditRequest, State::Established) => {
                self.pending.credit_update = true;
                Fate::Alive
            }
            _ => Fate::Reset,
        }
    }

    /// Handles what epoll says of the stream.
    pub(super) fn handle_events(&mut self, events: EventSet) -> Fate {
        self.readable |= events.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.readable = true;
            self.hung_up = true;
            if self.state == State::Requested {
                return if self.pending.request { Fate::Gone } else { Fate::Reset };
            }
            // Otherwise the end is met behind the last of its data.
            if self.ended || self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
                self.end(SHUTDOWN_BOTH);
            }
        }
        if events.contains(EventSet::OUT) { self.flush() } else { Fate::Alive }
    }

    /// Tells whether [`next_packet`](Self::next_packet) may find something to send.
    pub(super) fn has_packet(&self) -> bool {
        let Pending { request, response, shutdown, credit_update } = self.pending;
        request
            || response
            || shutdown != 0
            || credit_update
            || self.can_read() && (self.credit() > 0 || !self.credit_requested)
    }

    /// Decides what to send next, and reads its payload into `room`.
    pub(super) fn next_packet(&mut self, room: &GuestSlice<'_>) -> Outgoing {
        if std::mem::take(&mut self.pending.request) {
            return Outgoing::plain(Op::Request);
        }
        if std::mem::take(&mut self.pending.response) {
            return Outgoing::plain(Op::Response);
        }
        if self.can_read() {
            match self.next_data(room) {
                Outgoing::Nothing => {}
                data => return data,
            }
        }
        let flags = std::mem::take(&mut self.pending.shutdown);
        if flags != 0 {
            return Outgoing::Packet { op: Op::Shutdown, len: 0, flags };
        }
        if self.pending.credit_update {
            return Outgoing::plain(Op::CreditUpdate);
        }
        Outgoing::Nothing
    }

    fn next_data(&mut self, room: &GuestSlice<'_>) -> Outgoing {
        let credit = self.credit();
        if credit == 0 {
            let asked = std::mem::replace(&mut self.credit_requested, true);
            return if asked { Outgoing::Nothing } else { Outgoing::plain(Op::CreditRequest) };
        }
        match self.read(room, credit.min(MAX_PAYLOAD)) {
            Ok(0) => {
                self.end(if self.hung_up { SHUTDOWN_BOTH } else { SHUTDOWN_SEND });
                Outgoing::Nothing
            }
            Ok(len) => {
                self.sent = self.sent.wrapping_add(len);
                self.credit_requested = false;
                Outgoing::Packet { op: Op::Rw, len, flags: 0 }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Outgoing::Nothing
            }
            Err(_) => Outgoing::Dead(Fate::Reset),
        }
    }

    /// Reads up to `limit` bytes from the host's program into `room`; 0 is its end.
    fn read(&mut self, room: &GuestSlice<'_>, limit: u32) -> io::Result<u32> {
        let limit = room.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        let mut target = room.subslice(0, limit).map_err(io::Error::other)?;
        loop {
            match (&self.stream).read_volatile(&mut target) {
                Ok(len) => return Ok(u32::try_from(len).unwrap_or(u32::MAX)),
                Err(VolatileMemoryError::IOError(error))
                    if error.kind() == io::ErrorKind::Interrupted => {}
                Err(VolatileMemoryError::IOError(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    fn can_read(&self) -> bool {
        self.state == State::Established
            && self.readable
            && !self.ended
            && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    /// Returns how many bytes the guest takes. One that contradicts itself takes none.
    fn credit(&self) -> u32 {
        self.guest_buf_alloc.saturating_sub(self.sent.wrapping_sub(self.guest_fwd_cnt))
    }

    fn learn_credit(&mut self, header: &Header) {
        self.guest_buf_alloc = header.buf_alloc.get();
        self.guest_fwd_cnt = header.fwd_cnt.get();
    }

    fn establish(&mut self) -> Fate {
        self.state = State::Established;
        self.deadline = None;
        let line = format!("OK {}\n", self.ports.host);
        // Nothing was written before: it fits, unless the program has gone.
        match self.stream.write(line.as_bytes()) {
            Ok(written) if written == line.len() => Fate::Alive,
            _ => Fate::Reset,
        }
    }

    fn forward(&mut self, packet: &GuestPacket, memory: &GuestRam) -> Fate {
        let may_send = self.guest_shutdown & SHUTDOWN_SEND == 0;
        if !may_send || !self.buffer.has_room(packet.header.len.get()) {
            return Fate::Reset;
        }
        match self.buffer.send(&self.stream, memory, packet) {
            Ok(taken) => {
                self.note_forwarded(taken);
                Fate::Alive
            }
            Err(_) => Fate::Reset,
        }
    }

    fn flush(&mut self) -> Fate {
        if self.buffer.is_empty() {
            return Fate::Alive;
        }
        let Ok(taken) = self.buffer.flush(&self.stream) else { return Fate::Reset };
        self.note_forwarded(taken);
        if let State::Flushing(fate) = self.state {
            if self.buffer.is_empty() {
                return fate;
            }
            if taken > 0 {
                self.linger();
            }
        } else if self.buffer.is_empty() && self.guest_shutdown & SHUTDOWN_SEND != 0 {
            self.close_host(Shutdown::Write);
        }
        Fate::Alive
    }

    fn note_forwarded(&mut self, bytes: u32) {
        self.forwarded = self.forwarded.wrapping_add(bytes);
        let unknown = self.forwarded.wrapping_sub(self.announced);
        let wanted = self.state == State::Established && unknown >= CREDIT_UPDATE_THRESHOLD;
        self.pending.credit_update |= wanted && self.guest_shutdown & SHUTDOWN_SEND == 0;
    }

    fn shut_down(&mut self, flags: u32) -> Fate {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown == SHUTDOWN_BOTH {
            return self.finish(Fate::Reset);
        }
        if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
            self.close_host(Shutdown::Read);
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && self.buffer.is_empty() {
            self.close_host(Shutdown::Write);
        }
        Fate::Alive
    }

    /// The guest is done: ends with `fate` once the host's program has everything.
    fn finish(&mut self, fate: Fate) -> Fate {
        if self.buffer.is_empty() {
            return fate;
        }
        if !matches!(self.state, State::Flushing(_)) {
            self.linger();
        }
        self.state = State::Flushing(fate);
        self.pending = Pending::default();
        Fate::Alive
    }

    /// The host's program is done in the directions of `flags`: tells the guest.
    fn end(&mut self, flags: u32) {
        if self.state != State::Established {
            return;
        }
        self.ended = true;
        self.pending.shutdown |= flags;
        if flags == SHUTDOWN_BOTH {
            self.linger();
        }
    }

    fn linger(&mut self) {
        self.deadline = Instant::now().checked_add(self.limits.linger);
    }

    fn close_host(&self, direction: Shutdown) {
        // It fails when the program has hung up, which an event tells too.
        let _ = self.stream.shutdown(direction);
    }
}
