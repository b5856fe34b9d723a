//! Applies the configuration's changes to what the guest's CPUs announce.

use api::config::{Bitmap, CpuTemplate, CpuidRegister as Register, KvmCapability as Capability};
use arch_x86_64::cpu_template as arch;
use arch_x86_64::cpuid::Register as ArchRegister;
use kvm_ioctls::Kvm;

use crate::error::VmmError;
use crate::x86_64::{self, HostCpuid, StateError};

/// Returns what vCPUs are offered on this host once `template` has changed it.
///
/// # Errors
/// [`VmmError::State`] when a capability or a CPUID leaf isn't there.
pub(super) fn apply(
    template: &CpuTemplate,
    kvm: &Kvm,
    cpuid: HostCpuid,
) -> Result<HostCpuid, VmmError> {
    let template = translate(template);
    x86_64::check_capabilities(kvm, &template)?;
    Ok(cpuid.with_template(template).map_err(StateError::from)?)
}

/// Translates a template into the architecture's own type.
fn translate(template: &CpuTemplate) -> arch::CpuTemplate {
    let cpuid = template.cpuid_modifiers.iter().map(|leaf| arch::CpuidModifier {
        leaf: leaf.leaf,
        subleaf: leaf.subleaf,
        has_subleaf: leaf.flags & 1 != 0,
        registers: leaf
            .modifiers
            .iter()
            .map(|modifier| (register(modifier.register), bitmap(modifier.bitmap)))
            .collect(),
    });
    let msrs = template
        .msr_modifiers
        .iter()
        .map(|msr| arch::MsrModifier { index: msr.addr, bits: bitmap(msr.bitmap) });
    let kvm_capabilities = template.kvm_capabilities.iter().map(|capability| match *capability {
        Capability::Needed(number) => arch::KvmCapability::Needed(number),
        Capability::Waived(number) => arch::KvmCapability::Waived(number),
    });
    arch::CpuTemplate {
        cpuid: cpuid.collect(),
        msrs: msrs.collect(),
        kvm_capabilities: kvm_capabilities.collect(),
    }
}

fn register(register: Register) -> ArchRegister {
    match register {
        Register::Eax => ArchRegister::Eax,
        Register::Ebx => ArchRegister::Ebx,
        Register::Ecx => ArchRegister::Ecx,
        Register::Edx => ArchRegister::Edx,
    }
}

fn bitmap<T>(bitmap: Bitmap<T>) -> arch::Bitmap<T> {
    arch::Bitmap { mask: bitmap.mask, value: bitmap.value }
}
