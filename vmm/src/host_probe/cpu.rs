//! What the CPU says about virtualization, by its own instruction.

use api::host::{KvmBackend, Virtualized};

/// The CPU's own virtualization, if this machine's CPU shows one.
#[cfg(target_arch = "x86_64")]
pub(super) fn hardware() -> KvmBackend {
    use std::arch::x86_64::__cpuid;

    /// CPUID.01H:ECX.VMX (Intel SDM volume 2, CPUID).
    const VMX: u32 = 1 << 5;
    /// CPUID.8000_0001H:ECX.SVM (AMD APM volume 3, appendix E).
    const SVM: u32 = 1 << 2;
    /// The leaf that holds SVM's bit; the leaf 8000_0000H says whether it exists.
    const EXTENDED_FEATURES: u32 = 0x8000_0001;

    if __cpuid(1).ecx & VMX != 0 {
        return KvmBackend::Vmx;
    }
    let has_leaf = __cpuid(0x8000_0000).eax >= EXTENDED_FEATURES;
    if has_leaf && __cpuid(EXTENDED_FEATURES).ecx & SVM != 0 {
        return KvmBackend::Svm;
    }
    KvmBackend::None
}

/// Whether this machine is itself a virtual one.
#[cfg(target_arch = "x86_64")]
pub(super) fn virtualized() -> Virtualized {
    use std::arch::x86_64::__cpuid;

    /// CPUID.01H:ECX bit 31: reserved for hypervisors, 0 on hardware.
    const HYPERVISOR: u32 = 1 << 31;

    if __cpuid(1).ecx & HYPERVISOR == 0 {
        return Virtualized::No;
    }
    let leaf = __cpuid(0x4000_0000);
    let signature: Vec<u8> =
        [leaf.ebx, leaf.ecx, leaf.edx].into_iter().flat_map(u32::to_le_bytes).collect();
    Virtualized::Yes(signature_text(&signature))
}

/// Arm's CPU doesn't tell a process: KVM's device node, which needs EL2, has to do.
#[cfg(target_arch = "aarch64")]
pub(super) fn hardware() -> KvmBackend {
    KvmBackend::El2
}

/// Arm's CPU doesn't tell.
#[cfg(target_arch = "aarch64")]
pub(super) fn virtualized() -> Virtualized {
    Virtualized::Unknown
}

/// A hypervisor's signature without its padding and whatever else a terminal shouldn't get.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 has signatures"))]
pub(super) fn signature_text(bytes: &[u8]) -> String {
    let text: String =
        bytes.iter().copied().filter(|byte| matches!(byte, b' '..=b'~')).map(char::from).collect();
    if text.trim().is_empty() { "unknown".to_owned() } else { text.trim().to_owned() }
}
