//! The one type of guest memory that every crate shares, and what is known of its pages.
#![expect(unsafe_code, reason = "madvise on guest memory")]

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::mm::{Advice, madvise};
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::mmap::NewBitmap;
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, Permissions,
    VolatileSlice,
};

/// Guest RAM as mapped into this process.
///
/// Cloning shares the mapping, which stays in place until the last clone is dropped: a worker that
/// holds a clone can't outlive the memory that it works on.
pub type GuestRam = GuestMemoryMmap<PageTracking>;

/// One region of [`GuestRam`].
pub type GuestRegion = GuestRegionMmap<PageTracking>;

/// A piece of guest memory that notes what is written through it.
pub type GuestSlice<'a> = VolatileSlice<'a, TrackedSlice<'a>>;

/// The page that dirty tracking counts in, in bytes: KVM's, whatever backs the memory.
pub const PAGE_SIZE: usize = 4096;

const PAGES_PER_WORD: usize = u64::BITS as usize;

/// Which pages of a region this process has written, and whether they may be given back.
///
/// KVM's dirty log tells what the guest wrote; what devices write on its behalf is here. Every write
/// through `vm-memory` is noted by itself; who hands raw pointers to the kernel calls
/// [`mark_dirty`] once the kernel is done with them (marking before could be harvested before).
///
/// Off unless made by [`tracked`](Self::tracked); a write then costs one branch.
#[derive(Debug, Default)]
pub struct PageTracking {
    dirty: Option<PageMap>,
    /// While set, [`discard`](crate::discard::discard) leaves the region alone.
    held: AtomicBool,
    /// Whether pages that were never touched have a content that somebody else supplies.
    lazy: AtomicBool,
}

impl PageTracking {
    /// Creates the tracking of a region of `len` bytes, with no page dirty.
    pub fn tracked(len: usize) -> Self {
        Self { dirty: Some(PageMap::new(len)), ..Self::default() }
    }

    /// Tells whether written pages are noted.
    pub fn is_tracked(&self) -> bool {
        self.dirty.is_some()
    }

    /// Returns the pages written since the last call, one bit each, lowest first, and forgets them.
    /// `None` when they aren't noted.
    ///
    /// Whoever wrote must have been seen to stop before: the bits carry no order of their own.
    pub fn take(&self) -> Option<Vec<u64>> {
        self.dirty.as_ref().map(PageMap::take)
    }

    /// Forbids or allows giving pages of the region back to the host.
    ///
    /// Whoever copies the memory while the guest runs holds it: a page that is given back is gone
    /// before it could be copied.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// Takes note that a page fault handler supplies the content of the region's missing pages.
    pub(crate) fn set_lazy(&self) {
        self.lazy.store(true, Ordering::SeqCst);
    }

    /// Tells whether a page fault handler supplies the content of the region's missing pages.
    pub fn is_lazy(&self) -> bool {
        self.lazy.load(Ordering::SeqCst)
    }

    /// Tells whether pages of the region may not be given back.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }
}

impl<'a> WithBitmapSlice<'a> for PageTracking {
    type S = TrackedSlice<'a>;
}

impl Bitmap for PageTracking {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some(pages) = &self.dirty {
            pages.mark(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.dirty.as_ref().is_some_and(|pages| pages.contains(offset))
    }

    fn slice_at(&self, offset: usize) -> TrackedSlice<'_> {
        TrackedSlice { dirty: self.dirty.as_ref(), offset }
    }
}

/// Memory that nobody asks about, as tests make it: not tracked.
impl NewBitmap for PageTracking {
    fn with_len(_len: usize) -> Self {
        Self::default()
    }
}

/// The part of a region's [`PageTracking`] that belongs to a [`GuestSlice`].
#[derive(Clone, Copy)]
pub struct TrackedSlice<'a> {
    dirty: Option<&'a PageMap>,
    offset: usize,
}

impl fmt::Debug for TrackedSlice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tracked = self.dirty.is_some();
        f.debug_struct("TrackedSlice")
            .field("tracked", &tracked)
            .field("offset", &self.offset)
            .finish()
    }
}

impl<'a> WithBitmapSlice<'a> for TrackedSlice<'_> {
    type S = Self;
}

impl BitmapSlice for TrackedSlice<'_> {}

impl Bitmap for TrackedSlice<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some(pages) = self.dirty {
            pages.mark(self.offset.saturating_add(offset), len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let at = self.offset.saturating_add(offset);
        self.dirty.is_some_and(|pages| pages.contains(at))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { dirty: self.dirty, offset: self.offset.saturating_add(offset) }
    }
}

/// One bit per page of [`PAGE_SIZE`] bytes.
struct PageMap {
    words: Box<[AtomicU64]>,
    pages: usize,
}

impl fmt::Debug for PageMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageMap").field("pages", &self.pages).finish_non_exhaustive()
    }
}

impl PageMap {
    fn new(len: usize) -> Self {
        let pages = len.div_ceil(PAGE_SIZE);
        let words = (0..pages.div_ceil(PAGES_PER_WORD)).map(|_| AtomicU64::new(0)).collect();
        Self { words, pages }
    }

    /// Sets the bits of all pages that `len` bytes at `offset` touch, as far as there are such.
    fn mark(&self, offset: usize, len: usize) {
        let Some(last) = len.checked_sub(1) else { return };
        let first = offset / PAGE_SIZE;
        let end = (offset.saturating_add(last) / PAGE_SIZE).saturating_add(1).min(self.pages);
        let mut page = first;
        while page < end {
            let bit = page % PAGES_PER_WORD;
            let count = (PAGES_PER_WORD - bit).min(end - page);
            let mask = (u64::MAX >> (PAGES_PER_WORD - count)) << bit;
            let word = &self.words[page / PAGES_PER_WORD];
            // Rings and hot buffers are marked over and over: a load is cheaper than a locked or.
            if word.load(Ordering::Relaxed) & mask != mask {
                word.fetch_or(mask, Ordering::Relaxed);
            }
            page += count;
        }
    }

    fn contains(&self, offset: usize) -> bool {
        let page = offset / PAGE_SIZE;
        let word = self.words.get(page / PAGES_PER_WORD);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (page % PAGES_PER_WORD) & 1 == 1)
    }

    fn take(&self) -> Vec<u64> {
        self.words.iter().map(|word| word.swap(0, Ordering::Relaxed)).collect()
    }
}

/// Tells whether writes to `memory` are noted.
pub fn is_tracked(memory: &GuestRam) -> bool {
    memory.iter().any(|region| region.tracking().is_tracked())
}

/// Notes that `len` bytes at `address` were written by other means than `vm-memory`'s.
///
/// What isn't guest memory is passed over.
pub fn mark_dirty(memory: &GuestRam, address: GuestAddress, len: usize) {
    let Ok(slices) = GuestMemory::get_slices(memory, address, len, Permissions::Write) else {
        return;
    };
    for slice in slices.flatten() {
        slice.bitmap().mark_dirty(0, slice.len());
    }
}

/// Has the host leave `region` out of the VMM's core dumps: what the guest has in memory is nobody
/// else's business, and gigabytes of it.
///
/// # Errors
/// What the operating system says.
pub fn leave_out_of_dumps(region: &GuestRegion) -> io::Result<()> {
    // SAFETY: the range is the mapping that `region` owns; the advice changes no content.
    unsafe { madvise(region.as_ptr().cast(), region.size(), Advice::LinuxDontDump) }?;
    Ok(())
}

/// Access to what is known of a region's pages.
pub trait RegionTracking {
    /// Returns the region's tracking.
    fn tracking(&self) -> &PageTracking;
}

impl RegionTracking for GuestRegion {
    fn tracking(&self) -> &PageTracking {
        // The region dereferences to its mapping, which owns the bitmap.
        vm_memory::MmapRegion::bitmap(self)
    }
}

/// Tracked memory for this crate's tests.
#[cfg(test)]
pub(crate) mod testing {
    use vm_memory::GuestMemoryRegion;
    use vm_memory::mmap::MmapRegionBuilder;

    use super::*;

    /// Makes regions of `size` bytes at each of `starts`, tracked.
    pub(crate) fn tracked_memory(starts: &[u64], size: usize) -> GuestRam {
        let regions = starts.iter().map(|&start| {
            let region = MmapRegionBuilder::new_with_bitmap(size, PageTracking::tracked(size))
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
                .build()
                .unwrap();
            GuestRegion::new(region, GuestAddress(start)).unwrap()
        });
        GuestRam::from_regions(regions.collect()).unwrap()
    }

    /// Takes the numbers of the dirty pages.
    pub(crate) fn taken(memory: &GuestRam) -> Vec<u64> {
        let mut pages = Vec::new();
        for region in memory.iter() {
            let first = region.start_addr().0 / PAGE_SIZE as u64;
            let words = region.tracking().take().unwrap();
            pages.extend((0..words.len() as u64 * 64).filter_map(|page| {
                let word = words[usize::try_from(page / 64).unwrap()];
                (word >> (page % 64) & 1 == 1).then_some(first + page)
            }));
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use vm_memory::Bytes;

    use super::testing::{taken, tracked_memory};
    use super::*;

    const PAGE: u64 = PAGE_SIZE as u64;

    /// Two regions of 130 pages with a hole in between.
    fn memory() -> GuestRam {
        tracked_memory(&[0, 1 << 30], 130 * PAGE_SIZE)
    }

    #[test]
    fn every_way_to_write_marks_the_pages_that_it_touches() {
        let memory = memory();
        memory.write_slice(&[1; 2], GuestAddress(PAGE - 1)).unwrap();
        assert_eq!(taken(&memory), [0, 1]);
        memory.write_obj(7u32, GuestAddress(63 * PAGE)).unwrap();
        memory.store(7u16, GuestAddress(64 * PAGE), Ordering::Relaxed).unwrap();
        memory.read_exact_volatile_from(GuestAddress(129 * PAGE), &mut &[1u8; 8][..], 8).unwrap();
        memory.write_slice(&[1], GuestAddress((1 << 30) + PAGE)).unwrap();
        assert_eq!(taken(&memory), [63, 64, 129, (1 << 30) / PAGE + 1]);
        assert!(taken(&memory).is_empty());
    }

    #[test]
    fn long_write_marks_whole_words_and_nothing_beside_them() {
        let memory = memory();
        memory.write_slice(&vec![1; 100 * PAGE_SIZE], GuestAddress(20 * PAGE)).unwrap();
        assert_eq!(taken(&memory), (20..120).collect::<Vec<_>>());
    }

    #[test]
    fn reading_marks_nothing() {
        let memory = memory();
        memory.read_obj::<u64>(GuestAddress(0)).unwrap();
        memory.read_slice(&mut [0; 100], GuestAddress(0)).unwrap();
        assert!(taken(&memory).is_empty());
    }

    #[test]
    fn range_beyond_the_region_marks_what_lies_within() {
        let memory = memory();
        let tracking = memory.iter().next().unwrap().tracking();
        tracking.mark_dirty(129 * PAGE_SIZE, usize::MAX);
        tracking.mark_dirty(usize::MAX, usize::MAX);
        tracking.mark_dirty(0, 0);
        mark_dirty(&memory, GuestAddress(u64::MAX), 2);
        mark_dirty(&memory, GuestAddress(512 << 20), 2);
        assert_eq!(taken(&memory), [129]);
        assert!(!tracking.dirty_at(usize::MAX));
    }

    #[test]
    fn memory_of_tests_is_not_tracked() {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), PAGE_SIZE)]).unwrap();
        memory.write_obj(1u8, GuestAddress(0)).unwrap();
        assert!(!is_tracked(&memory));
        assert_eq!(memory.iter().next().unwrap().tracking().take(), None);
    }
}
