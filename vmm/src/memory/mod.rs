//! Guest memory: mapped without touching it, and shown to KVM.

mod backing;
mod dirty;

pub use backing::{Backing, Pages, allocate, allocate_shared, load, map_snapshot};
pub use dirty::DirtyPages;
pub(crate) use dirty::runs;

use arch::MemoryLayout;
use kvm_ioctls::VmFd;
use snapshot::MemoryRegion;
use sys::memory::{GuestRam, RegionTracking};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::error::VmmError;
use crate::memory_slots;

/// Gives KVM every region of `memory` as a slot, in order from slot 0.
///
/// # Errors
/// [`VmmError::Kvm`] when KVM refuses a slot.
pub fn register(vm: &VmFd, memory: &GuestRam) -> Result<(), VmmError> {
    for (slot, region) in (0..).zip(memory.iter()) {
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

/// Checks that `memory`, which came with a snapshot, lies where this machine has its RAM.
///
/// # Errors
/// [`VmmError::Snapshot`] with both layouts.
pub fn check_layout(memory: &GuestRam, layout: &MemoryLayout) -> Result<(), VmmError> {
    let theirs = regions(memory);
    let ours = layout
        .ram
        .iter()
        .map(|ram| MemoryRegion { guest_address: ram.start().0, size_bytes: ram.size() });
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
