//! Giving guest memory that the guest doesn't need back to the host.
#![expect(unsafe_code, reason = "madvise changes what mapped memory holds")]

use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::mm::{Advice, madvise};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::{GuestRam, GuestRegion, RegionTracking};

/// Where `mmap`'s flags keep the binary logarithm of a huge page's size (`MAP_HUGE_SHIFT`).
const HUGE_SHIFT: u32 = 26;
const HUGE_MASK: u32 = 0x3f;
/// Largest huge page of any host: what is assumed where the size can't be told.
const LARGEST_PAGE: u64 = 16 << 30;

/// Gives the host's pages behind `size` bytes at `start` back; the guest then reads zeros there.
/// Returns how many bytes that was.
///
/// Only whole host pages (huge ones where they back the memory) within the range are given back,
/// and nothing outside guest memory. Memory that is a private mapping of a file is left as it is:
/// it would show the file's content instead of zeros. Memory that is being copied while the guest
/// runs is left, too ([`PageTracking::hold`](crate::memory::PageTracking::hold)).
///
/// # Errors
/// Whatever `madvise` reports; the range may then be given back in part.
pub fn discard(memory: &GuestRam, start: GuestAddress, size: u64) -> io::Result<u64> {
    let mut discarded = 0;
    let end = start.raw_value().saturating_add(size);
    for region in memory.iter() {
        let region_start = region.start_addr().raw_value();
        let from = start.raw_value().max(region_start);
        let to = end.min(region_start.saturating_add(region.len()));
        if from < to {
            discarded += discard_in_region(region, from - region_start, to - region_start)?;
        }
    }
    Ok(discarded)
}

/// Gives back the whole pages of `from..to`, which are offsets into `region` and within it.
fn discard_in_region(region: &GuestRegion, from: u64, to: u64) -> io::Result<u64> {
    let shared = region.flags() & libc::MAP_SHARED != 0;
    let copied = region.tracking().is_held();
    if copied || region.file_offset().is_some() && !shared {
        return Ok(0);
    }
    let page = page_size(region);
    let from = from.next_multiple_of(page);
    let to = to - to % page;
    if from >= to {
        return Ok(0);
    }
    let (Ok(offset), Ok(len)) = (usize::try_from(from), usize::try_from(to - from)) else {
        return Ok(0);
    };
    let advice = if shared { Advice::LinuxRemove } else { Advice::LinuxDontNeed };
    let address = region.as_ptr().wrapping_add(offset);
    // SAFETY:
    // - `offset..offset + len` lies within the region: its caller cut it off at the region's end, and
    //   both ends were rounded inwards since. The region's mapping lives as long as `region`.
    // - The bytes become zeros. Nobody holds a reference to them: guest memory is only accessed
    //   volatile, and the guest may change it at any time anyway.
    unsafe { madvise(address.cast(), len, advice) }?;
    region.tracking().mark_dirty(offset, len);
    Ok(to - from)
}

/// Returns the size of the host's pages that back `region`. Its mapping starts at such a page.
pub fn page_size(region: &GuestRegion) -> u64 {
    let ordinary = u64::try_from(rustix::param::page_size()).unwrap_or(LARGEST_PAGE);
    let flags = region.flags().cast_unsigned();
    if flags & libc::MAP_HUGETLB.cast_unsigned() != 0 {
        return match flags >> HUGE_SHIFT & HUGE_MASK {
            0 => LARGEST_PAGE,
            shift => 1 << shift,
        };
    }
    match region.file_offset() {
        // hugetlbfs gives its page size as the block size; for other files it may be a large one,
        // too, for which only less is given back.
        Some(offset) => offset
            .file()
            .metadata()
            .map_or(LARGEST_PAGE, |file| file.blksize().next_power_of_two().max(ordinary)),
        None => ordinary,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use vm_memory::{Bytes, FileOffset, MmapRegion};

    use super::*;
    use crate::memory::testing::{taken, tracked_memory};

    const PAGE: u64 = 4096;
    const PAGE_BYTES: usize = 4096;

    fn filled(memory: GuestRam) -> GuestRam {
        for region in memory.iter() {
            let bytes = vec![0xaa; usize::try_from(region.len()).unwrap()];
            memory.write_slice(&bytes, region.start_addr()).unwrap();
        }
        memory
    }

    fn anonymous() -> GuestRam {
        // Two regions that touch, and a hole of a page before a third.
        let regions = [(0, 4), (4, 4), (9, 4)]
            .map(|(start, pages)| (GuestAddress(start * PAGE), pages * PAGE_BYTES));
        filled(GuestRam::from_ranges(&regions).unwrap())
    }

    fn of_file(file: File, flags: i32) -> GuestRam {
        file.set_len(4 * PAGE).unwrap();
        let region = MmapRegion::build(
            Some(FileOffset::new(file, 0)),
            4 * PAGE_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            flags | libc::MAP_NORESERVE,
        )
        .unwrap();
        let region = GuestRegion::new(region, GuestAddress(0)).unwrap();
        filled(GuestRam::from_regions(vec![region]).unwrap())
    }

    /// Returns the pages of which at least one byte is zero.
    fn zero_pages(memory: &GuestRam) -> Vec<u64> {
        let last = memory.last_addr().raw_value() / PAGE;
        (0..=last)
            .filter(|page| {
                let mut bytes = [0xaa; PAGE_BYTES];
                let _ = memory.read_slice(&mut bytes, GuestAddress(page * PAGE));
                bytes.contains(&0)
            })
            .collect()
    }

    #[test]
    fn whole_pages_become_zeros_and_nothing_else_does() {
        for (start, size, pages) in [
            (0, 2 * PAGE, vec![0, 1]),
            (1, 2 * PAGE, vec![1]),
            (1, PAGE, vec![]),
            (PAGE - 1, 1, vec![]),
            (3 * PAGE, 2 * PAGE, vec![3, 4]),
            (7 * PAGE, 3 * PAGE, vec![7, 9]),
            (2 * PAGE, 0, vec![]),
            (12 * PAGE, u64::MAX, vec![12]),
            (u64::MAX, u64::MAX, vec![]),
            (8 * PAGE, PAGE, vec![]),
        ] {
            let memory = anonymous();
            let discarded = discard(&memory, GuestAddress(start), size).unwrap();
            assert_eq!(discarded, pages.len() as u64 * PAGE, "{size:#x} bytes at {start:#x}");
            assert_eq!(zero_pages(&memory), pages, "{size:#x} bytes at {start:#x}");
        }
    }

    #[test]
    fn pages_of_a_shared_file_become_zeros_in_the_file_too() {
        let file =
            File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let memory = of_file(file.try_clone().unwrap(), libc::MAP_SHARED);
        assert_eq!(discard(&memory, GuestAddress(PAGE), PAGE).unwrap(), PAGE);
        // First, because a look through the mapping allocates the page anew.
        assert_eq!(file.metadata().unwrap().blocks() * 512, 3 * PAGE);
        assert_eq!(zero_pages(&memory), [1]);
    }

    #[test]
    fn pages_given_back_are_noted_as_written() {
        let memory = tracked_memory(&[0], 8 * PAGE_BYTES);
        discard(&memory, GuestAddress(PAGE + 1), 3 * PAGE).unwrap();
        assert_eq!(taken(&memory), [2, 3]);
    }

    #[test]
    fn memory_that_is_being_copied_is_left_alone() {
        let memory = anonymous();
        memory.iter().for_each(|region| region.tracking().hold(true));
        assert_eq!(discard(&memory, GuestAddress(0), 4 * PAGE).unwrap(), 0);
        memory.iter().for_each(|region| region.tracking().hold(false));
        assert_eq!(discard(&memory, GuestAddress(0), 4 * PAGE).unwrap(), 4 * PAGE);
    }

    #[test]
    fn private_file_mapping_is_left_alone() {
        let file =
            File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let memory = of_file(file, libc::MAP_PRIVATE);
        assert_eq!(discard(&memory, GuestAddress(0), 4 * PAGE).unwrap(), 0);
        assert!(zero_pages(&memory).is_empty());
    }
}
