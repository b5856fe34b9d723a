//! Packets as they lie in the driver's buffers (VIRTIO 1.3 §5.10.6).
//!
//! Packets to the guest are written through [`virtio_vsock::packet::VsockPacket`]. Packets from the
//! guest are parsed here: that type takes a payload of one descriptor, and Linux has sent larger
//! payloads in several since 6.7 (`MSG_ZEROCOPY`) and 6.17 (always).

use sys::memory::GuestRam;
use virtio_vsock::packet::PKT_HEADER_SIZE;
use vm_memory::{Address, Bytes};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::virtio::{ChainBuffers, Segment};

/// The host's address (VIRTIO 1.3 §5.10.4).
pub(super) const HOST_CID: u64 = 2;
/// The only type of socket here.
pub(super) const TYPE_STREAM: u16 = 1;
/// The longest payload of a packet, in bytes; what Linux keeps to as well.
pub(super) const MAX_PAYLOAD: u32 = 64 << 10;
/// VIRTIO_VSOCK_SHUTDOWN_RCV: the sender takes no more data.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// VIRTIO_VSOCK_SHUTDOWN_SEND: the sender has no more data.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both of them.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// `enum virtio_vsock_op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Op {
    Request = 1,
    Response = 2,
    Rst = 3,
    Shutdown = 4,
    Rw = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    /// Returns the operation numbered `number`.
    pub(super) fn from_number(number: u16) -> Option<Self> {
        const ALL: [Op; 7] = [
            Op::Request,
            Op::Response,
            Op::Rst,
            Op::Shutdown,
            Op::Rw,
            Op::CreditUpdate,
            Op::CreditRequest,
        ];
        ALL.into_iter().find(|&op| op as u16 == number)
    }
}

/// `struct virtio_vsock_hdr`, as copied once from guest memory.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) src_cid: U64,
    pub(super) dst_cid: U64,
    pub(super) src_port: U32,
    pub(super) dst_port: U32,
    pub(super) len: U32,
    pub(super) socket_type: U16,
    pub(super) op: U16,
    pub(super) flags: U32,
    pub(super) buf_alloc: U32,
    pub(super) fwd_cnt: U32,
}

const _: () = assert!(size_of::<Header>() == PKT_HEADER_SIZE);

/// A packet from the guest.
#[derive(Debug)]
pub(super) struct GuestPacket {
    /// Its header.
    pub(super) header: Header,
    /// Where its payload lies: `header.len` bytes.
    pub(super) payload: Vec<Segment>,
}

impl Default for GuestPacket {
    fn default() -> Self {
        Self { header: Header::new_zeroed(), payload: Vec::new() }
    }
}

impl GuestPacket {
    /// Replaces this packet by the one in `chain`; none if that isn't one: shorter than a header or
    /// than its header says, or with a payload that is too long.
    pub(super) fn parse(&mut self, memory: &GuestRam, chain: &ChainBuffers) -> Option<()> {
        self.header = Header::new_zeroed();
        self.payload.clear();
        if !chain.writable.is_empty() {
            return None;
        }
        let mut copied = 0usize;
        let mut payload_left = None;
        for &segment in &chain.readable {
            let mut segment = segment;
            if copied < PKT_HEADER_SIZE {
                let target = self.header.as_mut_bytes().get_mut(copied..)?;
                let part = target.len().min(usize::try_from(segment.len).ok()?);
                memory.read_slice(target.get_mut(..part)?, segment.address).ok()?;
                copied = copied.saturating_add(part);
                segment = skip(segment, u32::try_from(part).ok()?)?;
                if copied < PKT_HEADER_SIZE {
                    continue;
                }
            }
            let left = payload_left.get_or_insert(self.header.len.get());
            segment.len = segment.len.min(*left);
            *left = left.saturating_sub(segment.len);
            if segment.len > 0 {
                self.payload.push(segment);
            }
        }
        let whole = payload_left == Some(0);
        (whole && self.header.len.get() <= MAX_PAYLOAD).then_some(())
    }
}

/// Returns `segment` without its first `bytes` bytes.
fn skip(segment: Segment, bytes: u32) -> Option<Segment> {
    let address = segment.address.checked_add(bytes.into())?;
    Some(Segment { address, len: segment.len.checked_sub(bytes)? })
}
