//! The page that a vCPU shares with KVM, as far as another thread may touch it.
#![expect(unsafe_code, reason = "maps and writes a page that KVM reads")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

/// Where `immediate_exit` stands in `struct kvm_run` (Linux's `Documentation/virt/kvm/api.rst` §5).
const IMMEDIATE_EXIT_OFFSET: usize = 1;

/// Makes a vCPU's next `KVM_RUN` return at once, from any thread.
///
/// A signal alone loses a race: when it arrives just before `KVM_RUN`, the vCPU enters the guest
/// all the same. So the flag is set first and the signal sent second: whichever the vCPU meets, it
/// comes out.
#[derive(Debug)]
pub struct ImmediateExit {
    page: NonNull<AtomicU8>,
    size_bytes: usize,
}

// SAFETY: the page stays mapped for as long as the value lives, and is only touched atomically.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    /// Maps the run page of the vCPU behind `vcpu`, which is `size_bytes` long
    /// (`KVM_GET_VCPU_MMAP_SIZE`).
    ///
    /// # Errors
    /// When the descriptor is no vCPU's or the page can't be mapped.
    pub fn new(vcpu: &impl AsRawFd, size_bytes: usize) -> io::Result<Self> {
        if size_bytes <= IMMEDIATE_EXIT_OFFSET {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: the reference to its owner keeps the descriptor open for this call.
        let vcpu = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        // SAFETY: the kernel chooses the address, so no mapping of ours is replaced.
        let page = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                size_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                vcpu,
                0,
            )
        }?;
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { page, size_bytes })
    }

    /// Sets or clears the flag.
    pub fn set(&self, exit: bool) {
        // SAFETY:
        // - The offset is inside the mapping: `new` checked its size.
        // - KVM and kvm-ioctls read this byte without assuming that it stays the same.
        let flag = unsafe { self.page.add(IMMEDIATE_EXIT_OFFSET).as_ref() };
        flag.store(u8::from(exit), Ordering::SeqCst);
    }
}

impl Drop for ImmediateExit {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this range, and no reference into it is left.
        let result = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), self.size_bytes) };
        if let Err(error) = result {
            log::error!("can't unmap a vCPU's run page: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A page that can be mapped as a vCPU's can.
    fn page() -> File {
        let file = rustix::fs::memfd_create("run", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(4096).unwrap();
        file
    }

    #[test]
    fn flag_is_the_second_byte_and_nothing_else_changes() {
        let page = page();
        let flag = ImmediateExit::new(&page, 4096).unwrap();
        for set in [true, false, true] {
            flag.set(set);
            let mut start = [0xff; 4];
            page.read_exact_at(&mut start, 0).unwrap();
            assert_eq!(start, [0, u8::from(set), 0, 0]);
        }
    }

    #[test]
    fn page_too_short_for_the_flag_and_what_cannot_be_mapped_are_refused() {
        for size_bytes in [0, 1] {
            assert!(ImmediateExit::new(&page(), size_bytes).is_err(), "{size_bytes}");
        }
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(ImmediateExit::new(&reader, 4096).is_err());
    }
}
