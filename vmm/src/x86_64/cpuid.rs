//! Asks KVM what a guest's CPUID may say, and tells each vCPU its own.

use arch_x86_64::cpu_template::{CpuTemplate, TemplateError};
use arch_x86_64::cpuid::{
    CpuSnapshot, CpuidEntry, IncompatibleCpu, VcpuPlace, address_bits, guest_entries,
};
use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

use snapshot::CpuSummary;

use crate::error::VmmError;

/// What KVM can offer a guest on this host, and what the guest is offered of it.
#[derive(Clone)]
pub(crate) struct HostCpuid {
    host: Vec<CpuidEntry>,
    /// The same after the template's changes.
    offered: Vec<CpuidEntry>,
    template: CpuTemplate,
    /// The size of a vCPU's extended state.
    xsave_bytes: u64,
}

impl HostCpuid {
    /// Reads it (`KVM_GET_SUPPORTED_CPUID`).
    ///
    /// # Errors
    /// [`VmmError::Kvm`] when KVM refuses.
    pub(crate) fn read(kvm: &Kvm) -> Result<Self, VmmError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|source| VmmError::kvm("KVM_GET_SUPPORTED_CPUID", source))?;
        // Zero or an error from a KVM that knows the least size only.
        let xsave_bytes = u64::try_from(kvm.check_extension_int(Cap::Xsave2)).unwrap_or_default();
        let host: Vec<_> = supported.as_slice().iter().map(from_kvm).collect();
        Ok(Self {
            offered: host.clone(),
            host,
            template: CpuTemplate::default(),
            xsave_bytes: xsave_bytes.max(size_of::<kvm_xsave>() as u64),
        })
    }

    /// Returns how many bits a guest-physical address has.
    pub(crate) fn address_bits(&self) -> u8 {
        address_bits(&self.host)
    }

    /// Offers guests what there is once `template` has changed it.
    ///
    /// # Errors
    /// [`TemplateError::NoLeaf`] when the template changes what this host doesn't have.
    pub(crate) fn with_template(mut self, template: CpuTemplate) -> Result<Self, TemplateError> {
        template.apply_to_cpuid(&mut self.offered)?;
        self.template = template;
        Ok(self)
    }

    /// Returns the changes that a user asked for.
    pub(super) fn template(&self) -> &CpuTemplate {
        &self.template
    }

    /// Describes the host's CPU in short.
    pub(crate) fn summary(&self) -> CpuSummary {
        let leaf = |function| self.host.iter().find(|entry| entry.function == function);
        // Three leaves of 16 characters each, filled up with zeros (APM 3 §E.4.3).
        let name = (0x8000_0002..=0x8000_0004).filter_map(leaf).flat_map(|entry| {
            [entry.eax, entry.ebx, entry.ecx, entry.edx].into_iter().flat_map(u32::to_le_bytes)
        });
        let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
        let signature = leaf(1).map_or(0, |entry| entry.eax);
        let base_family = signature >> 8 & 0xf;
        CpuSummary {
            vendor: CpuSnapshot::new(&self.host, &self.host, self.xsave_bytes).vendor,
            model_name: String::from_utf8_lossy(&name).trim().to_owned(),
            // Extended fields count where the base family has no more room (SDM 2A, CPUID).
            family: if base_family == 0xf {
                base_family + (signature >> 20 & 0xff)
            } else {
                base_family
            },
            model: signature >> 4 & 0xf | (signature >> 16 & 0xf) << 4,
            stepping: signature & 0xf,
        }
    }

    /// Describes the CPU of a guest whose vCPUs' CPUID says `guest`, for a snapshot's header.
    pub(crate) fn snapshot(&self, guest: &[CpuidEntry]) -> CpuSnapshot {
        CpuSnapshot::new(guest, &self.host, self.xsave_bytes)
    }

    /// Checks that a snapshot's guest can go on on this host.
    ///
    /// # Errors
    /// [`IncompatibleCpu`], which names what is missing.
    pub(crate) fn check(&self, snapshot: &CpuSnapshot) -> Result<(), IncompatibleCpu> {
        snapshot.check(&self.host, self.xsave_bytes)
    }

    /// Gives `vcpu` its own view of it.
    ///
    /// # Errors
    /// [`VmmError::Kvm`] when KVM refuses.
    pub(super) fn set(&self, vcpu: &VcpuFd, place: VcpuPlace) -> Result<(), VmmError> {
        let entries: Vec<_> = guest_entries(&self.offered, place).iter().map(to_kvm).collect();
        let cpuid =
            CpuId::from_entries(&entries).map_err(|_| VmmError::kvm_limit("KVM_SET_CPUID2"))?;
        vcpu.set_cpuid2(&cpuid).map_err(|source| VmmError::kvm("KVM_SET_CPUID2", source))
    }
}

pub(super) fn from_kvm(entry: &kvm_cpuid_entry2) -> CpuidEntry {
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

pub(super) fn to_kvm(entry: &CpuidEntry) -> kvm_cpuid_entry2 {
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
