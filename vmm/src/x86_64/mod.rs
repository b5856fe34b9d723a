//! What only KVM on x86_64 has: its irqchip, CPUID, registers, clocks, and all of them saved.

mod clock;
mod cpuid;
mod kvm_bytes;
mod msrs;
mod raw;
mod registers;
mod restore;
mod save;
mod state;
#[cfg(test)]
mod tests;

use arch_x86_64::cpu_template::{CpuTemplate, KvmCapability};
use arch_x86_64::cpuid::VcpuPlace;
use arch_x86_64::layout;
use arch_x86_64::registers::BootState;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::error::VmmError;
pub(crate) use clock::ClockPolicy;
pub(crate) use cpuid::HostCpuid;
pub(crate) use restore::restore;
pub(crate) use save::StateReader;
pub(crate) use state::{StateError, VcpuState, VmKvmState};

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
/// [`VmmError::Kvm`] when KVM refuses, [`VmmError::State`] when it refuses what a CPU template asks
/// for.
pub(crate) fn set_up_vcpu(
    vcpu: &VcpuFd,
    cpuid: &HostCpuid,
    place: VcpuPlace,
    boot_state: Option<&BootState>,
) -> Result<(), VmmError> {
    // CPUID first: it decides which registers there are.
    cpuid.set(vcpu, place)?;
    registers::set_common(vcpu)?;
    set_template_msrs(vcpu, cpuid.template())?;
    boot_state.map_or(Ok(()), |state| registers::set_boot_state(vcpu, state))
}

/// Makes `template`'s changes to a vCPU's model-specific registers.
fn set_template_msrs(vcpu: &VcpuFd, template: &CpuTemplate) -> Result<(), StateError> {
    let values = template.msr_values(|index| msrs::read_one(vcpu, index))?;
    let values: Vec<_> =
        values.iter().map(|msr| state::SavedMsr { index: msr.index, value: msr.value }).collect();
    msrs::write(vcpu, &values)
}

/// Checks that KVM has the capabilities that `template` asks for.
///
/// Waived ones aren't looked at: what every machine here needs was found to be there before, and
/// nothing else is asked for.
///
/// # Errors
/// [`StateError::MissingCapability`].
pub(crate) fn check_capabilities(kvm: &Kvm, template: &CpuTemplate) -> Result<(), StateError> {
    for capability in &template.kvm_capabilities {
        if let KvmCapability::Needed(number) = *capability
            && kvm.check_extension_raw(number.into()) <= 0
        {
            return Err(StateError::MissingCapability { number });
        }
    }
    Ok(())
}
