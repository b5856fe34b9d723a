//! The one place that hands addresses of this process to KVM.
#![expect(unsafe_code, reason = "KVM maps the given host addresses into the guest")]

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use sys::memory::{GuestRegion, RegionTracking};
use vm_memory::GuestMemoryRegion;

/// Makes `region` the guest memory of `slot`, with a dirty log if the region's pages are tracked.
///
/// # Errors
/// KVM's error number: the slot overlaps another, or there are no more slots.
pub(crate) fn set(vm: &VmFd, slot: u32, region: &GuestRegion) -> Result<(), kvm_ioctls::Error> {
    let flags = if region.tracking().is_tracked() { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
    let description = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY:
    // - The range is a mapping that `region` owns, private to guest memory: nothing else lies in
    //   it, and Rust code reaches it through volatile accessors only.
    // - The mapping outlives every vCPU that could reach it through this slot: see `Machine`'s field
    //   order, and while it's being built no vCPU runs.
    unsafe { vm.set_user_memory_region(description) }
}
