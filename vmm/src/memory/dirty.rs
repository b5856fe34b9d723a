//! Which pages were written since the last snapshot.

use kvm_ioctls::VmFd;
use sys::memory::{GuestRam, PAGE_SIZE, RegionTracking};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::error::VmmError;

/// The pages that the guest and its devices wrote, taken from KVM's log and ours.
///
/// Taking them clears both logs. If nothing comes of the snapshot, dropping this notes them again: a
/// page that's in no log and in no snapshot would be lost. [`commit`](Self::commit) says that they
/// are in one.
#[derive(Debug)]
pub struct DirtyPages {
    memory: GuestRam,
    /// For each region, one bit per page of 4096 bytes, lowest first.
    regions: Vec<Vec<u64>>,
    committed: bool,
}

impl DirtyPages {
    /// Takes the dirty pages of `memory`, whose regions are `vm`'s slots from 0 on; `None` if they
    /// aren't tracked. The vCPUs and all that work for devices must be paused.
    ///
    /// # Errors
    /// [`VmmError::Kvm`].
    pub fn take(vm: &VmFd, memory: &GuestRam) -> Result<Option<Self>, VmmError> {
        Self::take_with(memory, |slot, len| match vm.get_dirty_log(slot, len) {
            // Memory that isn't plugged isn't the guest's to write. What was written before it was
            // unplugged is noted by us, as it was given back.
            Err(error) if error.errno() == libc::ENOENT => Ok(Vec::new()),
            log => log.map_err(|source| VmmError::kvm("KVM_GET_DIRTY_LOG", source)),
        })
    }

    /// Takes what is in our own log only, as if the guest had written nothing.
    #[cfg(test)]
    pub(crate) fn of_devices(memory: &GuestRam) -> Self {
        let nothing = |_, len: usize| Ok(vec![0; len.div_ceil(PAGE_SIZE * 64)]);
        Self::take_with(memory, nothing).unwrap().unwrap()
    }

    fn take_with(
        memory: &GuestRam,
        mut kvm_log: impl FnMut(u32, usize) -> Result<Vec<u64>, VmmError>,
    ) -> Result<Option<Self>, VmmError> {
        if !memory.iter().all(|region| region.tracking().is_tracked()) {
            return Ok(None);
        }
        // Dropped on an error, it puts back what was taken until then.
        let mut pages = Self { memory: memory.clone(), regions: Vec::new(), committed: false };
        for (slot, region) in (0..).zip(memory.iter()) {
            let kvm = kvm_log(slot, region.size())?;
            let mut bits = region.tracking().take().unwrap_or_default();
            for (ours, kvm) in bits.iter_mut().zip(kvm) {
                *ours |= kvm;
            }
            pages.regions.push(bits);
        }
        Ok(Some(pages))
    }

    /// Returns each region's bits, one per page of 4096 bytes, lowest first.
    pub fn regions(&self) -> &[Vec<u64>] {
        &self.regions
    }

    /// Returns how many pages are dirty.
    pub fn count(&self) -> u64 {
        self.regions.iter().flatten().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Forgets the pages: a snapshot that's in its place holds them.
    pub fn commit(mut self) {
        self.committed = true;
    }
}

impl Drop for DirtyPages {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        for (region, bits) in self.memory.iter().zip(&self.regions) {
            for (from, len) in runs(bits, region.len() / PAGE_SIZE as u64) {
                let (from, len) = (usize::try_from(from), usize::try_from(len));
                if let (Ok(from), Ok(len)) = (from, len) {
                    region.tracking().mark_dirty(from * PAGE_SIZE, len * PAGE_SIZE);
                }
            }
        }
    }
}

/// Returns the runs of ones among the first `pages` bits: first page and number of pages.
pub(crate) fn runs(bits: &[u64], pages: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let from = next(bits, at, pages, true)?;
        let to = next(bits, from, pages, false).unwrap_or(pages);
        at = to;
        Some((from, to - from))
    })
}

/// Returns the first bit from `at` on that is `wanted`.
fn next(bits: &[u64], mut at: u64, pages: u64, wanted: bool) -> Option<u64> {
    while at < pages {
        let word = *bits.get(usize::try_from(at / 64).ok()?)?;
        let word = if wanted { word } else { !word } >> (at % 64);
        if word != 0 {
            return Some(at + u64::from(word.trailing_zeros())).filter(|&at| at < pages);
        }
        at = (at / 64 + 1) * 64;
    }
    None
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::{Backing, allocate};

    fn memory() -> GuestRam {
        let backing = Backing { tracked: true, ..Backing::default() };
        let ranges = [(GuestAddress(0), 130 << 12), (GuestAddress(1 << 32), 64 << 12)];
        allocate(&ranges, &backing).unwrap()
    }

    fn take(memory: &GuestRam, kvm: &[(u32, u64)]) -> DirtyPages {
        let log = |slot, len: usize| {
            let mut bits = vec![0; len.div_ceil(PAGE_SIZE * 64)];
            for (_, page) in kvm.iter().filter(|(of, _)| *of == slot) {
                bits[usize::try_from(page / 64).unwrap()] |= 1 << (page % 64);
            }
            Ok(bits)
        };
        DirtyPages::take_with(memory, log).unwrap().unwrap()
    }

    #[test]
    fn pages_of_guest_and_devices_are_both_there() {
        let memory = memory();
        memory.write_obj(1u8, GuestAddress(5 << 12)).unwrap();
        memory.write_obj(1u8, GuestAddress((1 << 32) + (63 << 12))).unwrap();
        let dirty = take(&memory, &[(0, 5), (0, 129), (1, 0)]);
        assert_eq!(dirty.regions(), [vec![1 << 5, 0, 1 << 1], vec![1 | 1 << 63]]);
        assert_eq!(dirty.count(), 4);
        dirty.commit();
        assert_eq!(take(&memory, &[]).count(), 0);
    }

    #[test]
    fn pages_of_a_snapshot_that_failed_are_in_the_next() {
        let memory = memory();
        drop(take(&memory, &[(0, 1), (0, 2), (0, 64), (1, 63)]));
        let dirty = take(&memory, &[(0, 3)]);
        assert_eq!(dirty.regions(), [vec![0b1110, 1, 0], vec![1 << 63]]);
    }

    #[test]
    fn pages_taken_before_kvm_failed_are_not_lost() {
        let memory = memory();
        memory.write_obj(1u8, GuestAddress(5 << 12)).unwrap();
        let failed = DirtyPages::take_with(&memory, |slot, _| match slot {
            0 => Ok(vec![2, 0, 0]),
            _ => Err(VmmError::kvm_limit("KVM_GET_DIRTY_LOG")),
        });
        assert!(failed.is_err());
        assert_eq!(take(&memory, &[]).regions()[0], [0b10_0010, 0, 0]);
    }

    #[test]
    fn untracked_memory_has_no_dirty_pages_to_take() {
        let memory = allocate(&[(GuestAddress(0), 1 << 20)], &Backing::default()).unwrap();
        assert!(DirtyPages::take_with(&memory, |_, _| unreachable!()).unwrap().is_none());
    }

    #[test]
    fn runs_end_at_words_ends_and_at_the_last_page() {
        let all = |bits: &[u64], pages| runs(bits, pages).collect::<Vec<_>>();
        assert_eq!(all(&[], 0), []);
        assert_eq!(all(&[0, 0], 128), []);
        assert_eq!(all(&[u64::MAX, 1], 128), [(0, 65)]);
        assert_eq!(all(&[u64::MAX, u64::MAX], 100), [(0, 100)]);
        assert_eq!(all(&[1 | 1 << 63, 1 | 1 << 40], 100), [(0, 1), (63, 2)]);
    }
}
