//! Model-specific registers and FPU state with which every vCPU starts.

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
