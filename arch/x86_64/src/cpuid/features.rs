//! The registers of CPUID whose bits are features, and the bits' names as in `/proc/cpuinfo`.

use super::Register::{self, Eax, Ebx, Ecx, Edx};

/// Leaf, subleaf, register, and the names of its bits from the lowest on; `-` is none that's known.
type Word = (u32, u32, Register, &'static str);

/// SDM 2A, CPUID; AMD APM 3 appendix E; Linux's `Documentation/virt/kvm/x86/cpuid.rst` for leaf
/// 0x4000_0001.
pub(super) const FEATURE_WORDS: &[Word] = &[
    (
        0x1,
        0,
        Ecx,
        "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - \
         pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c \
         rdrand hypervisor",
    ),
    (
        0x1,
        0,
        Edx,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - \
         dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
    ),
    (
        0x7,
        0,
        Ebx,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm \
         zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb \
         intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
    ),
    (
        0x7,
        0,
        Ecx,
        "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq \
         avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect \
         cldemote - movdiri movdir64b enqcmd sgx_lc pks",
    ),
    (
        0x7,
        0,
        Edx,
        "- - avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl md_clear \
         rtm_always_abort - tsx_force_abort serialize hybrid_cpu tsxldtrk - pconfig arch_lbr ibt - \
         amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d arch_capabilities \
         core_capabilities spec_ctrl_ssbd",
    ),
    (
        0x7,
        1,
        Eax,
        "sha512 sm3 sm4 - avx_vnni avx512_bf16 - cmpccxadd arch_perfmon_ext - fzrm fsrs fsrc - - - \
         - fred lkgs wrmsrns - amx_fp16 - avx_ifma - - lam",
    ),
    (
        0x7,
        1,
        Edx,
        "- - - - avx_vnni_int8 avx_ne_convert - - amx_complex - avx_vnni_int16 - - - prefetchi - - \
         - - avx10",
    ),
    (0x7, 2, Edx, "intel_psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no"),
    (
        0xd,
        0,
        Eax,
        "xcr0:x87 xcr0:sse xcr0:avx xcr0:bndregs xcr0:bndcsr xcr0:opmask xcr0:zmm_hi256 \
         xcr0:hi16_zmm - xcr0:pkru - - - - - - - xcr0:xtilecfg xcr0:xtiledata",
    ),
    (0xd, 0, Edx, ""),
    (0xd, 1, Eax, "xsaveopt xsavec xgetbv1 xsaves xfd"),
    (0xd, 1, Ecx, ""),
    (
        0x4000_0001,
        0,
        Eax,
        "kvm:clocksource kvm:nop_io_delay kvm:mmu_op kvm:clocksource2 kvm:async_pf kvm:steal_time \
         kvm:pv_eoi kvm:pv_unhalt - kvm:pv_tlb_flush kvm:async_pf_vmexit kvm:pv_send_ipi \
         kvm:poll_control kvm:pv_sched_yield kvm:async_pf_int kvm:msi_ext_dest_id \
         kvm:hc_map_gpa_range kvm:migration_control - - - - - - kvm:clocksource_stable",
    ),
    (
        0x8000_0001,
        0,
        Ecx,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop \
         skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc \
         perfctr_llc mwaitx",
    ),
    (
        0x8000_0001,
        0,
        Edx,
        "fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov pat pse36 - mp nx - \
         mmxext mmx fxsr fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    ),
    (0x8000_0007, 0, Edx, "- - - - - - - - invariant_tsc"),
    (
        0x8000_0008,
        0,
        Ebx,
        "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp - \
         amd_stibp_always_on - - - - - amd_ppin amd_ssbd virt_ssbd amd_ssb_no cppc amd_psfd btc_no \
         amd_ibpb_ret brs",
    ),
    (
        0x8000_0021,
        0,
        Eax,
        "no_nested_data_bp wrmsr_xx_base_ns lfence_rdtsc - - verw_clear null_sel_clr_base - \
         autoibrs no_smm_ctl_msr - - - - - - - - - - - - - - - - - sbpb ibpb_brtype srso_no \
         srso_user_kernel_no",
    ),
];

/// Bits that say nothing of the host: the guest's kernel switches them (APIC, OSXSAVE, OSPKE,
/// MONITOR), or they describe the VM's own topology, timer and hypervisor.
pub(super) const DYNAMIC_OR_OWN: &[(u32, u32, Register, u32)] = &[
    (0x1, 0, Ecx, super::MONITOR | super::TSC_DEADLINE | super::OSXSAVE | super::HYPERVISOR),
    (0x1, 0, Edx, APIC | super::HTT),
    (0x7, 0, Ecx, OSPKE),
    (0x8000_0001, 0, Ecx, super::CMP_LEGACY),
    (0x8000_0001, 0, Edx, APIC),
];

/// Leaf 1 EDX and AMD's copy of it: the local APIC is on.
const APIC: u32 = 1 << 9;
/// Leaf 7.0 ECX: the OS has set CR4.PKE.
const OSPKE: u32 = 1 << 4;

/// Names bit `bit` of a register: the feature's name, or where it stands if it has none here.
pub(super) fn name(leaf: u32, subleaf: u32, register: Register, bit: u32) -> String {
    let words =
        FEATURE_WORDS.iter().filter(|word| (word.0, word.1, word.2) == (leaf, subleaf, register));
    let named = words
        .filter_map(|word| word.3.split_whitespace().nth(usize::try_from(bit).ok()?))
        .find(|name| *name != "-");
    match named {
        Some(name) => name.to_owned(),
        None => format!("CPUID {leaf:#x}.{subleaf} {register} bit {bit}"),
    }
}
