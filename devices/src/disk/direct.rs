//! What I/O past the page cache demands of offsets, lengths and addresses.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::Address;

use super::bounce::AlignedBuffer;
use crate::virtio::Segment;

/// The largest alignment that a disk is known to demand, in bytes. Guest RAM is mapped in whole
/// pages of this size or a multiple: a guest-physical address is as aligned as the host's.
pub(super) const MAX_ALIGNMENT: usize = 4096;

/// Finds the alignment in bytes that `file`, opened with `O_DIRECT`, demands, by reading.
///
/// Every kernel and file system has rules of its own for addresses; taking the offset's for them too
/// is always enough.
pub(super) fn probe_alignment(file: &File) -> io::Result<u32> {
    let mut refused = io::Error::from(io::ErrorKind::InvalidInput);
    for alignment in [512u32, 1024, 2048, 4096] {
        let size = alignment as usize;
        let mut buffer = AlignedBuffer::new(size.saturating_mul(2), MAX_ALIGNMENT);
        // In the middle of the buffer, so that the address isn't aligned to more.
        let half = buffer.as_mut_slice().get_mut(size..).unwrap_or_default();
        match file.read_at(half, alignment.into()) {
            Ok(_) => return Ok(alignment),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Tells whether I/O past the page cache can work on these buffers as they are.
pub(super) fn is_aligned(buffers: &[Segment], alignment: u32) -> bool {
    buffers.iter().all(|segment| {
        segment.address.raw_value().is_multiple_of(alignment.into())
            && segment.len.is_multiple_of(alignment)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    #[test]
    fn buffers_are_aligned_when_each_start_and_length_is() {
        let segment = |address, len| Segment { address: GuestAddress(address), len };
        assert!(is_aligned(&[segment(0x200, 0x200), segment(0x1000, 0x1000)], 512));
        assert!(!is_aligned(&[segment(0x200, 0x200)], 1024));
        assert!(!is_aligned(&[segment(0x1000, 0x1000), segment(0x1201, 0x200)], 512));
        assert!(!is_aligned(&[segment(0x1000, 0x1ff)], 512));
    }
}
