//! The service's end of the guest's network: ARP, and TCP by smoltcp.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    HardwareAddress, IpAddress, IpCidr, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket,
};

use super::connection::Connection;
use super::queues::FrameQueues;
use super::{Mmds, MmdsMetrics};

/// The address that frames of the service come from, as from Firecracker's.
pub const MMDS_MAC: [u8; 6] = [0x06, 0x01, 0x23, 0x45, 0x67, 0x01];

/// How many connections there can be at a time.
pub(super) const MAX_CONNECTIONS: usize = 30;
/// How long a connection may say nothing before TCP resets it.
const IDLE_TIMEOUT: time::Duration = time::Duration::from_secs(60);
/// How long a connection must have said nothing to make room for a new one.
const EVICTABLE_AFTER: Duration = Duration::from_secs(15);
/// How soon to look again at the earliest.
const MIN_WAIT: Duration = Duration::from_millis(1);

const PORT: u16 = 80;
const RX_BUFFER_SIZE: usize = 4096;
const TX_BUFFER_SIZE: usize = 8192;

/// One network card's way to the service.
///
/// It never blocks and starts no thread: whoever owns it hands it the guest's frames, takes its
/// own for the guest, and calls [`poll`](Self::poll) when a deadline has come. Its memory is
/// bounded whatever the guest sends and doesn't take.
pub struct MmdsStack {
    mmds: Arc<Mmds>,
    mac: EthernetAddress,
    ipv4: Ipv4Addr,
    start: Instant,
    interface: Interface,
    queues: FrameQueues,
    sockets: SocketSet<'static>,
    /// The socket that the next connection gets.
    listener: Option<SocketHandle>,
    connections: Vec<Connection>,
}

impl MmdsStack {
    /// Creates a stack that answers for `ipv4` as `mac`.
    pub fn new(mmds: Arc<Mmds>, mac: [u8; 6], ipv4: Ipv4Addr) -> Self {
        let (start, mac) = (Instant::now(), EthernetAddress(mac));
        let mut queues = FrameQueues::new(mac);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed();
        let mut interface = Interface::new(config, &mut queues, time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // There is room for one.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(ipv4), 32));
        });
        // Wherever the guest's address is, it is behind the card. There is room for one route.
        let _ = interface.routes_mut().add_default_ipv4_route(ipv4);
        let mut stack = Self {
            mmds,
            mac,
            ipv4,
            start,
            interface,
            queues,
            sockets: SocketSet::new(Vec::new()),
            listener: None,
            connections: Vec::new(),
        };
        stack.listen();
        stack
    }

    /// Tells whether `frame`, of which the first [`FRAME_HEAD_SIZE`](super::FRAME_HEAD_SIZE) bytes
    /// are enough, is for the service: IPv4 to its address or ARP about it, sent to anybody.
    pub fn is_for_me(&self, frame: &[u8]) -> bool {
        is_for(self.ipv4, frame)
    }

    /// Takes a frame of the guest, which may be a large segment and lack TCP's checksum.
    pub fn receive(&mut self, frame: &[u8]) {
        self.receive_at(frame, Instant::now());
    }

    /// Does what its time has come for.
    pub fn poll(&mut self) {
        self.poll_at(Instant::now());
    }

    /// Copies the next frame for the guest into `buffer`, which must have room for an Ethernet
    /// frame of 1514 bytes, and returns its length.
    pub fn next_frame(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.next_frame_at(buffer, Instant::now())
    }

    /// Tells whether a frame waits for the guest.
    pub fn has_frames(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Returns when to call [`poll`](Self::poll). While frames wait for the guest, time stands
    /// still: there is no use in sending anything again.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.next_deadline_at(Instant::now())
    }

    pub(super) fn receive_at(&mut self, frame: &[u8], now: Instant) {
        self.metrics().rx_accepted.add(1);
        let mmds = Arc::clone(&self.mmds);
        let counter = match self.sort(frame, now) {
            Ok(()) => &mmds.metrics.rx_count,
            Err(Refusal::NotEthernet) => &mmds.metrics.rx_bad_eth,
            Err(Refusal::Malformed) => &mmds.metrics.rx_accepted_err,
            Err(Refusal::Unusual) => &mmds.metrics.rx_accepted_unusual,
        };
        counter.add(1);
    }

    pub(super) fn next_frame_at(&mut self, buffer: &mut [u8], now: Instant) -> Option<usize> {
        let frame = self.queues.outgoing().pop()?;
        if self.queues.is_empty() {
            // There may have been more than fit the queue.
            self.poll_at(now);
        }
        let Some(target) = buffer.get_mut(..frame.len()) else {
            self.metrics().tx_errors.add(1);
            return None;
        };
        target.copy_from_slice(&frame);
        self.metrics().tx_count.add(1);
        self.metrics().tx_frames.add(1);
        self.metrics().tx_bytes.add(frame.len());
        Some(frame.len())
    }

    pub(super) fn next_deadline_at(&mut self, now: Instant) -> Option<Instant> {
        if self.has_frames() {
            return None;
        }
        let at = self.interface.poll_at(self.time(now), &self.sockets)?;
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        let deadline = self.start.checked_add(Duration::from_micros(micros))?;
        now.checked_add(MIN_WAIT).map(|earliest| deadline.max(earliest))
    }

    pub(super) fn poll_at(&mut self, now: Instant) {
        let time = self.time(now);
        self.interface.poll_ingress_single(time, &mut self.queues, &mut self.sockets);
        self.adopt(now);
        for connection in &mut self.connections {
            let socket = self.sockets.get_mut::<Socket<'_>>(connection.handle());
            connection.serve(socket, &self.mmds, now);
        }
        // Each pass sends a segment of every socket; a full queue ends it.
        while self.interface.poll_egress(time, &mut self.queues, &mut self.sockets)
            == PollResult::SocketStateChanged
        {}
        self.reap();
        let dropped = self.queues.outgoing().take_dropped();
        self.metrics().tx_errors.add(dropped);
    }

    fn metrics(&self) -> &MmdsMetrics {
        &self.mmds.metrics
    }

    /// smoltcp's clock: microseconds since the stack was made.
    fn time(&self, now: Instant) -> time::Instant {
        let micros = now.saturating_duration_since(self.start).as_micros();
        time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn sort(&mut self, frame: &[u8], now: Instant) -> Result<(), Refusal> {
        let frame = EthernetFrame::new_checked(frame).map_err(|_| Refusal::NotEthernet)?;
        match frame.ethertype() {
            EthernetProtocol::Arp => self.answer_arp(frame.payload()),
            EthernetProtocol::Ipv4 => self.receive_packet(frame.src_addr(), frame.payload(), now),
            _ => Err(Refusal::Unusual),
        }
    }

    fn answer_arp(&mut self, packet: &[u8]) -> Result<(), Refusal> {
        let packet = ArpPacket::new_checked(packet).map_err(|_| Refusal::Malformed)?;
        let request = ArpRepr::parse(&packet).map_err(|_| Refusal::Malformed)?;
        let ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = request
        else {
            return Err(Refusal::Unusual);
        };
        if target_protocol_addr != self.ipv4 {
            return Err(Refusal::Unusual);
        }
        let reply = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: self.mac,
            source_protocol_addr: self.ipv4,
            target_hardware_addr: source_hardware_addr,
            target_protocol_addr: source_protocol_addr,
        };
        let (target, size) = (source_hardware_addr, reply.buffer_len());
        self.queues.outgoing().push(target, EthernetProtocol::Arp, size, |payload| {
            reply.emit(&mut ArpPacket::new_unchecked(payload));
        });
        Ok(())
    }

    fn receive_packet(
        &mut self,
        source: EthernetAddress,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), Refusal> {
        let packet = Ipv4Packet::new_checked(bytes).map_err(|_| Refusal::Malformed)?;
        // Nobody puts fragments together: segments are smaller than what a link would cut up.
        let fragment = packet.more_frags() || packet.frag_offset() != 0;
        if packet.next_header() != IpProtocol::Tcp || fragment {
            return Err(Refusal::Unusual);
        }
        let header = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default())
            .map_err(|_| Refusal::Malformed)?;
        if header.dst_addr != self.ipv4 {
            return Err(Refusal::Unusual);
        }
        let segment = TcpPacket::new_checked(packet.payload()).map_err(|_| Refusal::Malformed)?;
        self.queues.outgoing().peers().note(header.src_addr, source);
        if segment.syn() && !segment.ack() {
            self.make_room(header.src_addr, segment.src_port(), now);
        }
        self.queues.set_incoming(bytes.to_vec());
        self.poll_at(now);
        Ok(())
    }

    /// Ends the connection that was idle longest if there are too many for one more and it was
    /// idle long; else the new one will be refused.
    fn make_room(&mut self, ip: Ipv4Addr, port: u16, now: Instant) {
        if self.listener.is_some() {
            return;
        }
        let known = self.connections.iter().any(|connection| {
            let socket = self.sockets.get::<Socket<'_>>(connection.handle());
            let remote = socket.remote_endpoint();
            remote.is_some_and(|remote| remote.addr == IpAddress::Ipv4(ip) && remote.port == port)
        });
        let idlest = self.connections.iter().enumerate().min_by_key(|(_, each)| each.last_active());
        if let Some((index, connection)) = idlest
            && !known
            && now.saturating_duration_since(connection.last_active()) >= EVICTABLE_AFTER
        {
            self.sockets.remove(connection.handle());
            self.connections.swap_remove(index);
            self.metrics().connections_destroyed.add(1);
            self.listen();
        }
    }

    /// Makes a connection of the listening socket if it was called.
    fn adopt(&mut self, now: Instant) {
        let Some(handle) = self.listener else { return };
        if self.sockets.get::<Socket<'_>>(handle).state() == State::Listen {
            return;
        }
        self.connections.push(Connection::new(handle, now));
        self.metrics().connections_created.add(1);
        self.listener = None;
        self.listen();
    }

    /// Forgets connections that are over. One that waits for stray segments is, too: none gets
    /// lost on the way.
    fn reap(&mut self) {
        let before = self.connections.len();
        let sockets = &mut self.sockets;
        self.connections.retain(|connection| {
            let state = sockets.get::<Socket<'_>>(connection.handle()).state();
            // A handshake that is reset goes back to listening.
            let over = matches!(state, State::Closed | State::TimeWait | State::Listen);
            if over {
                sockets.remove(connection.handle());
            }
            !over
        });
        let gone = before.saturating_sub(self.connections.len());
        self.metrics().connections_destroyed.add(gone);
        self.listen();
    }

    /// Makes sure that somebody listens, unless there are too many connections.
    fn listen(&mut self) {
        if self.listener.is_some() || self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let buffer = |size| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(RX_BUFFER_SIZE), buffer(TX_BUFFER_SIZE));
        socket.set_timeout(Some(IDLE_TIMEOUT));
        // Answers are written whole: there is nothing to wait for.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        match socket.listen(PORT) {
            Ok(()) => self.listener = Some(self.sockets.add(socket)),
            Err(error) => log::error!("the metadata service can't listen: {error}"),
        }
    }
}

impl Drop for MmdsStack {
    fn drop(&mut self) {
        self.metrics().connections_destroyed.add(self.connections.len());
    }
}

/// Tells whether the frame that starts with `head` is for the service at `ipv4`.
pub(crate) fn is_for(ipv4: Ipv4Addr, head: &[u8]) -> bool {
    let at = |start: usize, bytes: &[u8]| head.get(start..).is_some_and(|h| h.starts_with(bytes));
    at(12, &[0x08, 0x00]) && at(30, &ipv4.octets())
        || at(12, &[0x08, 0x06]) && at(38, &ipv4.octets())
}

/// Why a frame is dropped.
enum Refusal {
    NotEthernet,
    Malformed,
    Unusual,
}

/// What TCP's first sequence numbers are made from. A guest that guessed them could only disturb
/// its own connections.
fn seed() -> u64 {
    let mut seed = [0; 8];
    match rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u64::from_ne_bytes(seed),
        Err(_) => u64::from(std::process::id()),
    }
}

#[cfg(test)]
mod tests;
