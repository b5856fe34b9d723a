//! Which pages of guest memory have ever been given by the host: all others are zero, and needn't be
//! read to know it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use vm_memory::GuestMemoryRegion;

use crate::memory::{GuestRegion, PAGE_SIZE, RegionTracking};

const PAGE: u64 = PAGE_SIZE as u64;
const ENTRY_BYTES: u64 = 8;
const ENTRIES_AT_ONCE: u64 = 8192;
/// Bit 63: in memory; bit 62: swapped out, or being moved.
const THERE: u64 = 0b11 << 62;

/// Returns one bit for every page of `region`, lowest first: 0 if it's certainly zero.
///
/// Where the host doesn't tell (a private mapping of a file, missing pages that a page fault handler
/// supplies, no `/proc`), all are 1. Nobody may write meanwhile.
pub fn populated(region: &GuestRegion) -> Vec<u64> {
    let pages = region.len().div_ceil(PAGE);
    let shared = region.flags() & libc::MAP_SHARED != 0;
    let result = match region.file_offset() {
        _ if region.tracking().is_lazy() => Ok(None),
        None => of_anonymous(region.as_ptr() as u64, pages).map(Some),
        Some(file) if shared => of_file(file.file(), file.start(), region.len()).map(Some),
        Some(_) => Ok(None),
    };
    match result {
        Ok(Some(bits)) => bits,
        Ok(None) => all(pages),
        Err(error) => {
            log::debug!("the host doesn't tell which pages are zero: {error}");
            all(pages)
        }
    }
}

fn all(pages: u64) -> Vec<u64> {
    let mut bits = none(pages);
    set(&mut bits, 0, pages);
    bits
}

fn none(pages: u64) -> Vec<u64> {
    vec![0; usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX)]
}

fn set(bits: &mut [u64], from: u64, to: u64) {
    for page in from..to {
        if let Some(word) = usize::try_from(page / 64).ok().and_then(|index| bits.get_mut(index)) {
            *word |= 1 << (page % 64);
        }
    }
}

/// Asks `/proc/self/pagemap`, whose entries show to everybody which pages there are.
fn of_anonymous(address: u64, pages: u64) -> io::Result<Vec<u64>> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut bits = none(pages);
    let mut buffer = vec![0; usize::try_from(ENTRIES_AT_ONCE * ENTRY_BYTES).unwrap_or(0)];
    for first in (0..pages).step_by(usize::try_from(ENTRIES_AT_ONCE).unwrap_or(1)) {
        let count = (pages - first).min(ENTRIES_AT_ONCE);
        let len = usize::try_from(count * ENTRY_BYTES).unwrap_or(buffer.len());
        let buffer = &mut buffer[..len];
        pagemap.read_exact_at(buffer, (address / PAGE + first) * ENTRY_BYTES)?;
        // `first` is a multiple of 64: each word of the buffer's entries is a word of bits.
        let words = bits.iter_mut().skip(usize::try_from(first / 64).unwrap_or(usize::MAX));
        for (word, entries) in words.zip(buffer.chunks(64 * 8)) {
            let entries = entries.as_chunks::<8>().0.iter().rev();
            *word = entries.fold(0, |word, entry| {
                word << 1 | u64::from(u64::from_ne_bytes(*entry) & THERE != 0)
            });
        }
    }
    Ok(bits)
}

/// Asks the file, which other processes may have filled, too.
fn of_file(file: &File, start: u64, len: u64) -> io::Result<Vec<u64>> {
    let mut bits = none(len.div_ceil(PAGE));
    let end = start + len;
    let mut next = start;
    while next < end {
        let from = match rustix::fs::seek(file, SeekFrom::Data(next)) {
            Ok(from) if from < end => from,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let to = rustix::fs::seek(file, SeekFrom::Hole(from))?.min(end);
        set(&mut bits, (from - start) / PAGE, (to - start).div_ceil(PAGE));
        next = to;
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};
    use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, MmapRegion};

    use super::*;
    use crate::discard::discard;
    use crate::memory::GuestRam;

    const SIZE: usize = 100 * PAGE_SIZE;

    fn of_memfd(flags: i32) -> GuestRam {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(SIZE as u64 + PAGE).unwrap();
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let offset = FileOffset::new(file, PAGE);
        let region = MmapRegion::build(Some(offset), SIZE, prot, flags).unwrap();
        let region = GuestRegion::new(region, GuestAddress(0)).unwrap();
        GuestRam::from_regions(vec![region]).unwrap()
    }

    fn bits(memory: &GuestRam) -> Vec<u64> {
        populated(memory.iter().next().unwrap())
    }

    #[test]
    fn touched_pages_are_there_and_those_given_back_are_not() {
        let anonymous = GuestRam::from_ranges(&[(GuestAddress(0), SIZE)]).unwrap();
        for memory in [anonymous, of_memfd(libc::MAP_SHARED)] {
            assert_eq!(bits(&memory), [0, 0]);
            for page in [0, 63, 64, 99] {
                memory.write_obj(1u8, GuestAddress(page * PAGE)).unwrap();
            }
            assert_eq!(bits(&memory), [1 | 1 << 63, 1 | 1 << 35]);
            discard(&memory, GuestAddress(64 * PAGE), PAGE).unwrap();
            assert_eq!(bits(&memory), [1 | 1 << 63, 1 << 35]);
        }
    }

    #[test]
    fn missing_pages_that_a_handler_supplies_may_hold_anything() {
        use crate::uffd::{Mode, Uffd};
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), SIZE)]).unwrap();
        // Where it's forbidden, nobody can supply pages.
        let Ok(uffd) = Uffd::new(0) else { return };
        uffd.register(memory.iter().next().unwrap(), Mode::Missing).unwrap();
        assert_eq!(bits(&memory), [u64::MAX, (1 << 36) - 1]);
    }

    #[test]
    fn private_mapping_of_a_file_may_hold_anything_anywhere() {
        assert_eq!(bits(&of_memfd(libc::MAP_PRIVATE)), [u64::MAX, (1 << 36) - 1]);
    }
}
