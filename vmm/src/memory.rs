//! Guest memory: mapped without touching it, and shown to KVM.

use kvm_ioctls::VmFd;
use sys::memory::GuestRam;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::error::VmmError;
use crate::memory_slots;

/// Which pages back guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// The host's ordinary pages, transparent huge pages where the host's policy gives them.
    #[default]
    Ordinary,
    /// 2 MiB pages out of the host's reserved pool.
    Huge2M,
}

/// Maps guest memory at `ranges` (guest-physical address and length in bytes).
///
/// Nothing of it is touched or reserved: the host gives a page when the guest first uses it.
///
/// # Errors
/// [`VmmError::Memory`] when the host has no address space or no huge pages for it, or has less
/// memory in all than the guest is to get.
pub fn allocate(ranges: &[(GuestAddress, u64)], pages: Pages) -> Result<GuestRam, VmmError> {
    let size_bytes: u64 = ranges.iter().map(|(_, size)| size).sum();
    let fail = |reason: String| VmmError::Memory {
        size_mib: size_bytes >> 20,
        huge: pages == Pages::Huge2M,
        reason,
    };
    let host_bytes = host_memory_bytes();
    if size_bytes > host_bytes {
        return Err(fail(format!("this machine has {} MiB in all", host_bytes >> 20)));
    }
    let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    if pages == Pages::Huge2M {
        // Without a reservation, a missing huge page would be a SIGBUS in the middle of the guest.
        flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
    }
    let regions = ranges
        .iter()
        .map(|&(address, size)| {
            let size = usize::try_from(size).map_err(|error| fail(error.to_string()))?;
            let region = MmapRegionBuilder::new(size)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(flags)
                .with_hugetlbfs(pages == Pages::Huge2M)
                .build()
                .map_err(|error| fail(error.to_string()))?;
            GuestRegionMmap::new(region, address)
                .ok_or_else(|| fail(format!("it doesn't fit in the address space at {address:?}")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    GuestRam::from_regions(regions).map_err(|error| fail(error.to_string()))
}

/// Gives KVM every region of `memory` as a slot, in order from slot 0.
///
/// # Errors
/// [`VmmError::Kvm`] when KVM refuses a slot.
pub fn register(vm: &VmFd, memory: &GuestRam) -> Result<(), VmmError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        memory_slots::set(vm, slot, region)
            .map_err(|source| VmmError::kvm("KVM_SET_USER_MEMORY_REGION", source))?;
        log::debug!(
            "memory slot {slot}: {} MiB at {:#x}",
            region.len() >> 20,
            region.start_addr().0
        );
    }
    Ok(())
}

/// Returns how much RAM this machine has, in bytes.
fn host_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_mapped_where_they_were_asked_for() {
        let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(1 << 32), 2 << 20)];
        let memory = allocate(&ranges, Pages::Ordinary).unwrap();
        let found: Vec<_> = memory.iter().map(|r| (r.start_addr(), r.len())).collect();
        assert_eq!(found, ranges);
    }

    #[test]
    fn more_memory_than_the_machine_has_is_refused_with_both_figures() {
        let error = allocate(&[(GuestAddress(0), 1 << 46)], Pages::Ordinary).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&format!("{} MiB", 1 << 26)), "{message}");
        assert!(message.contains(&format!("{} MiB", host_memory_bytes() >> 20)), "{message}");
    }

    #[test]
    fn mapping_touches_no_page() {
        let before = resident_kib();
        let memory = allocate(&[(GuestAddress(0), 512 << 20)], Pages::Ordinary).unwrap();
        let after = resident_kib();
        assert!(after < before + 8 * 1024, "{before} KiB before, {after} KiB after");
        drop(memory);
    }

    fn resident_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}
