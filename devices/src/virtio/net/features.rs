//! What driver and device agree on, in terms of what the host can do.

use sys::tap::Offloads;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// A set of feature bits (VIRTIO 1.3 §5.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features(pub(super) u64);

impl Features {
    fn of(bits: &[u32]) -> Self {
        Self(bits.iter().fold(0, |set, &bit| set | 1u64.wrapping_shl(bit)))
    }

    /// Tells whether feature `bit` is in the set.
    pub(super) fn has(self, bit: u32) -> bool {
        self.0 & Self::of(&[bit]).0 != 0
    }

    /// Returns what is offered over a backend that can do `offloads`.
    pub(super) fn offered(offloads: Offloads, multi_queue: bool, mtu: bool) -> Self {
        let mut bits = vec![
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_CTRL_VQ,
            VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
        ];
        let mut offer = |wanted: bool, more: &[u32]| {
            if wanted {
                bits.extend_from_slice(more);
            }
        };
        offer(multi_queue, &[VIRTIO_NET_F_MQ]);
        offer(mtu, &[VIRTIO_NET_F_MTU]);
        offer(offloads.checksum, &[VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM]);
        offer(offloads.tso4, &[VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4]);
        offer(offloads.tso6, &[VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6]);
        offer(offloads.ecn, &[VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN]);
        let udp = [VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6];
        offer(offloads.uso, &udp);
        Self::of(&bits)
    }

    /// Returns the features whose bits VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET may carry
    /// (VIRTIO 1.3 §5.1.6.5.6).
    pub(super) fn switchable(self) -> Self {
        let bits = [
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_GUEST_ECN,
            VIRTIO_NET_F_GUEST_USO4,
            VIRTIO_NET_F_GUEST_USO6,
        ];
        Self(self.0 & Self::of(&bits).0)
    }

    /// Returns what the driver accepts undone in frames that it receives.
    pub(super) fn receive_offloads(self) -> Offloads {
        Offloads {
            checksum: self.has(VIRTIO_NET_F_GUEST_CSUM),
            tso4: self.has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: self.has(VIRTIO_NET_F_GUEST_TSO6),
            ecn: self.has(VIRTIO_NET_F_GUEST_ECN),
            // Linux knows only both together.
            uso: self.has(VIRTIO_NET_F_GUEST_USO4) && self.has(VIRTIO_NET_F_GUEST_USO6),
        }
    }

    /// Returns what the driver may leave undone in frames that it sends.
    pub(super) fn transmit_offloads(self) -> Offloads {
        Offloads {
            checksum: self.has(VIRTIO_NET_F_CSUM),
            tso4: self.has(VIRTIO_NET_F_HOST_TSO4),
            tso6: self.has(VIRTIO_NET_F_HOST_TSO6),
            ecn: self.has(VIRTIO_NET_F_HOST_ECN),
            uso: self.has(VIRTIO_NET_F_HOST_USO),
        }
    }
}
