//! Asks KVM what a guest's CPUID may say, and tells each vCPU its own.

use arch_x86_64::cpuid::{CpuidEntry, VcpuPlace, address_bits, guest_entries};
use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::{Kvm, VcpuFd};

use crate::error::VmmError;

/// What KVM can offer a guest on this host.
pub(crate) struct HostCpuid(Vec<CpuidEntry>);

impl HostCpuid {
    /// Reads it (`KVM_GET_SUPPORTED_CPUID`).
    ///
    /// # Errors
    /// [`VmmError::Kvm`] when KVM refuses.
    pub(crate) fn read(kvm: &Kvm) -> Result<Self, VmmError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|source| VmmError::kvm("KVM_GET_SUPPORTED_CPUID", source))?;
        Ok(Self(supported.as_slice().iter().map(from_kvm).collect()))
    }

    /// Returns how many bits a guest-physical address has.
    pub(crate) fn address_bits(&self) -> u8 {
        address_bits(&self.0)
    }

    /// Gives `vcpu` its own view of it.
    ///
    /// # Errors
    /// [`VmmError::Kvm`] when KVM refuses.
    pub(super) fn set(&self, vcpu: &VcpuFd, place: VcpuPlace) -> Result<(), VmmError> {
        let entries: Vec<_> = guest_entries(&self.0, place).iter().map(to_kvm).collect();
        let cpuid =
            CpuId::from_entries(&entries).map_err(|_| VmmError::kvm_limit("KVM_SET_CPUID2"))?;
        vcpu.set_cpuid2(&cpuid).map_err(|source| VmmError::kvm("KVM_SET_CPUID2", source))
    }
}

fn from_kvm(entry: &kvm_cpuid_entry2) -> CpuidEntry {
    CpuidEntry {
        function: entry.function,
        index: entry.index,
        has_index: entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    }
}

fn to_kvm(entry: &CpuidEntry) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: entry.function,
        index: entry.index,
        flags: if entry.has_index { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
        ..Default::default()
    }
}
