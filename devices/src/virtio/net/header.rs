//! The header before each frame (VIRTIO 1.3 §5.1.6).

use sys::tap::{Offloads, VNET_HEADER_SIZE};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4,
};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where `num_buffers` is in a [`FrameHeader`].
pub(super) const NUM_BUFFERS_OFFSET: usize = 10;

/// `struct virtio_net_hdr_v1`, as copied once from guest memory.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct FrameHeader {
    pub(super) flags: u8,
    pub(super) gso_type: u8,
    pub(super) hdr_len: U16,
    pub(super) gso_size: U16,
    pub(super) csum_start: U16,
    pub(super) csum_offset: U16,
    pub(super) num_buffers: U16,
}

const _: () = assert!(size_of::<FrameHeader>() == VNET_HEADER_SIZE);

impl FrameHeader {
    /// Clears what a driver may not say when it sends, and tells whether the rest is something
    /// that it negotiated and that fits a frame of `frame_len` bytes (VIRTIO 1.3 §5.1.6.2.1).
    ///
    /// What is in the frame is for the host's kernel to check, which must not trust us either.
    pub(super) fn sanitize(&mut self, frame_len: usize, allowed: Offloads) -> bool {
        let needs_checksum = VIRTIO_NET_HDR_F_NEEDS_CSUM.to_le_bytes()[0];
        self.flags &= needs_checksum;
        self.num_buffers = U16::ZERO;
        if self.flags != 0 {
            let checksum_end =
                usize::from(self.csum_start.get()).saturating_add(self.csum_offset.get().into());
            if !allowed.checksum || checksum_end.saturating_add(2) > frame_len {
                return false;
            }
        }
        let gso = u32::from(self.gso_type);
        let ecn_allowed = gso & VIRTIO_NET_HDR_GSO_ECN == 0 || allowed.ecn;
        let kind_allowed = match gso & !VIRTIO_NET_HDR_GSO_ECN {
            VIRTIO_NET_HDR_GSO_NONE => gso == VIRTIO_NET_HDR_GSO_NONE,
            VIRTIO_NET_HDR_GSO_TCPV4 => allowed.tso4,
            VIRTIO_NET_HDR_GSO_TCPV6 => allowed.tso6,
            VIRTIO_NET_HDR_GSO_UDP_L4 => allowed.uso,
            _ => false,
        };
        ecn_allowed && kind_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: Offloads = Offloads { uso: true, ..Offloads::CLASSIC };

    fn accepted(flags: u8, gso_type: u8, csum_start: u16, allowed: Offloads) -> bool {
        let mut header = FrameHeader {
            flags,
            gso_type,
            csum_start: csum_start.into(),
            csum_offset: 16.into(),
            ..FrameHeader::default()
        };
        header.sanitize(100, allowed)
    }

    #[test]
    fn checksum_must_be_negotiated_and_lie_in_the_frame() {
        assert!(accepted(1, 0, 82, EVERYTHING));
        assert!(!accepted(1, 0, 83, EVERYTHING));
        assert!(!accepted(1, 0, u16::MAX, EVERYTHING));
        assert!(!accepted(1, 0, 34, Offloads::default()));
        assert!(accepted(0, 0, u16::MAX, Offloads::default()));
    }

    #[test]
    fn segmentation_must_be_negotiated_and_known() {
        for (gso_type, known) in
            [(1, true), (0x81, true), (4, true), (5, true), (3, false), (0x80, false), (9, false)]
        {
            assert_eq!(accepted(1, gso_type, 34, EVERYTHING), known, "{gso_type:#x}");
            assert!(!accepted(0, gso_type, 34, Offloads::default()), "{gso_type:#x}");
        }
        assert!(!accepted(1, 0x81, 34, Offloads { ecn: false, ..EVERYTHING }));
    }

    #[test]
    fn what_only_a_device_may_say_is_cleared() {
        let mut header =
            FrameHeader { flags: 0xfe, num_buffers: 9.into(), ..FrameHeader::default() };
        assert!(header.sanitize(60, Offloads::default()));
        assert_eq!(header.as_bytes(), [0; 12]);
    }
}
