//! What only KVM on x86_64 has: its irqchip, CPUID, and registers.

mod cpuid;
mod registers;

use arch_x86_64::cpuid::VcpuPlace;
use arch_x86_64::layout;
use arch_x86_64::registers::BootState;
use kvm_ioctls::{VcpuFd, VmFd};

use crate::error::VmmError;
pub(crate) use cpuid::HostCpuid;

/// Creates the in-kernel interrupt controllers and gives KVM the pages that it needs on some
/// processors. Must come before the first vCPU.
///
/// There's no PIT: with hardware-reduced ACPI Linux uses none, and KVM keeps a thread for each.
///
/// # Errors
/// [`VmmError::Kvm`] when KVM refuses.
pub(crate) fn prepare_vm(vm: &VmFd) -> Result<(), VmmError> {
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP.0)
        .map_err(|source| VmmError::kvm("KVM_SET_IDENTITY_MAP_ADDR", source))?;
    let tss =
        usize::try_from(layout::KVM_TSS.0).map_err(|_| VmmError::kvm_limit("KVM_SET_TSS_ADDR"))?;
    vm.set_tss_address(tss).map_err(|source| VmmError::kvm("KVM_SET_TSS_ADDR", source))?;
    vm.create_irq_chip().map_err(|source| VmmError::kvm("KVM_CREATE_IRQCHIP", source))
}

/// Gives a new vCPU its CPUID and registers: the boot vCPU those of the kernel's first instruction,
/// the others what they keep until the boot vCPU starts them.
///
/// # Errors
/// [`VmmError::Kvm`] when KVM refuses.
pub(crate) fn set_up_vcpu(
    vcpu: &VcpuFd,
    cpuid: &HostCpuid,
    place: VcpuPlace,
    boot_state: Option<&BootState>,
) -> Result<(), VmmError> {
    // CPUID first: it decides which registers there are.
    cpuid.set(vcpu, place)?;
    registers::set_common(vcpu)?;
    boot_state.map_or(Ok(()), |state| registers::set_boot_state(vcpu, state))
}
