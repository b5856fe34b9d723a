//! Random bytes from the host's kernel, written straight into guest memory.
#![expect(unsafe_code, reason = "getrandom fills memory that Rust may hold no reference to")]

use std::io;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

/// The host kernel's random number generator, as a source that never ends.
///
/// It needs neither `/dev` nor an open file, and blocks only while a host that has just started
/// hasn't gathered entropy.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelEntropy;

impl ReadVolatile for KernelEntropy {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buf: &mut VolatileSlice<B>,
    ) -> Result<usize, VolatileMemoryError> {
        let guard = buf.ptr_guard_mut();
        // SAFETY:
        // - `guard` points to `guard.len()` bytes that stay mapped and writable as long as the slice
        //   exists: it borrows the mapping.
        // - The kernel is the only writer here; the guest may write at the same time, which volatile
        //   memory allows.
        let count = unsafe { libc::getrandom(guard.as_ptr().cast(), guard.len(), 0) };
        let count = usize::try_from(count)
            .map_err(|_| VolatileMemoryError::IOError(io::Error::last_os_error()))?;
        buf.bitmap().mark_dirty(0, count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::GuestRam;

    #[test]
    fn fills_exactly_the_range_asked_for_across_regions() {
        let regions = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
        let memory = GuestRam::from_ranges(&regions).unwrap();
        memory.read_exact_volatile_from(GuestAddress(0xf80), &mut KernelEntropy, 0x100).unwrap();
        let mut bytes = [0; 0x2000];
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        assert!(bytes[..0xf80].iter().chain(&bytes[0x1080..]).all(|byte| *byte == 0));
        // A 16-byte block of zeros has a chance of 2^-128.
        assert!(bytes[0xf80..0x1080].chunks(16).all(|block| block.iter().any(|byte| *byte != 0)));
    }
}
