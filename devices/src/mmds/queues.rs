//! The network device that smoltcp sees: one packet in, a bounded queue of frames out.

use std::collections::VecDeque;

use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ETHERNET_HEADER_LEN, EthernetAddress, EthernetFrame, EthernetProtocol, Ipv4Packet,
};

use super::peers::Peers;

/// How many frames wait for the card at most.
pub(super) const MAX_QUEUED_FRAMES: usize = 64;
/// The largest packet that is sent, in bytes: what any Ethernet card takes. What comes may be as
/// large as IPv4 allows, for the guest leaves it to its card to cut segments up.
const MTU: usize = 1500;

/// Both directions of the device. smoltcp is given IPv4 packets; Ethernet is done here.
pub(super) struct FrameQueues {
    incoming: Option<Vec<u8>>,
    outgoing: Outgoing,
}

/// The service's frames.
pub(super) struct Outgoing {
    frames: VecDeque<Vec<u8>>,
    mac: EthernetAddress,
    peers: Peers,
    dropped: usize,
}

impl FrameQueues {
    /// Creates empty queues of a device with address `mac`.
    pub(super) fn new(mac: EthernetAddress) -> Self {
        let (frames, peers) = (VecDeque::new(), Peers::default());
        Self { incoming: None, outgoing: Outgoing { frames, mac, peers, dropped: 0 } }
    }

    /// Sets the packet that smoltcp receives next.
    pub(super) fn set_incoming(&mut self, packet: Vec<u8>) {
        self.incoming = Some(packet);
    }

    /// Returns the other direction.
    pub(super) fn outgoing(&mut self) -> &mut Outgoing {
        &mut self.outgoing
    }

    /// Tells whether no frame waits.
    pub(super) fn is_empty(&self) -> bool {
        self.outgoing.frames.is_empty()
    }
}

impl Outgoing {
    /// Returns who is where.
    pub(super) fn peers(&mut self) -> &mut Peers {
        &mut self.peers
    }

    /// Takes the next frame.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// Returns how many frames were dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> usize {
        std::mem::take(&mut self.dropped)
    }

    /// Queues a frame to `target` whose payload of `payload_size` bytes `fill` writes.
    pub(super) fn push<R>(
        &mut self,
        target: EthernetAddress,
        protocol: EthernetProtocol,
        payload_size: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let mut bytes = vec![0; payload_size.saturating_add(ETHERNET_HEADER_LEN)];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_src_addr(self.mac);
        frame.set_dst_addr(target);
        frame.set_ethertype(protocol);
        let result = fill(frame.payload_mut());
        self.enqueue(bytes);
        result
    }

    fn enqueue(&mut self, frame: Vec<u8>) {
        if self.is_full() {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            self.frames.push_back(frame);
        }
    }

    fn is_full(&self) -> bool {
        self.frames.len() >= MAX_QUEUED_FRAMES
    }
}

impl Device for FrameQueues {
    type RxToken<'a> = IncomingPacket;
    type TxToken<'a> = &'a mut Outgoing;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.incoming.take()?;
        Some((IncomingPacket(packet), &mut self.outgoing))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        (!self.outgoing.is_full()).then_some(&mut self.outgoing)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        // The guest may leave TCP's checksum to its card: what it sends through memory needs none.
        checksum.tcp = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities.checksum = checksum;
        capabilities
    }
}

/// A packet of the guest.
pub(super) struct IncomingPacket(Vec<u8>);

impl RxToken for IncomingPacket {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, handle: F) -> R {
        handle(&self.0)
    }
}

impl TxToken for &mut Outgoing {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        let target = Ipv4Packet::new_checked(&packet[..])
            .ok()
            .and_then(|packet| self.peers.find(packet.dst_addr()));
        match target {
            Some(target) => self.push(target, EthernetProtocol::Ipv4, len, |payload| {
                payload.copy_from_slice(&packet);
            }),
            None => self.dropped = self.dropped.saturating_add(1),
        }
        result
    }
}
