//! Guest memory: mapped without touching it, and shown to KVM.

mod backing;
mod dirty;

pub use backing::{Backing, Pages, allocate, allocate_shared, load, map_snapshot};
pub use dirty::DirtyPages;
pub(crate) use dirty::runs;

use kvm_ioctls::VmFd;
use snapshot::MemoryRegion;
use sys::memory::{GuestRam, RegionTracking};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::error::VmmError;
use crate::memory_slots;

/// Gives KVM the first `count` regions of `memory` as slots, in order from slot 0. Those behind are
/// shown to the guest when they are plugged.
///
/// # Errors
/// [`VmmError::Kvm`] when KVM refuses a slot.
pub fn register(vm: &VmFd, memory: &GuestRam, count: usize) -> Result<(), VmmError> {
    for (slot, region) in (0..).zip(memory.iter().take(count)) {
        memory_slots::set(vm, slot, region)
            .map_err(|source| VmmError::kvm("KVM_SET_USER_MEMORY_REGION", source))?;
        log::debug!(
            "memory slot {slot}: {} MiB at {:#x}{}",
            region.len() >> 20,
            region.start_addr().0,
            if region.tracking().is_tracked() { ", dirty pages tracked" } else { "" },
        );
    }
    Ok(())
}

/// Returns the regions as a snapshot's header names them.
pub fn regions(memory: &GuestRam) -> Vec<MemoryRegion> {
    let region = |region: &sys::memory::GuestRegion| MemoryRegion {
        guest_address: region.start_addr().0,
        size_bytes: region.len(),
    };
    memory.iter().map(region).collect()
}

/// Checks that `memory`, which came with a snapshot, lies where this machine has its own: at `ranges`.
///
/// # Errors
/// [`VmmError::Snapshot`] with both layouts.
pub fn check_layout(memory: &GuestRam, ranges: &[(GuestAddress, u64)]) -> Result<(), VmmError> {
    let theirs = regions(memory);
    let ours = ranges
        .iter()
        .map(|(start, size)| MemoryRegion { guest_address: start.0, size_bytes: *size });
    if ours.clone().eq(theirs.iter().copied()) {
        return Ok(());
    }
    let describe = |regions: Vec<MemoryRegion>| {
        let ranges = regions
            .iter()
            .map(|region| format!("{:#x}+{:#x}", region.guest_address, region.size_bytes));
        ranges.collect::<Vec<_>>().join(", ")
    };
    let reason = format!(
        "the snapshot's memory lies at {}, this machine's at {}",
        describe(theirs),
        describe(ours.collect())
    );
    Err(VmmError::snapshot("restore the guest's memory", reason))
}

#[cfg(test)]
mod tests;
