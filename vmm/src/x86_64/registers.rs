//! Gives a vCPU the registers that `arch-x86_64` computed.

use arch_x86_64::msrs::{BOOT_MSRS, FPU_CONTROL_WORD, MXCSR};
use arch_x86_64::registers::{BootState, SegmentRegister};
use kvm_bindings::{
    KVM_REG_GUEST_SSP, Msrs, kvm_dtable, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_x86_reg_kvm,
};
use kvm_ioctls::VcpuFd;

use crate::error::VmmError;

/// Sets the model-specific registers and the FPU, the same on every vCPU.
///
/// # Errors
/// [`VmmError::Kvm`] when KVM refuses one.
pub(super) fn set_common(vcpu: &VcpuFd) -> Result<(), VmmError> {
    let entries = BOOT_MSRS.map(|msr| kvm_msr_entry {
        index: msr.index,
        data: msr.value,
        ..Default::default()
    });
    let msrs = Msrs::from_entries(&entries).map_err(|_| VmmError::kvm_limit("KVM_SET_MSRS"))?;
    let count = vcpu.set_msrs(&msrs).map_err(|source| VmmError::kvm("KVM_SET_MSRS", source))?;
    if let Some(refused) = entries.get(count) {
        return Err(VmmError::RefusedMsr { index: refused.index });
    }
    let fpu = kvm_fpu { fcw: FPU_CONTROL_WORD, mxcsr: MXCSR, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(|source| VmmError::kvm("KVM_SET_FPU", source))
}

/// Puts the boot vCPU at the kernel's first instruction.
///
/// # Errors
/// [`VmmError::Kvm`] when KVM refuses the state.
pub(super) fn set_boot_state(vcpu: &VcpuFd, state: &BootState) -> Result<(), VmmError> {
    let mut special = vcpu.get_sregs().map_err(|source| VmmError::kvm("KVM_GET_SREGS", source))?;
    let data = segment(&state.data);
    special.cs = segment(&state.cs);
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    special.tr = segment(&state.tr);
    special.gdt = kvm_dtable { base: state.gdt_base, limit: state.gdt_limit, ..Default::default() };
    special.idt = kvm_dtable::default();
    special.cr0 = state.cr0;
    special.cr3 = state.cr3;
    special.cr4 = state.cr4;
    special.efer = state.efer;
    vcpu.set_sregs(&special).map_err(|source| VmmError::kvm("KVM_SET_SREGS", source))?;
    let general = kvm_regs {
        rip: state.rip,
        rsi: state.rsi,
        rbx: state.rbx,
        rflags: state.rflags,
        ..Default::default()
    };
    vcpu.set_regs(&general).map_err(|source| VmmError::kvm("KVM_SET_REGS", source))
}

/// Reads the current shadow stack's pointer; `None` where KVM gives its guests no shadow stacks.
pub(super) fn shadow_stack(vcpu: &VcpuFd) -> Option<u64> {
    let mut pointer = [0; size_of::<u64>()];
    vcpu.get_one_reg(kvm_x86_reg_kvm(KVM_REG_GUEST_SSP), &mut pointer).ok()?;
    Some(u64::from_le_bytes(pointer))
}

/// Sets what [`shadow_stack`] reads.
///
/// # Errors
/// KVM's error number.
pub(super) fn set_shadow_stack(vcpu: &VcpuFd, pointer: u64) -> Result<(), kvm_ioctls::Error> {
    if shadow_stack(vcpu) == Some(pointer) {
        return Ok(());
    }
    vcpu.set_one_reg(kvm_x86_reg_kvm(KVM_REG_GUEST_SSP), &pointer.to_le_bytes()).map(|_| ())
}

fn segment(register: &SegmentRegister) -> kvm_segment {
    kvm_segment {
        base: register.base,
        limit: register.limit,
        selector: register.selector,
        type_: register.type_,
        present: register.present.into(),
        dpl: register.dpl,
        db: register.db.into(),
        s: register.s.into(),
        l: register.l.into(),
        g: register.g.into(),
        ..Default::default()
    }
}
