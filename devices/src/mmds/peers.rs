//! Which card of the guest has which address.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use smoltcp::wire::EthernetAddress;

/// How many addresses are known at a time: more than there can be connections.
const MAX_PEERS: usize = 64;

/// The addresses that frames came from lately.
///
/// Answers go back the way that requests came: the service asks nobody for an address, so a guest
/// needn't answer ARP, and may have several addresses behind one card.
#[derive(Debug, Default)]
pub(super) struct Peers(VecDeque<(Ipv4Addr, EthernetAddress)>);

impl Peers {
    /// Takes note that a frame of `ip` came from `mac`, and forgets who was silent longest if
    /// there are too many.
    pub(super) fn note(&mut self, ip: Ipv4Addr, mac: EthernetAddress) {
        if self.0.front() == Some(&(ip, mac)) {
            return;
        }
        self.0.retain(|(known, _)| *known != ip);
        self.0.truncate(MAX_PEERS.saturating_sub(1));
        self.0.push_front((ip, mac));
    }

    /// Returns where `ip` is.
    pub(super) fn find(&self, ip: Ipv4Addr) -> Option<EthernetAddress> {
        self.0.iter().find(|(known, _)| *known == ip).map(|(_, mac)| *mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_where_it_was_seen_last_until_too_many_came_after_it() {
        let (first, mac) = (Ipv4Addr::new(10, 0, 0, 1), EthernetAddress([2, 0, 0, 0, 0, 1]));
        let moved = EthernetAddress([2, 0, 0, 0, 0, 2]);
        let mut peers = Peers::default();
        assert_eq!(peers.find(first), None);
        peers.note(first, mac);
        peers.note(first, moved);
        assert_eq!(peers.find(first), Some(moved));
        for last in 0..MAX_PEERS as u8 {
            assert_eq!(peers.find(first), Some(moved));
            peers.note(Ipv4Addr::new(10, 0, 1, last), mac);
        }
        assert_eq!(peers.find(first), None);
        assert_eq!(peers.0.len(), MAX_PEERS);
    }
}
