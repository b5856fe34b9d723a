//! Model-specific registers and FPU state with which every vCPU starts, and which of them are saved.

use std::ops::RangeInclusive;

/// A model-specific register and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msr {
    /// Register number.
    pub index: u32,
    /// Value.
    pub value: u64,
}

/// `IA32_MISC_ENABLE` with fast string operations on (SDM 4 Table 2-2): without bit 0, Linux turns
/// off `rep movsb` copies. Memory types: `IA32_MTRR_DEF_TYPE` enabled (bit 11) with write-back as
/// the default (SDM 3A §12.11.2.1); a CPU comes out of reset uncached and firmware, of which there
/// is none here, sets this. The system call registers are as after reset (SDM 4 Table 2-2).
pub const BOOT_MSRS: [Msr; 10] = [
    Msr { index: 0x174, value: 0 },           // IA32_SYSENTER_CS
    Msr { index: 0x175, value: 0 },           // IA32_SYSENTER_ESP
    Msr { index: 0x176, value: 0 },           // IA32_SYSENTER_EIP
    Msr { index: 0x1a0, value: 1 << 0 },      // IA32_MISC_ENABLE
    Msr { index: 0x2ff, value: 1 << 11 | 6 }, // IA32_MTRR_DEF_TYPE
    Msr { index: 0xc000_0081, value: 0 },     // IA32_STAR
    Msr { index: 0xc000_0082, value: 0 },     // IA32_LSTAR
    Msr { index: 0xc000_0083, value: 0 },     // IA32_CSTAR
    Msr { index: 0xc000_0084, value: 0 },     // IA32_FMASK
    Msr { index: 0xc000_0102, value: 0 },     // IA32_KERNEL_GS_BASE
];

/// x87 control word after `FNINIT`: all exceptions masked, 64-bit precision (SDM 1 §8.1.5).
pub const FPU_CONTROL_WORD: u16 = 0x37f;
/// `MXCSR` after reset: all exceptions masked (SDM 1 §10.2.3).
pub const MXCSR: u32 = 0x1f80;

/// `IA32_TIME_STAMP_COUNTER` (SDM 4 Table 2-2, as all here).
pub const IA32_TSC: u32 = 0x10;
/// `IA32_TSC_DEADLINE`: when the local APIC's timer is due.
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// Registers of a vCPU's state that KVM has and doesn't list (`KVM_GET_MSR_INDEX_LIST`): memory
/// types, and the machine-check banks.
pub const UNLISTED_MSRS: &[RangeInclusive<u32>] = &[
    0x200..=0x20f, // IA32_MTRR_PHYSBASE0 to IA32_MTRR_PHYSMASK7: KVM has eight
    0x250..=0x250, // IA32_MTRR_FIX64K_00000
    0x258..=0x259, // IA32_MTRR_FIX16K_80000, _A0000
    0x268..=0x26f, // IA32_MTRR_FIX4K_C0000 to _F8000
    0x2ff..=0x2ff, // IA32_MTRR_DEF_TYPE
    0x400..=0x47f, // IA32_MC0_CTL to IA32_MC31_MISC
];

/// Registers that aren't part of a vCPU's state though KVM lists them.
const UNSAVED_MSRS: &[RangeInclusive<u32>] = &[
    // IA32_TSC runs on: it has a place of its own in the state.
    IA32_TSC..=IA32_TSC,
    // IA32_PERF_CAPABILITIES: no guest has performance counters.
    0x345..=0x345,
    // IA32_VMX_BASIC to IA32_VMX_VMFUNC: no guest has VMX.
    0x480..=0x491,
    // Hyper-V's, which no guest is offered: writing one makes KVM emulate it from then on.
    0x4000_0000..=0x4000_01ff,
];

/// Says whether register `index`, if KVM lists it, is part of a vCPU's state.
pub fn is_saved(index: u32) -> bool {
    !UNSAVED_MSRS.iter().any(|range| range.contains(&index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_on_or_no_guest_has_is_not_saved() {
        for index in [IA32_TSC, 0x345, 0x480, 0x491, 0x4000_0000, 0x4000_0118] {
            assert!(!is_saved(index), "{index:#x}");
        }
        let unlisted = UNLISTED_MSRS.iter().cloned().flatten();
        for index in unlisted.chain([IA32_TSC_DEADLINE, 0x3b, 0x4b56_4d01, 0xc000_0081]) {
            assert!(is_saved(index), "{index:#x}");
        }
    }
}
