//! All connections of one device: who gets a packet, and whose turn it is to send one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events};
use sys::memory::{GuestRam, GuestSlice, TrackedSlice};
use virtio_vsock::packet::{PKT_HEADER_SIZE, VsockPacket};
use zerocopy::IntoBytes;

use super::connection::{Connection, Fate, Limits, Outgoing, Ports};
use super::host::{Greeted, Greeting, HostSocket, stream_events};
use super::metrics::VsockMetrics;
use super::packet::{GuestPacket, HOST_CID, Header, Op, TYPE_STREAM};
use crate::log_limit::LogLimit;
use crate::virtio::deadline::Deadlines;

/// How many host programs may be between connecting and the end of their first line. One more, and
/// the one that took longest has to go.
pub(super) const MAX_GREETINGS: usize = 64;
/// How many resets of connections that aren't there may wait for the guest to take them. More are
/// lost: it has to be sending nonsense without receiving anything.
const MAX_RESETS: usize = 256;
/// The first port that host programs' connections come from.
pub(super) const FIRST_HOST_PORT: u32 = 1 << 30;
/// The first of the numbers that epoll's events for streams are marked with; others are below.
pub(super) const FIRST_TOKEN: u32 = 16;

/// The answer to a packet that belongs to no connection.
#[derive(Clone, Copy, Debug)]
struct Reset {
    src_cid: u64,
    ports: Ports,
    socket_type: u16,
}

/// The connections between one guest and the host's programs.
pub(super) struct Muxer {
    cid: u64,
    host: Arc<HostSocket>,
    limits: Limits,
    connections: HashMap<Ports, Connection>,
    /// Which connection an event is for, by its token.
    streams: HashMap<u32, Ports>,
    /// By their tokens, which go up: the first is the oldest.
    greetings: BTreeMap<u32, Greeting>,
    next_token: u32,
    /// The host's port of the next connection to the guest. It outlives this muxer: a guest may
    /// still be closing connections of before, and would take a new one for one of them.
    next_port: Arc<AtomicU32>,
    /// Connections that may have something to send, in the order of their turns.
    turns: VecDeque<Ports>,
    resets: VecDeque<Reset>,
    deadlines: Deadlines,
    /// An edge said that programs wait to be accepted, and they haven't all been.
    acceptable: bool,
    metrics: Arc<VsockMetrics>,
}

impl Muxer {
    /// Creates a muxer without connections, for the guest with address `cid`.
    ///
    /// # Errors
    /// When the host has no timers left.
    pub(super) fn new(
        cid: u64,
        host: Arc<HostSocket>,
        limits: Limits,
        next_port: Arc<AtomicU32>,
        metrics: Arc<VsockMetrics>,
    ) -> io::Result<Self> {
        Ok(Self {
            cid,
            host,
            limits,
            connections: HashMap::new(),
            streams: HashMap::new(),
            greetings: BTreeMap::new(),
            next_token: FIRST_TOKEN,
            next_port,
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            deadlines: Deadlines::new()?,
            acceptable: false,
            metrics,
        })
    }

    /// Returns the file descriptor that becomes readable when [`expire`](Self::expire) is due.
    pub(super) fn timer_fd(&self) -> RawFd {
        self.deadlines.raw_fd()
    }

    /// Returns the socket that host programs connect to.
    pub(super) fn host(&self) -> &HostSocket {
        &self.host
    }

    /// Returns the device's counters.
    pub(super) fn metrics(&self) -> &VsockMetrics {
        &self.metrics
    }

    /// Takes note that programs wait to be accepted.
    pub(super) fn note_acceptable(&mut self) {
        self.acceptable = true;
    }

    /// Accepts host programs that wait: all, or as many as a call takes; then, as when out of file
    /// descriptors, the next call goes on.
    pub(super) fn accept(&mut self, ops: &mut EventOps) {
        static LOG: LogLimit = LogLimit::new();
        for _ in 0..MAX_GREETINGS {
            if !self.acceptable {
                return;
            }
            match self.host.accept() {
                Ok(Some(stream)) => {
                    if self.greetings.len() >= MAX_GREETINGS
                        && let Some((token, oldest)) = self.greetings.pop_first()
                    {
                        self.refuse_greeting(token, oldest, ops);
                    }
                    let token = self.take_token();
                    let greeting = Greeting::new(stream);
                    if watch(greeting.raw_fd(), token, ops) {
                        self.greetings.insert(token, greeting);
                    }
                }
                Ok(None) => self.acceptable = false,
                Err(error) => {
                    LOG.warn(format_args!("can't accept a connection to the guest: {error}"));
                    return;
                }
            }
        }
    }

    /// Handles an event of a host program's stream.
    pub(super) fn handle_events(&mut self, token: u32, events: EventSet, ops: &mut EventOps) {
        if let Some(greeting) = self.greetings.remove(&token) {
            self.greet(token, greeting, ops);
        } else if let Some(&ports) = self.streams.get(&token)
            && let Some(connection) = self.connections.get_mut(&ports)
        {
            let fate = connection.handle_events(events);
            self.settle(ports, fate, ops);
        }
    }

    /// Resets connections that are out of time.
    pub(super) fn expire(&mut self, ops: &mut EventOps) {
        self.deadlines.acknowledge();
        let now = Instant::now();
        let due = |connection: &Connection| connection.deadline().is_some_and(|at| at <= now);
        let late: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| due(connection))
            .map(|(&ports, connection)| (ports, connection.is_forgotten()))
            .collect();
        for (ports, forgotten) in late {
            let fate = if forgotten { Fate::Gone } else { Fate::Reset };
            self.settle(ports, fate, ops);
        }
        for connection in self.connections.values() {
            self.deadlines.include(connection.deadline());
        }
    }

    /// Moves every deadline: time has passed in which the guest stood still.
    pub(super) fn postpone(&mut self, by: Duration) {
        for connection in self.connections.values_mut() {
            connection.postpone(by);
        }
    }

    /// Handles a packet from the guest.
    pub(super) fn handle_packet(
        &mut self,
        packet: &GuestPacket,
        memory: &GuestRam,
        ops: &mut EventOps,
    ) {
        let header = &packet.header;
        if header.src_cid.get() != self.cid {
            // Whoever this pretends to be, no answer would reach it.
            self.metrics.bad_packets.add(1);
            return;
        }
        let op = Op::from_number(header.op.get());
        if header.dst_cid.get() != HOST_CID || header.socket_type.get() != TYPE_STREAM {
            self.metrics.bad_packets.add(1);
            return self.answer_reset(header);
        }
        let ports = Ports { host: header.dst_port.get(), guest: header.src_port.get() };
        if op == Some(Op::Request)
            && self.connections.get(&ports).is_some_and(Connection::is_forgotten)
        {
            self.settle(ports, Fate::Gone, ops);
        }
        let Some(connection) = self.connections.get_mut(&ports) else {
            return match op {
                Some(Op::Request) => self.connect(ports, header, ops),
                _ => self.answer_reset(header),
            };
        };
        let fate = match op {
            Some(op) => connection.handle_packet(op, packet, memory),
            None => Fate::Reset,
        };
        if op == Some(Op::Rw) && fate == Fate::Alive {
            self.metrics.guest_bytes.add(usize::try_from(header.len.get()).unwrap_or(0));
        }
        self.settle(ports, fate, ops);
    }

    /// Tells whether there may be packets for the guest.
    pub(super) fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.turns.is_empty()
    }

    /// Writes the next packet for the guest to `packet`, with a payload in `room`. Returns how many
    /// bytes it has in all; none if there was no packet after all.
    pub(super) fn next_packet(
        &mut self,
        packet: &mut VsockPacket<'_, TrackedSlice<'_>>,
        room: &GuestSlice<'_>,
        ops: &mut EventOps,
    ) -> Option<u32> {
        let header = match self.resets.pop_front() {
            Some(reset) => self.reset_header(reset),
            None => self.next_connection_packet(room, ops)?,
        };
        packet.set_header_from_raw(header.as_bytes()).ok()?;
        u32::try_from(PKT_HEADER_SIZE).ok()?.checked_add(header.len.get())
    }

    /// Closes everything, for a driver that broke its queues.
    pub(super) fn close(&mut self, ops: &mut EventOps) {
        for connection in self.connections.values() {
            unwatch(connection.raw_fd(), ops);
        }
        for greeting in self.greetings.values() {
            unwatch(greeting.raw_fd(), ops);
        }
        self.connections.clear();
        self.greetings.clear();
        self.streams.clear();
        self.turns.clear();
        self.resets.clear();
    }

    fn next_connection_packet(
        &mut self,
        room: &GuestSlice<'_>,
        ops: &mut EventOps,
    ) -> Option<Header> {
        while let Some(ports) = self.turns.pop_front() {
            let Some(connection) = self.connections.get_mut(&ports) else { continue };
            connection.queued = false;
            let (fate, header) = match connection.next_packet(room) {
                Outgoing::Packet { op, len, flags } => {
                    let (buf_alloc, fwd_cnt) = connection.announce_credit();
                    self.metrics.host_bytes.add(usize::try_from(len).unwrap_or(0));
                    let header = Header {
                        len: len.into(),
                        flags: flags.into(),
                        buf_alloc: buf_alloc.into(),
                        fwd_cnt: fwd_cnt.into(),
                        ..self.header(ports, op)
                    };
                    (Fate::Alive, Some(header))
                }
                Outgoing::Nothing => (Fate::Alive, None),
                Outgoing::Dead(fate) => (fate, None),
            };
            self.settle(ports, fate, ops);
            if header.is_some() {
                return header;
            }
            if let Some(reset) = self.resets.pop_front() {
                return Some(self.reset_header(reset));
            }
        }
        None
    }

    fn header(&self, ports: Ports, op: Op) -> Header {
        Header {
            src_cid: HOST_CID.into(),
            dst_cid: self.cid.into(),
            src_port: ports.host.into(),
            dst_port: ports.guest.into(),
            len: 0.into(),
            socket_type: TYPE_STREAM.into(),
            op: (op as u16).into(),
            flags: 0.into(),
            buf_alloc: 0.into(),
            fwd_cnt: 0.into(),
        }
    }

    fn reset_header(&self, reset: Reset) -> Header {
        self.metrics.resets.add(1);
        Header {
            src_cid: reset.src_cid.into(),
            socket_type: reset.socket_type.into(),
            ..self.header(reset.ports, Op::Rst)
        }
    }

    /// Answers a packet that belongs to no connection, unless it is a reset itself.
    fn answer_reset(&mut self, header: &Header) {
        if header.op.get() != Op::Rst as u16 {
            self.push_reset(Reset {
                src_cid: header.dst_cid.get(),
                ports: Ports { host: header.dst_port.get(), guest: header.src_port.get() },
                socket_type: header.socket_type.get(),
            });
        }
    }

    fn push_reset(&mut self, reset: Reset) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(reset);
        }
    }

    /// Connects the guest to the host's program that serves the port.
    fn connect(&mut self, ports: Ports, request: &Header, ops: &mut EventOps) {
        let token = self.take_token();
        let room = self.connections.len() < self.limits.connections;
        let stream = if room { self.host.connect(ports.host).ok() } else { None };
        let connection = stream
            .map(|stream| Connection::from_guest(ports, stream, token, self.limits, request))
            .filter(|connection| watch(connection.raw_fd(), token, ops));
        match connection {
            Some(connection) => self.insert(ports, connection, ops),
            None => {
                self.metrics.refused.add(1);
                self.answer_reset(request);
            }
        }
    }

    /// Reads on in a program's first line, and connects it to the guest when it's whole.
    fn greet(&mut self, token: u32, mut greeting: Greeting, ops: &mut EventOps) {
        let port = match greeting.advance() {
            Greeted::Waiting => {
                self.greetings.insert(token, greeting);
                return;
            }
            Greeted::Port(port) if self.connections.len() < self.limits.connections => port,
            _ => return self.refuse_greeting(token, greeting, ops),
        };
        let ports = self.free_ports(port);
        let stream = greeting.into_stream();
        let connection = Connection::from_host(ports, stream, token, self.limits);
        // Edges that came during the greeting are reported again.
        rewatch(connection.raw_fd(), token, ops);
        self.insert(ports, connection, ops);
    }

    fn refuse_greeting(&mut self, token: u32, greeting: Greeting, ops: &mut EventOps) {
        static LOG: LogLimit = LogLimit::new();
        LOG.warn(format_args!("a program's connection {token} to the guest is refused"));
        self.metrics.refused.add(1);
        unwatch(greeting.raw_fd(), ops);
    }

    fn insert(&mut self, ports: Ports, connection: Connection, ops: &mut EventOps) {
        self.metrics.opened.add(1);
        self.streams.insert(connection.token, ports);
        self.connections.insert(ports, connection);
        self.settle(ports, Fate::Alive, ops);
    }

    /// Brings the tables in line with what became of the connection.
    fn settle(&mut self, ports: Ports, fate: Fate, ops: &mut EventOps) {
        let Some(connection) = self.connections.get_mut(&ports) else { return };
        if fate == Fate::Alive {
            if !connection.queued && connection.has_packet() {
                connection.queued = true;
                self.turns.push_back(ports);
            }
            self.deadlines.include(connection.deadline());
            return;
        }
        unwatch(connection.raw_fd(), ops);
        self.streams.remove(&connection.token);
        self.connections.remove(&ports);
        self.turns.retain(|&turn| turn != ports);
        if fate == Fate::Reset {
            self.push_reset(Reset { src_cid: HOST_CID, ports, socket_type: TYPE_STREAM });
        }
    }

    /// Returns ports for a new connection to the guest's port.
    fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let host = self.next_port.load(Ordering::Relaxed);
            let ports = Ports { host, guest };
            let next = host.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            self.next_port.store(next, Ordering::Relaxed);
            if !self.connections.contains_key(&ports) {
                return ports;
            }
        }
    }

    fn take_token(&mut self) -> u32 {
        loop {
            let token = self.next_token;
            self.next_token = token.checked_add(1).unwrap_or(FIRST_TOKEN);
            if !self.streams.contains_key(&token) && !self.greetings.contains_key(&token) {
                return token;
            }
        }
    }
}

fn stream_event(fd: RawFd, token: u32) -> Events {
    Events::with_data_raw(fd, token, stream_events())
}

fn watch(fd: RawFd, token: u32, ops: &mut EventOps) -> bool {
    static LOG: LogLimit = LogLimit::new();
    let result = ops.add(stream_event(fd, token));
    if let Err(error) = &result {
        LOG.warn(format_args!("can't wait for a program's connection: {error}"));
    }
    result.is_ok()
}

fn rewatch(fd: RawFd, token: u32, ops: &EventOps) {
    if let Err(error) = ops.modify(stream_event(fd, token)) {
        log::error!("can't wait for a program's connection: {error}");
    }
}

/// Must come before the file descriptor is closed: the event loop doesn't forgive events of one
/// that it doesn't know, nor a known one that was closed and is added again.
fn unwatch(fd: RawFd, ops: &mut EventOps) {
    if let Err(error) = ops.remove(stream_event(fd, 0)) {
        log::error!("can't stop waiting for a program's connection: {error}");
    }
}
