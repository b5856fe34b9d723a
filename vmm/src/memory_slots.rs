//! The one place that hands addresses of this process to KVM.
#![expect(unsafe_code, reason = "KVM maps the given host addresses into the guest")]

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use sys::file_mapping::FileMapping;
use sys::memory::{GuestRegion, RegionTracking};
use vm_memory::{GuestAddress, GuestMemoryRegion};

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

/// Shows `mapping` to the guest at `address`, as `slot`. What the guest writes to one that isn't
/// writable exits to this process.
///
/// The caller [`remove`]s the slot before it drops the mapping.
///
/// # Errors
/// KVM's error number: the slot overlaps another, or there are no more slots.
pub(crate) fn set_mapping(
    vm: &VmFd,
    slot: u32,
    address: GuestAddress,
    mapping: &FileMapping,
) -> Result<(), kvm_ioctls::Error> {
    let description = kvm_userspace_memory_region {
        slot,
        flags: if mapping.is_writable() { 0 } else { KVM_MEM_READONLY },
        guest_phys_addr: address.0,
        memory_size: mapping.len(),
        userspace_addr: mapping.host_address(),
    };
    // SAFETY:
    // - The range is all of a mapping that nothing in this process accesses.
    // - It outlives the slot: see `MappedFile`, the only user, which removes the slot first.
    unsafe { vm.set_user_memory_region(description) }
}

/// Takes `slot` away from the guest: what it accesses there exits to this process from now on.
///
/// # Errors
/// KVM's error number.
pub(crate) fn remove(vm: &VmFd, slot: u32) -> Result<(), kvm_ioctls::Error> {
    let description = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: 0,
        userspace_addr: 0,
    };
    // SAFETY: a slot of no size maps nothing; removing one leaves this process's memory as it is.
    unsafe { vm.set_user_memory_region(description) }
}
