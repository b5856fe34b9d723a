//! What only KVM on x86_64 has: its irqchip, CPUID, and registers.

mod cpuid;
mod registers;

use arch_x86_64::layout;
use arch_x86_64::registers::BootState;
use kvm_ioctls::{Kvm, VmFd};

use crate::error::VmmError;
pub use cpuid::HostCpuid;

/// Creates the in-kernel interrupt controllers and gives KVM the pages that it needs on some
/// processors. Must come before the first vCPU.
///
/// There's no PIT: with hardware-reduced ACPI Linux uses none, and KVM keeps a thread for each.
///
/// # Errors
/// [`VmmError::Kvm`] when KVM refuses.
pub fn prepare_vm(vm: &VmFd) -> Result<(), VmmError> {
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP.0)
        .map_err(|source| VmmError::kvm("KVM_SET_IDENTITY_MAP_ADDR", source))?;
    let tss = usize::try_from(layout::KVM_TSS.0).map_err(|_| VmmError::kvm_limit("KVM_SET_TSS_ADDR"))?;
    vm.set_tss_address(tss).map_err(|source| VmmError::kvm("KVM_SET_TSS_ADDR", source))?;
    vm.create_irq_chip().map_err(|source| VmmError::kvm("KVM_CREATE_IRQCHIP", source))
}
