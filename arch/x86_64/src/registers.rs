//! Registers of the boot vCPU at the kernel's first instruction, and the GDT that they refer to.
//!
//! Other vCPUs need nothing of this: they wait for INIT and SIPI in the state in which KVM creates them.

use arch::BootProtocol;
use vm_memory::GuestAddress;

use crate::layout;

/// `CR0.PE`: protected mode (SDM 3A §2.5, as the other control register bits).
const CR0_PE: u64 = 1 << 0;
/// `CR0.ET`: always 1 since the 486.
const CR0_ET: u64 = 1 << 4;
/// `CR0.NE`: native reporting of x87 errors.
const CR0_NE: u64 = 1 << 5;
/// `CR0.PG`: paging.
const CR0_PG: u64 = 1 << 31;
/// `CR4.PAE`: entries of 64 bits, which long mode requires.
const CR4_PAE: u64 = 1 << 5;
/// `IA32_EFER.LME`: long mode enabled (SDM 3A §2.2.1).
const EFER_LME: u64 = 1 << 8;
/// `IA32_EFER.LMA`: long mode active.
const EFER_LMA: u64 = 1 << 10;
/// `RFLAGS` bit 1 is always 1; interrupts are off (SDM 1 §3.4.3).
const RFLAGS_RESERVED: u64 = 1 << 1;

/// Selector of the code segment, Linux's `__BOOT_CS` (Documentation/arch/x86/boot.rst, "64-bit
/// Boot Protocol").
const CODE_SELECTOR: u16 = 0x10;
/// Selector of the data segment, Linux's `__BOOT_DS`.
const DATA_SELECTOR: u16 = 0x18;
/// Selector of the task state segment.
const TSS_SELECTOR: u16 = 0x20;
/// Limit of the smallest TSS, 104 bytes (SDM 3A §8.2.1).
const TSS_LIMIT: u32 = 0x67;

/// A segment register with its hidden part (SDM 3A §3.4.3), named as in `struct kvm_segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRegister {
    /// Linear base address.
    pub base: u64,
    /// Last valid offset in bytes, granularity already applied.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// Type field (SDM 3A §3.4.5.1, Table 3-1 for code and data, Table 3-2 for system segments).
    pub type_: u8,
    /// Descriptor privilege level.
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// Default operation size: 32-bit.
    pub db: bool,
    /// Code or data segment, as opposed to a system segment.
    pub s: bool,
    /// 64-bit code segment.
    pub l: bool,
    /// Limit counts pages.
    pub g: bool,
}

impl SegmentRegister {
    /// Returns a flat 4 GiB segment of ring 0.
    const fn flat(selector: u16, type_: u8, long: bool) -> Self {
        Self {
            base: 0,
            limit: u32::MAX,
            selector,
            type_,
            dpl: 0,
            present: true,
            db: !long,
            s: true,
            l: long,
            g: true,
        }
    }

    /// Encodes the segment as a descriptor (SDM 3A §3.4.5, Figure 3-8).
    fn descriptor(&self) -> u64 {
        let limit = u64::from(if self.g { self.limit >> 12 } else { self.limit });
        (limit & 0xffff)
            | (self.base & 0xff_ffff) << 16
            | u64::from(self.type_) << 40
            | u64::from(self.s) << 44
            | u64::from(self.dpl) << 45
            | u64::from(self.present) << 47
            | (limit >> 16 & 0xf) << 48
            | u64::from(self.l) << 53
            | u64::from(self.db) << 54
            | u64::from(self.g) << 55
            | (self.base >> 24 & 0xff) << 56
    }
}

/// How the boot vCPU starts. Registers that aren't listed are zero or stay as KVM creates them
/// (notably `apic_base`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootState {
    /// First instruction.
    pub rip: u64,
    /// 64-bit Linux protocol: address of `boot_params`.
    pub rsi: u64,
    /// PVH: address of `hvm_start_info`.
    pub rbx: u64,
    /// Flags: interrupts off.
    pub rflags: u64,
    /// Code segment.
    pub cs: SegmentRegister,
    /// Each of DS, ES, FS, GS and SS.
    pub data: SegmentRegister,
    /// Task register. No local descriptor table goes with it.
    pub tr: SegmentRegister,
    /// GDT's base address.
    pub gdt_base: u64,
    /// GDT's last valid offset. The IDT is empty (base 0, limit 0).
    pub gdt_limit: u16,
    /// Control register 0.
    pub cr0: u64,
    /// Control register 3: the page tables' address, or 0 without paging.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// `IA32_EFER`.
    pub efer: u64,
}

impl BootState {
    /// Returns the state that `protocol` requires at `entry`.
    ///
    /// 64-bit Linux: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol". PVH: Xen's
    /// docs/misc/pvh.pandoc, "Initial state".
    pub fn new(protocol: BootProtocol, entry: GuestAddress) -> Self {
        let long = protocol == BootProtocol::Linux64;
        let state = Self {
            rip: entry.0,
            rsi: 0,
            rbx: 0,
            rflags: RFLAGS_RESERVED,
            // Types 0xb and 0x3: code, execute/read, and data, read/write, both accessed.
            cs: SegmentRegister::flat(CODE_SELECTOR, 0xb, long),
            data: SegmentRegister::flat(DATA_SELECTOR, 0x3, false),
            tr: SegmentRegister {
                base: 0,
                limit: TSS_LIMIT,
                selector: TSS_SELECTOR,
                // Busy TSS; 32-bit and 64-bit ones share the number.
                type_: 0xb,
                dpl: 0,
                present: true,
                db: false,
                s: false,
                l: false,
                g: false,
            },
            gdt_base: layout::GDT.start().0,
            gdt_limit: GDT_LIMIT,
            cr0: CR0_PE | CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
        };
        match protocol {
            BootProtocol::Linux64 => Self {
                rsi: layout::BOOT_PARAMS.start().0,
                cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
                cr3: layout::PAGE_TABLES.start().0,
                cr4: CR4_PAE,
                efer: EFER_LME | EFER_LMA,
                ..state
            },
            BootProtocol::Pvh => Self { rbx: layout::START_INFO.start().0, ..state },
        }
    }

    /// Encodes the GDT that the segment registers were loaded from.
    pub fn gdt(&self) -> [u8; GDT_BYTES] {
        let mut table = [0; GDT_BYTES];
        for segment in [&self.cs, &self.data, &self.tr] {
            let offset = usize::from(segment.selector);
            table[offset..offset + 8].copy_from_slice(&segment.descriptor().to_le_bytes());
        }
        table
    }
}

/// Size of the GDT: five descriptors and the upper half that a 64-bit TSS descriptor has
/// (SDM 3A §8.2.3).
pub const GDT_BYTES: usize = 6 * 8;

/// Its last valid offset.
const GDT_LIMIT: u16 = 6 * 8 - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux64_starts_in_long_mode_with_boot_params_in_rsi() {
        let state = BootState::new(BootProtocol::Linux64, GuestAddress(0x100_0200));
        assert_eq!((state.rip, state.rsi, state.rbx), (0x100_0200, 0x2000, 0));
        assert_eq!((state.cr0, state.cr3, state.cr4), (0x8000_0031, 0x8000, 0x20));
        assert_eq!(state.efer, 0x500);
        assert!(state.cs.l && !state.cs.db, "D must be clear in a 64-bit segment");
        assert_eq!((state.cs.selector, state.data.selector), (0x10, 0x18));
        assert_eq!(state.rflags & 1 << 9, 0, "interrupts must be off");
    }

    #[test]
    fn pvh_starts_in_flat_32_bit_mode_with_start_info_in_ebx() {
        let state = BootState::new(BootProtocol::Pvh, GuestAddress(0x100_0000));
        assert_eq!((state.rip, state.rsi, state.rbx), (0x100_0000, 0, 0x3000));
        assert_eq!((state.cr0, state.cr3, state.cr4, state.efer), (0x11, 0, 0, 0));
        assert!(state.cs.db && !state.cs.l);
        assert_eq!((state.cs.limit, state.data.limit, state.tr.limit), (u32::MAX, u32::MAX, 0x67));
    }

    #[test]
    fn gdt_holds_the_descriptors_at_their_selectors() {
        let words = |protocol| -> Vec<u64> {
            let gdt = BootState::new(protocol, GuestAddress(0)).gdt();
            gdt.chunks(8).map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap())).collect()
        };
        let (data, tss) = (0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067);
        assert_eq!(words(BootProtocol::Linux64), [0, 0, 0x00af_9b00_0000_ffff, data, tss, 0]);
        assert_eq!(words(BootProtocol::Pvh), [0, 0, 0x00cf_9b00_0000_ffff, data, tss, 0]);
    }
}
