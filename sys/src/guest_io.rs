//! File I/O straight between a file and guest memory, without a copy in between.
#![expect(unsafe_code, reason = "preadv and pwritev take pointers into guest memory")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use libc::iovec;
use vm_memory::{GuestAddress, GuestMemory, Permissions};

use crate::memory::{self, GuestRam};

/// How many buffers one vectored call takes (`UIO_MAXIOV`). What is beyond them follows in the next
/// call, as after any short transfer.
const MAX_VECTORS: usize = 1024;

/// The host's addresses of guest buffers, with a cursor over what has been transferred.
///
/// Its pointers are only as good as the [`GuestRam`] that they came from: whoever hands them to the
/// kernel keeps that alive, and nobody dereferences them in this process.
#[derive(Default)]
pub(crate) struct IoVecs {
    vectors: Vec<iovec>,
    next: usize,
    /// The guest's addresses of the same, when its memory notes what is written.
    tracked: Vec<(GuestAddress, u32)>,
}

// SAFETY: the pointers are never dereferenced here, only handed to the kernel by the owners of this
// type, which hold the memory that they point to; a mapping isn't bound to a thread.
unsafe impl Send for IoVecs {}

impl IoVecs {
    /// Replaces what was here by the addresses of `buffers`; returns their length in bytes.
    pub(crate) fn fill(
        &mut self,
        memory: &GuestRam,
        buffers: impl IntoIterator<Item = (GuestAddress, u32)>,
    ) -> io::Result<u64> {
        self.clear();
        let tracked = memory::is_tracked(memory);
        let mut total: u64 = 0;
        for (address, len) in buffers {
            if tracked {
                self.tracked.push((address, len));
            }
            // Whether the kernel writes or reads: guest RAM is mapped for both.
            let slices = GuestMemory::get_slices(memory, address, len as usize, Permissions::Write);
            for slice in slices.map_err(io::Error::other)? {
                let slice = slice.map_err(io::Error::other)?;
                let base = slice.ptr_guard_mut().as_ptr().cast();
                self.vectors.push(iovec { iov_base: base, iov_len: slice.len() });
            }
            total = total.saturating_add(len.into());
        }
        Ok(total)
    }

    /// Replaces what was here by `len` bytes taken over and over from one buffer of `size` bytes.
    ///
    /// Covers what one call can take, if that's less; returns how much it covers.
    pub(crate) fn fill_repeated(&mut self, base: *mut u8, size: usize, len: u64) -> u64 {
        self.clear();
        let mut left = len;
        while left > 0 && self.vectors.len() < MAX_VECTORS {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(size);
            self.vectors.push(iovec { iov_base: base.cast(), iov_len: part });
            left -= part as u64;
        }
        len - left
    }

    fn clear(&mut self) {
        self.vectors.clear();
        self.tracked.clear();
        self.next = 0;
    }

    /// Notes that the kernel may have written all of the buffers: it is done with them.
    pub(crate) fn mark_dirty(&self, memory: &GuestRam) {
        for &(address, len) in &self.tracked {
            memory::mark_dirty(memory, address, len as usize);
        }
    }

    /// Returns what is left to transfer, as much as one call takes.
    pub(crate) fn remaining(&self) -> &[iovec] {
        let end = self.vectors.len().min(self.next + MAX_VECTORS);
        &self.vectors[self.next..end]
    }

    /// Moves the cursor over `bytes` transferred bytes.
    pub(crate) fn advance(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let Some(vector) = self.vectors.get_mut(self.next) else { return };
            if left < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(left);
                vector.iov_len -= left;
                return;
            }
            left -= vector.iov_len;
            self.next += 1;
        }
    }
}

/// Synchronous file I/O on guest memory.
///
/// Holds the memory and a list of vectors that every call uses again: no call allocates once the
/// list has grown to the largest request.
pub struct GuestIo {
    memory: GuestRam,
    vectors: IoVecs,
}

impl GuestIo {
    /// Creates an I/O context on `memory`.
    pub fn new(memory: GuestRam) -> Self {
        Self { memory, vectors: IoVecs::default() }
    }

    /// Reads from byte `offset` of `file` until all of `buffers` are full.
    ///
    /// # Errors
    /// The host's error; [`io::ErrorKind::UnexpectedEof`] when the file ends before; another kind
    /// when a buffer isn't in guest memory. Part of the buffers may have been written then.
    pub fn read_at(
        &mut self,
        file: &File,
        offset: u64,
        buffers: impl IntoIterator<Item = (GuestAddress, u32)>,
    ) -> io::Result<()> {
        let eof = Some(io::ErrorKind::UnexpectedEof);
        let result = self.transfer(offset, buffers, eof, |vectors, count, offset| {
            // SAFETY:
            // - `vectors` points to `count` iovecs, borrowed for the time of the call;
            // - each lies in a mapping that `self.memory` keeps in place, as `get_slices` checked;
            // - nothing in this process holds a Rust reference into guest memory.
            unsafe { libc::preadv(file.as_raw_fd(), vectors, count, offset) }
        });
        // What failed may have been done in part.
        self.vectors.mark_dirty(&self.memory);
        result.map(drop)
    }

    /// Reads from byte `offset` of `file` until all of `buffers` are full or the file ends; returns how
    /// many bytes that were.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at), without the end.
    pub fn read_up_to(
        &mut self,
        file: &File,
        offset: u64,
        buffers: impl IntoIterator<Item = (GuestAddress, u32)>,
    ) -> io::Result<u64> {
        let result = self.transfer(offset, buffers, None, |vectors, count, offset| {
            // SAFETY: as in `read_at`.
            unsafe { libc::preadv(file.as_raw_fd(), vectors, count, offset) }
        });
        self.vectors.mark_dirty(&self.memory);
        result
    }

    /// Writes all of `buffers` from byte `offset` of `file`; `durable` makes it return only when
    /// they (and what is needed to find them again) are on the disk: `RWF_DSYNC`.
    ///
    /// # Errors
    /// The host's error; [`io::ErrorKind::WriteZero`] when the file takes no more; another kind when
    /// a buffer isn't in guest memory. Part of the buffers may have been stored then.
    pub fn write_at(
        &mut self,
        file: &File,
        offset: u64,
        buffers: impl IntoIterator<Item = (GuestAddress, u32)>,
        durable: bool,
    ) -> io::Result<()> {
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let full = Some(io::ErrorKind::WriteZero);
        let result = self.transfer(offset, buffers, full, |vectors, count, offset| {
            if durable {
                // SAFETY: as in `read_at`; the kernel only reads the buffers.
                unsafe { libc::pwritev2(file.as_raw_fd(), vectors, count, offset, flags) }
            } else {
                // SAFETY: as in `read_at`; the kernel only reads the buffers.
                unsafe { libc::pwritev(file.as_raw_fd(), vectors, count, offset) }
            }
        });
        result.map(drop)
    }

    /// Calls `call` until everything is transferred; `at_end` is the error when nothing more is, if
    /// that's one. Returns how much was.
    fn transfer(
        &mut self,
        mut offset: u64,
        buffers: impl IntoIterator<Item = (GuestAddress, u32)>,
        at_end: Option<io::ErrorKind>,
        call: impl Fn(*const iovec, libc::c_int, libc::off_t) -> libc::ssize_t,
    ) -> io::Result<u64> {
        let total = self.vectors.fill(&self.memory, buffers)?;
        let mut left = total;
        while left > 0 {
            let vectors = self.vectors.remaining();
            let count = libc::c_int::try_from(vectors.len()).map_err(io::Error::other)?;
            let at = libc::off_t::try_from(offset)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            let done = match usize::try_from(call(vectors.as_ptr(), count, at)) {
                Ok(0) => match at_end {
                    Some(error) => return Err(error.into()),
                    None => break,
                },
                Ok(done) => done,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error => return Err(error),
                },
            };
            self.vectors.advance(done);
            offset = offset.saturating_add(done as u64);
            left = left.saturating_sub(done as u64);
        }
        Ok(total - left)
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "test patterns")]
mod tests {
    use super::*;
    use crate::memory::testing::{taken, tracked_memory};
    use std::os::unix::fs::FileExt;
    use vm_memory::Bytes;

    const PAGE: u32 = 0x1000;

    /// Two regions that touch each other, so that a buffer can lie in both.
    fn memory() -> GuestRam {
        let half = 0x80_0000;
        GuestRam::from_ranges(&[(GuestAddress(0), half), (GuestAddress(half as u64), half)])
            .unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn buffers_across_regions_are_read_and_written_in_order() {
        let memory = memory();
        let pattern: Vec<u8> = (0..3 * PAGE).map(|n| (n / 7) as u8).collect();
        let buffers = [(GuestAddress(0x1001), PAGE - 3), (GuestAddress(0x7f_f800), 2 * PAGE + 3)];
        let mut io = GuestIo::new(memory.clone());
        io.read_at(&file(&pattern), 0, buffers).unwrap();
        let mut tail = vec![0; 2 * PAGE as usize + 3];
        memory.read_slice(&mut tail, buffers[1].0).unwrap();
        assert_eq!(tail, pattern[PAGE as usize - 3..]);

        for durable in [false, true] {
            let copy = file(&[]);
            io.write_at(&copy, 512, buffers, durable).unwrap();
            let mut stored = vec![0; pattern.len()];
            copy.read_exact_at(&mut stored, 512).unwrap();
            assert_eq!(stored, pattern);
        }
    }

    #[test]
    fn pages_read_into_are_dirty_and_those_written_from_are_not() {
        let memory = tracked_memory(&[0], 16 * PAGE as usize);
        let mut io = GuestIo::new(memory.clone());
        let buffers = [(GuestAddress(0x1ff0), 0x20), (GuestAddress(0x5000), 0x1000)];
        io.write_at(&file(&[]), 0, buffers, false).unwrap();
        assert!(taken(&memory).is_empty());
        io.read_at(&file(&[1; 0x1020]), 0, buffers).unwrap();
        assert_eq!(taken(&memory), [1, 2, 5]);
        // What fails may have been done in part.
        io.read_at(&file(&[1; 0x10]), 0, buffers).unwrap_err();
        assert_eq!(taken(&memory), [1, 2, 5]);
    }

    #[test]
    fn more_buffers_than_one_call_takes_are_all_transferred() {
        let memory = memory();
        let count = MAX_VECTORS as u32 * 2 + 1;
        let pattern: Vec<u8> = (0..count * 2).map(|n| (n % 251) as u8).collect();
        let buffers = (0..count).map(|n| (GuestAddress(u64::from(n) * 4), 2));
        let mut io = GuestIo::new(memory);
        io.read_at(&file(&pattern), 0, buffers.clone()).unwrap();
        let copy = file(&[]);
        io.write_at(&copy, 0, buffers, false).unwrap();
        let mut stored = vec![0; pattern.len()];
        copy.read_exact_at(&mut stored, 0).unwrap();
        assert_eq!(stored, pattern);
    }

    #[test]
    fn read_past_the_end_is_an_unexpected_end() {
        let mut io = GuestIo::new(memory());
        let error = io.read_at(&file(&[1; 700]), 512, [(GuestAddress(0), 512)]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn read_up_to_the_end_tells_how_much_there_was() {
        let memory = memory();
        let mut io = GuestIo::new(memory.clone());
        let buffers = [(GuestAddress(0), 512), (GuestAddress(0x2000), 512)];
        assert_eq!(io.read_up_to(&file(&[1; 700]), 0, buffers).unwrap(), 700);
        let last = |at: u64| memory.read_obj::<u8>(GuestAddress(0x2000 + at)).unwrap();
        assert_eq!((last(187), last(188)), (1, 0));
        assert_eq!(io.read_up_to(&file(&[1; 700]), 700, buffers).unwrap(), 0);
        assert_eq!(io.read_up_to(&file(&[1; 1024]), 0, buffers).unwrap(), 1024);
        assert_eq!(io.read_up_to(&file(&[1; 1024]), 0, []).unwrap(), 0);
        io.read_up_to(&file(&[]), u64::MAX, buffers).unwrap_err();
    }

    #[test]
    fn buffer_outside_memory_is_refused_before_any_transfer() {
        let target = file(&[]);
        let mut io = GuestIo::new(memory());
        for address in [0x100_0000, 0xff_fe01, u64::MAX - 3] {
            let buffers = [(GuestAddress(0), 512), (GuestAddress(address), 512)];
            assert!(io.write_at(&target, 0, buffers, false).is_err());
            assert!(io.read_at(&target, 0, buffers).is_err());
        }
        assert_eq!(target.metadata().unwrap().len(), 0);
    }

    #[test]
    fn offset_that_no_file_has_is_refused() {
        let mut io = GuestIo::new(memory());
        assert!(io.read_at(&file(&[]), u64::MAX, [(GuestAddress(0), 512)]).is_err());
    }

    #[test]
    fn cursor_stops_inside_and_between_vectors() {
        let memory = memory();
        let mut vectors = IoVecs::default();
        let total = vectors.fill(&memory, [(GuestAddress(0), 10), (GuestAddress(100), 20)]);
        assert_eq!(total.unwrap(), 30);
        vectors.advance(4);
        assert_eq!(vectors.remaining().iter().map(|v| v.iov_len).collect::<Vec<_>>(), [6, 20]);
        vectors.advance(6);
        assert_eq!(vectors.remaining().len(), 1);
        vectors.advance(20);
        assert!(vectors.remaining().is_empty());
        vectors.advance(1);
    }
}
