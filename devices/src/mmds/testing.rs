//! A guest's own TCP stack, on the other side of the frames.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Instant;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::DEFAULT_IPV4_ADDRESS;

pub(crate) const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub(crate) const GUEST_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 2);

/// The guest's card: frames both ways.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) to_guest: VecDeque<Vec<u8>>,
    pub(crate) from_guest: Sent,
}

/// Frames of the guest.
#[derive(Default)]
pub(crate) struct Sent(pub(crate) VecDeque<Vec<u8>>);

pub(crate) struct WholeFrame(Vec<u8>);

impl RxToken for WholeFrame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, handle: F) -> R {
        handle(&self.0)
    }
}

impl TxToken for &mut Sent {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = WholeFrame;
    type TxToken<'a> = &'a mut Sent;

    fn receive(&mut self, _: time::Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        Some((WholeFrame(self.to_guest.pop_front()?), &mut self.from_guest))
    }

    fn transmit(&mut self, _: time::Instant) -> Option<Self::TxToken<'_>> {
        Some(&mut self.from_guest)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// The guest: every checksum is looked at.
pub(crate) struct Guest {
    pub(crate) wire: Wire,
    pub(crate) start: Instant,
    interface: Interface,
    sockets: SocketSet<'static>,
    port: u16,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let mut wire = Wire::default();
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC)));
        let mut interface = Interface::new(config, &mut wire, time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(GUEST_IP), 16)).unwrap();
        });
        let sockets = SocketSet::new(Vec::new());
        Self { wire, start: Instant::now(), interface, sockets, port: 40000 }
    }

    /// Starts to connect to the service.
    pub(crate) fn connect(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 65535]);
        let mut socket = Socket::new(buffer(), buffer());
        self.port += 1;
        let service = (IpAddress::Ipv4(DEFAULT_IPV4_ADDRESS), 80);
        socket.connect(self.interface.context(), service, self.port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Handles what came, and makes frames of what there is to say.
    pub(crate) fn poll(&mut self, now: Instant) {
        let micros = now.duration_since(self.start).as_micros() as i64;
        let now = time::Instant::from_micros(micros);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// Takes what came on `handle`.
    pub(crate) fn read(&mut self, handle: SocketHandle) -> String {
        let mut text = Vec::new();
        let socket = self.socket(handle);
        while socket.can_recv() {
            socket
                .recv(|bytes| {
                    text.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        String::from_utf8(text).unwrap()
    }
}
