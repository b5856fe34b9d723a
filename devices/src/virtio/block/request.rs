//! What a driver asks for (VIRTIO 1.3 §5.2.6), parsed and checked in one pass.
//!
//! Everything that decides is copied out of guest memory once. Nothing is read again when the
//! request completes: what the driver has written there meanwhile changes nothing.

use sys::memory::GuestRam;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::{Address, Bytes, GuestAddress};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::config::{MAX_RANGE_SECTORS, MAX_RANGES, SECTOR};
use crate::virtio::{ChainBuffers, ChainError, Segment};

/// The length in bytes of a device's serial (VIRTIO 1.3 §5.2.6).
pub const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;

/// What every request starts with.
#[derive(Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct Header {
    kind: U32,
    reserved: U32,
    sector: U64,
}

/// What a discard or write-zeroes is about.
#[derive(Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct Range {
    sector: U64,
    num_sectors: U32,
    flags: U32,
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The disk's length in bytes.
    pub(super) len: u64,
    /// Whether requests may not change the disk.
    pub(super) read_only: bool,
    /// The features that driver and device agreed on.
    pub(super) features: u64,
}

/// A checked request. Its data is what is left in the chain's buffers, and exactly that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Fill the writable buffers, `len` bytes in all, from byte `offset`.
    Read { offset: u64, len: u64 },
    /// Store the readable buffers, `len` bytes in all, at byte `offset`.
    Write { offset: u64, len: u64 },
    /// Make completed writes durable.
    Flush,
    /// Write the serial to the writable buffers, which have room for it.
    GetId,
    /// The content of these bytes doesn't matter any more.
    Discard { offset: u64, len: u64 },
    /// These bytes read as zeros from now on.
    WriteZeroes { offset: u64, len: u64, unmap: bool },
}

/// Why a request isn't carried out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum RequestError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("a request has no room for its status")]
    NoStatus,
    #[error("a request is too short for what it says it is")]
    TooShort,
    #[error("{len} bytes from sector {sector} are no whole sectors of the disk")]
    OutOfRange { sector: u64, len: u64 },
    #[error("a request would change a read-only disk")]
    ReadOnly,
    #[error("a discard or write-zeroes of {bytes} bytes of ranges, or of {sectors} sectors")]
    TooMuch { bytes: u64, sectors: u32 },
    #[error("a range has the flags {0:#x}")]
    Flags(u32),
    #[error("requests of type {0} aren't supported")]
    Unsupported(u32),
}

impl RequestError {
    /// Returns the status that the driver gets (VIRTIO 1.3 §5.2.6.2).
    pub(super) fn status(&self) -> u8 {
        // The constants are C ints for a byte.
        #[expect(clippy::cast_possible_truncation, reason = "statuses are 0, 1 and 2")]
        match self {
            Self::Flags(_) | Self::Unsupported(_) => VIRTIO_BLK_S_UNSUPP as u8,
            _ => VIRTIO_BLK_S_IOERR as u8,
        }
    }
}

/// Takes the status byte, the last that the device may write, off the writable buffers.
///
/// It may be a buffer of its own or the end of one with data (VIRTIO 1.3 §2.7.4.1).
pub(super) fn take_status(buffers: &mut ChainBuffers) -> Option<GuestAddress> {
    let last = buffers.writable.last_mut()?;
    last.len = last.len.saturating_sub(1);
    let status = last.address.checked_add(last.len.into())?;
    if last.len == 0 {
        buffers.writable.pop();
    }
    Some(status)
}

impl Request {
    /// Parses the request in `buffers`, whose status byte has been taken, and leaves its data there.
    pub(super) fn parse(
        memory: &GuestRam,
        buffers: &mut ChainBuffers,
        limits: &Limits,
    ) -> Result<Self, RequestError> {
        let header: Header = take(memory, &mut buffers.readable)?;
        let (kind, sector) = (header.kind.get(), header.sector.get());
        match kind {
            VIRTIO_BLK_T_IN => {
                let len = total(&buffers.writable);
                Ok(Self::Read { offset: limits.check(sector, len)?, len })
            }
            VIRTIO_BLK_T_OUT => {
                limits.check_writable()?;
                let len = total(&buffers.readable);
                Ok(Self::Write { offset: limits.check(sector, len)?, len })
            }
            VIRTIO_BLK_T_FLUSH => Ok(Self::Flush),
            VIRTIO_BLK_T_GET_ID if total(&buffers.writable) < ID_BYTES as u64 => {
                Err(RequestError::TooShort)
            }
            VIRTIO_BLK_T_GET_ID => Ok(Self::GetId),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
                limits.check_writable()?;
                Self::parse_range(kind, memory, buffers, limits)
            }
            _ => Err(RequestError::Unsupported(kind)),
        }
    }

    /// Parses the data of a discard or write-zeroes.
    fn parse_range(
        kind: u32,
        memory: &GuestRam,
        buffers: &mut ChainBuffers,
        limits: &Limits,
    ) -> Result<Self, RequestError> {
        let (feature, allowed_flags) = match kind {
            VIRTIO_BLK_T_DISCARD => (VIRTIO_BLK_F_DISCARD, 0),
            _ => (VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
        };
        if limits.features & 1 << feature == 0 {
            return Err(RequestError::Unsupported(kind));
        }
        let bytes = total(&buffers.readable);
        let range: Range = take(memory, &mut buffers.readable)?;
        let (flags, sectors) = (range.flags.get(), range.num_sectors.get());
        if bytes > u64::from(MAX_RANGES).saturating_mul(size_of::<Range>() as u64)
            || sectors > MAX_RANGE_SECTORS
        {
            return Err(RequestError::TooMuch { bytes, sectors });
        }
        if flags & !allowed_flags != 0 {
            return Err(RequestError::Flags(flags));
        }
        let len = u64::from(sectors).saturating_mul(SECTOR);
        let offset = limits.check(range.sector.get(), len)?;
        if kind == VIRTIO_BLK_T_DISCARD {
            return Ok(Self::Discard { offset, len });
        }
        Ok(Self::WriteZeroes {
            offset,
            len,
            unmap: flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0,
        })
    }

    /// Returns how many bytes of data the request moves, which a bandwidth limit counts.
    pub(super) fn data_len(&self) -> u64 {
        match self {
            Self::Read { len, .. } | Self::Write { len, .. } => *len,
            Self::GetId | Self::Flush | Self::Discard { .. } | Self::WriteZeroes { .. } => 0,
        }
    }
}

impl Limits {
    /// Returns the byte offset of `sector` if `len` bytes from there are whole sectors of the disk.
    fn check(&self, sector: u64, len: u64) -> Result<u64, RequestError> {
        let out_of_range = RequestError::OutOfRange { sector, len };
        let Some(offset) = sector.checked_mul(SECTOR) else { return Err(out_of_range) };
        match offset.checked_add(len) {
            Some(end) if end <= self.len && len.is_multiple_of(SECTOR) => Ok(offset),
            _ => Err(out_of_range),
        }
    }

    fn check_writable(&self) -> Result<(), RequestError> {
        if self.read_only { Err(RequestError::ReadOnly) } else { Ok(()) }
    }
}

fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// Copies a `T` from the start of `segments` and takes its bytes off them, however they are split.
fn take<T>(memory: &GuestRam, segments: &mut Vec<Segment>) -> Result<T, RequestError>
where
    T: Default + FromBytes + IntoBytes,
{
    let mut value = T::default();
    let mut rest = value.as_mut_bytes();
    let mut emptied = 0usize;
    for segment in segments.iter_mut() {
        let size = rest.len().min(segment.len as usize);
        let (part, behind) = rest.split_at_mut_checked(size).ok_or(RequestError::TooShort)?;
        memory.read_slice(part, segment.address).map_err(|_| RequestError::TooShort)?;
        rest = behind;
        let taken = u32::try_from(size).unwrap_or(u32::MAX);
        segment.len = segment.len.saturating_sub(taken);
        segment.address = segment.address.unchecked_add(taken.into());
        if segment.len > 0 {
            break;
        }
        emptied = emptied.saturating_add(1);
        if rest.is_empty() {
            break;
        }
    }
    if !rest.is_empty() {
        return Err(RequestError::TooShort);
    }
    segments.drain(..emptied);
    Ok(value)
}

#[cfg(test)]
mod tests;
