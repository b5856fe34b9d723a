//! Files mapped for a guest to see as memory.
#![expect(unsafe_code, reason = "mmap and munmap")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A file in this process's address space, followed by zeros that aren't in the file.
///
/// Nothing in this process reads or writes it: it's for KVM to show to a guest. What the guest writes
/// to the file's part goes into the file, unless it's read-only; what it writes behind is lost.
///
/// If the file gets shorter, what's cut off can't be accessed any more: KVM then fails the guest's
/// access.
#[derive(Debug)]
pub struct FileMapping {
    address: NonNull<c_void>,
    len: usize,
    writable: bool,
}

// SAFETY: the pointer is only handed to the kernel; a mapping isn't bound to a thread.
unsafe impl Send for FileMapping {}
// SAFETY: as above; no method accesses what is mapped.
unsafe impl Sync for FileMapping {}

impl FileMapping {
    /// Maps the first `file_len` bytes of `file`, and zeros up to `len` bytes in all.
    ///
    /// # Errors
    /// Whatever `mmap` reports, and [`io::ErrorKind::InvalidInput`] for an empty mapping or one that
    /// is shorter than the file.
    pub fn new(file: &File, file_len: usize, len: usize, writable: bool) -> io::Result<Self> {
        if file_len == 0 || len < file_len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut protection = ProtFlags::READ;
        protection.set(ProtFlags::WRITE, writable);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
        let address = unsafe { mmap_anonymous(null_mut(), len, protection, flags) }?;
        let Some(address) = NonNull::new(address) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        // From here on, dropping unmaps it.
        let mapping = Self { address, len, writable };
        let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the file's part replaces the beginning of the mapping made above, which is at least
        // as long and which nothing refers to yet.
        unsafe { mmap(address.as_ptr(), file_len, protection, flags, file, 0) }?;
        Ok(mapping)
    }

    /// Returns where it is in this process, for KVM.
    pub fn host_address(&self) -> u64 {
        self.address.as_ptr() as u64
    }

    /// Returns how long it is, in bytes, with the zeros.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Tells whether there's nothing, which is never so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tells whether the guest may write.
    pub fn is_writable(&self) -> bool {
        self.writable
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and nothing in this process points into it. Whoever
        // handed it to KVM took it back before: see the owner of the memory slot.
        if let Err(error) = unsafe { munmap(self.address.as_ptr(), self.len) } {
            log::error!("a file can't be unmapped: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file(content: &[u8]) -> File {
        let file = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        file.write_all_at(content, 0).unwrap();
        file
    }

    /// Reads what is mapped through the kernel.
    fn content(mapping: &FileMapping) -> Vec<u8> {
        let memory = File::open("/proc/self/mem").unwrap();
        let mut bytes = vec![0xff; mapping.len];
        memory.read_exact_at(&mut bytes, mapping.host_address()).unwrap();
        bytes
    }

    #[test]
    fn file_that_ends_within_a_page_is_followed_by_zeros() {
        let file = file(&[7; 5000]);
        let mapping = FileMapping::new(&file, 5000, 0x10_0000, true).unwrap();
        let bytes = content(&mapping);
        assert_eq!(bytes.len(), 0x10_0000);
        assert!(bytes[..5000].iter().all(|byte| *byte == 7));
        assert!(bytes[5000..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_written_reaches_the_file() {
        let file = file(&[7; 8192]);
        let mapping = FileMapping::new(&file, 8192, 8192, true).unwrap();
        let memory = File::options().write(true).open("/proc/self/mem").unwrap();
        memory.write_all_at(b"new", mapping.host_address() + 4096).unwrap();
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 4096).unwrap();
        assert_eq!(bytes, *b"new\x07");
    }

    #[test]
    fn empty_and_too_short_mappings_are_refused() {
        let file = file(&[7; 8192]);
        assert!(FileMapping::new(&file, 0, 4096, true).is_err());
        assert!(FileMapping::new(&file, 8192, 4096, true).is_err());
    }
}
