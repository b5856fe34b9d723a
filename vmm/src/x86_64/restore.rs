//! Gives a new VM a saved state.

use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip,
};
use kvm_ioctls::{VcpuFd, VmFd};

use super::clock::{self, ClockPolicy};
use super::raw::{self, XsaveSize};
use super::state::{NameCall, StateError, VcpuState, VmKvmState};
use super::{cpuid, msrs, registers};
use crate::vcpu::Vcpu;

/// Gives `vm` and its new vCPUs the state of a saved VM.
///
/// Comes after [`super::prepare_vm`], with guest memory in place (paravirtual clocks are written
/// there) and before any vCPU's first `KVM_RUN`. The CPU was found fit with
/// [`super::HostCpuid::check`]. On an error the VM is of no more use.
///
/// # Errors
/// [`StateError`] when the state doesn't fit these vCPUs, or KVM refuses it.
pub(crate) fn restore(
    vm: &VmFd,
    vcpus: &[Vcpu],
    vcpu_states: &[VcpuState],
    state: &VmKvmState,
    policy: ClockPolicy,
) -> Result<(), StateError> {
    let (saved, created) = (vcpu_states.len(), vcpus.len());
    if saved != created {
        return Err(StateError::VcpuCount { saved, created });
    }
    let numbers = vcpu_states.iter().map(|state| usize::from(state.index));
    if !numbers.eq(0..saved) {
        return Err(StateError::malformed("its vCPUs aren't numbered from 0 on"));
    }
    let pairs = || vcpus.iter().map(|vcpu| &vcpu.fd).zip(vcpu_states);
    // CPUID first: it decides which registers there are. Then the time, all vCPUs at once: the
    // timers that the rest arms go by it.
    for (vcpu, state) in pairs() {
        set_cpuid(vcpu, state)?;
        set_tsc_khz(vcpu, state.tsc.khz)?;
    }
    clock::restore(vm, state.clock, policy)?;
    let tscs: Vec<_> = pairs().map(|(vcpu, state)| (vcpu, state.tsc)).collect();
    clock::restore_tscs(vm, &tscs)?;
    let xsave = XsaveSize::of(vm);
    for (vcpu, state) in pairs() {
        set_registers(vcpu, state, xsave)?;
    }
    // Last: the I/O APIC delivers what was pending to the local APICs that are in place by now.
    set_irqchip(vm, KVM_IRQCHIP_PIC_MASTER, state.pic_master.0)?;
    set_irqchip(vm, KVM_IRQCHIP_PIC_SLAVE, state.pic_slave.0)?;
    set_irqchip(vm, KVM_IRQCHIP_IOAPIC, state.ioapic.0)
}

fn set_cpuid(vcpu: &VcpuFd, state: &VcpuState) -> Result<(), StateError> {
    let entries: Vec<_> = state.cpuid.iter().map(cpuid::to_kvm).collect();
    let entries = CpuId::from_entries(&entries)
        .map_err(|_| StateError::malformed(format!("{} CPUID entries", state.cpuid.len())))?;
    vcpu.set_cpuid2(&entries).call("KVM_SET_CPUID2")
}

/// Sets the counter's frequency where it isn't the host's. KVM scales only what differs by more than
/// it tolerates.
fn set_tsc_khz(vcpu: &VcpuFd, khz: Option<u32>) -> Result<(), StateError> {
    match khz {
        Some(khz) if vcpu.get_tsc_khz().ok() != Some(khz) => {
            vcpu.set_tsc_khz(khz).map_err(|source| StateError::TscFrequency { khz, source })
        }
        _ => Ok(()),
    }
}

fn set_registers(vcpu: &VcpuFd, state: &VcpuState, xsave: XsaveSize) -> Result<(), StateError> {
    if state.xsave.len() > xsave.bytes() {
        return Err(StateError::malformed(format!(
            "its extended registers have {} bytes; this host's have {}",
            state.xsave.len(),
            xsave.bytes()
        )));
    }
    vcpu.set_mp_state(state.mp_state.0).call("KVM_SET_MP_STATE")?;
    vcpu.set_regs(&state.regs.0).call("KVM_SET_REGS")?;
    vcpu.set_sregs(&state.sregs.0).call("KVM_SET_SREGS")?;
    raw::set_xsave(vcpu, xsave, &state.xsave).call("KVM_SET_XSAVE")?;
    vcpu.set_xcrs(&state.xcrs.0).call("KVM_SET_XCRS")?;
    vcpu.set_debug_regs(&state.debugregs.0).call("KVM_SET_DEBUGREGS")?;
    // After the registers that say where the APIC is and in which mode, before the timer's deadline.
    vcpu.set_lapic(&state.lapic.0).call("KVM_SET_LAPIC")?;
    msrs::restore(vcpu, &state.msrs)?;
    if let Some(pointer) = state.shadow_stack {
        registers::set_shadow_stack(vcpu, pointer).call("KVM_SET_ONE_REG")?;
    }
    // Last: setting registers forgets pending exceptions.
    vcpu.set_vcpu_events(&state.events.0).call("KVM_SET_VCPU_EVENTS")
}

/// Sets the chip `chip_id`, whichever the saved one says that it is.
fn set_irqchip(vm: &VmFd, chip_id: u32, state: kvm_irqchip) -> Result<(), StateError> {
    vm.set_irqchip(&kvm_irqchip { chip_id, ..state }).call("KVM_SET_IRQCHIP")
}
