//! What a driver asks and what it's answered (VIRTIO 1.3 §5.15.6).

use sys::memory::GuestRam;
use vm_memory::Bytes;

use super::super::queue::Segment;
use super::port::MemPort;

/// `struct virtio_mem_req`: le16 type, 6 bytes of padding, le64 address, le16 number of blocks, 6 bytes
/// of padding.
const REQUEST_LEN: usize = 24;
/// `struct virtio_mem_resp`: le16 type, 6 bytes of padding, le16 state.
const RESPONSE_LEN: usize = 10;

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It's done.
    Ack,
    /// More than requested would be plugged.
    Nack,
    /// Not now.
    Busy,
    /// The request is wrong.
    Error,
    /// What was asked for.
    State(BlockState),
}

/// What blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum BlockState {
    Plugged = 0,
    Unplugged = 1,
    Mixed = 2,
}

impl Answer {
    fn bytes(self) -> [u8; RESPONSE_LEN] {
        let (kind, state): (u16, u16) = match self {
            Self::Ack => (0, 0),
            Self::Nack => (1, 0),
            Self::Busy => (2, 0),
            Self::Error => (3, 0),
            Self::State(state) => (0, state as u16),
        };
        let ([k0, k1], [s0, s1]) = (kind.to_le_bytes(), state.to_le_bytes());
        [k0, k1, 0, 0, 0, 0, 0, 0, s0, s1]
    }
}

/// Reads a request and carries it out. What's too short is no request; what's behind one is ignored.
pub(super) fn carry_out(memory: &GuestRam, segments: &[Segment], port: &MemPort) -> Answer {
    let Some(request) = read(memory, segments) else { return Answer::Error };
    let [t0, t1, _, _, _, _, _, _, a0, a1, a2, a3, a4, a5, a6, a7, n0, n1, ..] = request;
    let address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
    let count = u16::from_le_bytes([n0, n1]);
    match u16::from_le_bytes([t0, t1]) {
        0 => port.plug(address, count),
        1 => port.unplug(address, count),
        2 => port.unplug_all(),
        3 => port.block_state(address, count),
        _ => Answer::Error,
    }
}

fn read(memory: &GuestRam, segments: &[Segment]) -> Option<[u8; REQUEST_LEN]> {
    let mut request = [0; REQUEST_LEN];
    let mut rest = request.as_mut_slice();
    for segment in segments {
        let len = usize::try_from(segment.len).unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at_mut_checked(len)?;
        memory.read_slice(now, segment.address).ok()?;
        rest = later;
    }
    rest.is_empty().then_some(request)
}

/// Writes the answer, if there's room for all of it, and returns how many bytes that were.
pub(super) fn respond(memory: &GuestRam, segments: &[Segment], answer: Answer) -> u32 {
    let bytes = answer.bytes();
    let room =
        segments.iter().fold(0, |room: u64, segment| room.saturating_add(segment.len.into()));
    if room < bytes.len() as u64 {
        return 0;
    }
    let mut rest = bytes.as_slice();
    for segment in segments {
        let len = usize::try_from(segment.len).unwrap_or(usize::MAX).min(rest.len());
        let Some((now, later)) = rest.split_at_checked(len) else { break };
        // The segment was checked: this can't fail.
        if let Err(error) = memory.write_slice(now, segment.address) {
            log::error!("an answer about pluggable memory can't be written: {error}");
            return 0;
        }
        rest = later;
    }
    u32::try_from(bytes.len()).unwrap_or_default()
}
