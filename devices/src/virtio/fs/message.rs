//! Requests out of a chain's readable buffers, and answers into its writable ones.

use std::ffi::CStr;

use rustix::io::Errno;
use sys::memory::GuestRam;
use vm_memory::{Address, Bytes, GuestAddress};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::protocol::{InHeader, OutHeader};
use crate::virtio::{ChainBuffers, Segment};

/// The longest name in a directory, in bytes (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;

/// The sizes of the headers, in bytes.
pub(super) const IN_HEADER: u64 = 40;
pub(super) const OUT_HEADER: u64 = 16;

/// Returns the length of all of `segments`, in bytes.
pub(super) fn len(segments: &[Segment]) -> u64 {
    segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.len.into()))
}

/// Lists the parts of `segments` that lie in `len` bytes from `offset` on.
pub(super) fn range(
    segments: &[Segment],
    offset: u64,
    len: u64,
) -> impl Iterator<Item = (GuestAddress, u32)> + '_ {
    let (mut skip, mut left) = (offset, len);
    segments.iter().filter_map(move |segment| {
        let size = u64::from(segment.len);
        let skipped = skip.min(size);
        skip = skip.saturating_sub(skipped);
        let taken = size.saturating_sub(skipped).min(left);
        left = left.saturating_sub(taken);
        let taken = u32::try_from(taken).ok().filter(|taken| *taken > 0)?;
        // Inside a segment that was checked to be in memory.
        Some((segment.address.unchecked_add(skipped), taken))
    })
}

/// Copies `len` bytes from `offset` on out of `segments` to the end of `bytes`.
pub(super) fn copy_from(
    memory: &GuestRam,
    segments: &[Segment],
    offset: u64,
    len: u64,
    bytes: &mut Vec<u8>,
) -> Result<(), Errno> {
    for (address, len) in range(segments, offset, len) {
        let start = bytes.len();
        let end = start.saturating_add(usize::try_from(len).map_err(|_| Errno::INVAL)?);
        bytes.resize(end, 0);
        let target = bytes.get_mut(start..).unwrap_or_default();
        memory.read_slice(target, address).map_err(|_| Errno::FAULT)?;
    }
    Ok(())
}

/// Copies `bytes` into `segments` from `offset` on.
fn copy_to(
    memory: &GuestRam,
    segments: &[Segment],
    offset: u64,
    bytes: &[u8],
) -> Result<(), Errno> {
    let mut rest = bytes;
    for (address, len) in range(segments, offset, bytes.len() as u64) {
        let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        let part = rest.split_off(..len).ok_or(Errno::FAULT)?;
        memory.write_slice(part, address).map_err(|_| Errno::FAULT)?;
    }
    Ok(())
}

/// Reads the header, if there is a whole one.
pub(super) fn header(memory: &GuestRam, buffers: &ChainBuffers) -> Option<InHeader> {
    let mut bytes = Vec::new();
    copy_from(memory, &buffers.readable, 0, IN_HEADER, &mut bytes).ok()?;
    InHeader::read_from_bytes(&bytes).ok()
}

/// Writes an answer, of which `placed` bytes are in their place already after what `body` has;
/// returns the answer's whole length, which is 0 if the driver left no room for it.
pub(super) fn answer(
    memory: &GuestRam,
    buffers: &ChainBuffers,
    unique: u64,
    outcome: Result<(&[u8], u64), Errno>,
) -> u32 {
    let room = len(&buffers.writable);
    if room < OUT_HEADER {
        return 0;
    }
    let whole = |body: &[u8], placed| {
        let total = OUT_HEADER.saturating_add(body.len() as u64).saturating_add(placed);
        u32::try_from(total).ok().filter(|total| u64::from(*total) <= room)
    };
    let fitting = outcome.and_then(|(body, placed)| {
        // The driver's buffer may be too small for what it asked for.
        whole(body, placed).map(|len| (body, len)).ok_or(Errno::IO)
    });
    let (error, body, len) = match fitting {
        Ok((body, len)) => (0, body, len),
        Err(errno) => (errno.raw_os_error().wrapping_neg(), &[][..], 16),
    };
    let header = OutHeader { len, error, unique };
    let written = copy_to(memory, &buffers.writable, 0, header.as_bytes())
        .and_then(|()| copy_to(memory, &buffers.writable, OUT_HEADER, body));
    written.map_or(0, |()| len)
}

/// What follows a request's header, read from its start to its end.
pub(super) struct Arguments<'a>(pub(super) &'a [u8]);

impl<'a> Arguments<'a> {
    /// Takes a message.
    pub(super) fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, Errno> {
        let (message, rest) = T::read_from_prefix(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = rest;
        Ok(message)
    }

    /// Takes a string that ends in a NUL.
    pub(super) fn string(&mut self) -> Result<&'a CStr, Errno> {
        let string = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = self.0.get(string.count_bytes().saturating_add(1)..).unwrap_or_default();
        Ok(string)
    }

    /// Takes a string that names something in a directory: in that directory, and nowhere else.
    pub(super) fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.string()?;
        let bytes = name.to_bytes();
        if bytes.len() > MAX_NAME_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        Ok(name)
    }

    /// Takes exactly `len` bytes.
    pub(super) fn bytes(&mut self, len: u32) -> Result<&'a [u8], Errno> {
        let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(parts: &[(u64, u32)]) -> Vec<Segment> {
        let segment = |&(at, len)| Segment { address: GuestAddress(at), len };
        parts.iter().map(segment).collect()
    }

    #[test]
    fn range_starts_and_ends_inside_of_segments_or_between_them() {
        let segments = segments(&[(0, 16), (100, 40), (200, 8)]);
        let range = |offset, len| {
            range(&segments, offset, len).map(|(at, len)| (at.0, len)).collect::<Vec<_>>()
        };
        assert_eq!(range(0, 64), [(0, 16), (100, 40), (200, 8)]);
        assert_eq!(range(16, 40), [(100, 40)]);
        assert_eq!(range(15, 42), [(15, 1), (100, 40), (200, 1)]);
        assert_eq!(range(60, u64::MAX), [(204, 4)]);
        assert_eq!(range(64, 1), []);
        assert_eq!(range(u64::MAX, u64::MAX), []);
    }

    #[test]
    fn name_is_of_one_directory_and_no_other() {
        for (bytes, expected) in [
            (&b"a\0"[..], Ok("a")),
            (b"..a\0", Ok("..a")),
            (b"a\0b\0", Ok("a")),
            (b"a", Err(Errno::INVAL)),
            (b"", Err(Errno::INVAL)),
            (b"\0", Err(Errno::INVAL)),
            (b".\0", Err(Errno::INVAL)),
            (b"..\0", Err(Errno::INVAL)),
            (b"a/b\0", Err(Errno::INVAL)),
            (b"/\0", Err(Errno::INVAL)),
            (b"../a\0", Err(Errno::INVAL)),
        ] {
            let name = Arguments(bytes).name().map(|name| name.to_str().unwrap());
            assert_eq!(name, expected, "{bytes:?}");
        }
        let long = [vec![b'a'; 256], vec![0]].concat();
        assert_eq!(Arguments(&long).name(), Err(Errno::NAMETOOLONG));
        assert!(Arguments(&long[1..]).name().is_ok());
    }

    #[test]
    fn arguments_that_end_early_are_refused() {
        let mut arguments = Arguments(&[1, 0, 0]);
        assert_eq!(arguments.take::<u32>().unwrap_err(), Errno::INVAL);
        assert_eq!(arguments.bytes(4).unwrap_err(), Errno::INVAL);
        assert_eq!(arguments.bytes(3).unwrap(), [1, 0, 0]);
        assert_eq!(arguments.bytes(u32::MAX).unwrap_err(), Errno::INVAL);
    }
}
