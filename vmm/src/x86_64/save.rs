//! Reads a paused VM's state out of KVM.

use std::sync::Arc;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES,
    kvm_irqchip,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::kvm_bytes::KvmBytes;
use super::raw::XsaveSize;
use super::state::{NameCall, StateError, VcpuState, VmKvmState};
use super::{clock, cpuid, msrs, raw, registers};
use crate::error::VmmError;
use crate::vcpu::VcpuHandle;

/// Reads the state of one VM and of its vCPUs, which are all paused.
#[derive(Clone)]
pub(crate) struct StateReader {
    vm: Arc<VmFd>,
    msrs: Arc<[u32]>,
    xsave: XsaveSize,
}

impl StateReader {
    /// Asks KVM what there is to save.
    ///
    /// # Errors
    /// [`StateError::Kvm`] when KVM doesn't tell.
    pub(crate) fn new(kvm: &Kvm, vm: Arc<VmFd>) -> Result<Self, StateError> {
        let xsave = XsaveSize::of(&vm);
        Ok(Self { vm, msrs: msrs::to_save(kvm)?.into(), xsave })
    }

    /// Reads the state of all vCPUs, each on its own thread.
    ///
    /// # Errors
    /// [`VmmError::Vcpu`] unless all are paused, [`VmmError::State`] when KVM refuses.
    pub(crate) fn read_vcpus(&self, vcpus: &[VcpuHandle]) -> Result<Vec<VcpuState>, VmmError> {
        vcpus
            .iter()
            .map(|vcpu| {
                let (reader, index) = (self.clone(), vcpu.index());
                Ok(vcpu.call(move |fd| reader.read_vcpu(index, fd))??)
            })
            .collect()
    }

    /// Reads the state of the vCPU `index` behind `vcpu`, which isn't in `KVM_RUN` and has completed
    /// its last exit's access.
    ///
    /// # Errors
    /// [`StateError::Kvm`] when KVM refuses.
    pub(crate) fn read_vcpu(&self, index: u8, vcpu: &VcpuFd) -> Result<VcpuState, StateError> {
        // First: with it KVM takes in a pending INIT or SIPI, which changes all others.
        let mp_state = vcpu.get_mp_state().call("KVM_GET_MP_STATE")?;
        let cpuid = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).call("KVM_GET_CPUID2")?;
        Ok(VcpuState {
            index,
            cpuid: cpuid.as_slice().iter().map(cpuid::from_kvm).collect(),
            mp_state: KvmBytes(mp_state),
            regs: KvmBytes(vcpu.get_regs().call("KVM_GET_REGS")?),
            sregs: KvmBytes(vcpu.get_sregs().call("KVM_GET_SREGS")?),
            xsave: raw::xsave(vcpu, self.xsave).call("KVM_GET_XSAVE2")?,
            xcrs: KvmBytes(vcpu.get_xcrs().call("KVM_GET_XCRS")?),
            debugregs: KvmBytes(vcpu.get_debug_regs().call("KVM_GET_DEBUGREGS")?),
            lapic: KvmBytes(vcpu.get_lapic().call("KVM_GET_LAPIC")?),
            msrs: msrs::read(vcpu, &self.msrs)?,
            shadow_stack: registers::shadow_stack(vcpu),
            tsc: clock::save_tsc(&self.vm, vcpu)?,
            // Last: whatever the others made KVM queue is in it.
            events: KvmBytes(vcpu.get_vcpu_events().call("KVM_GET_VCPU_EVENTS")?),
        })
    }

    /// Reads the state of the interrupt controllers and the clock.
    ///
    /// # Errors
    /// [`StateError::Kvm`] when KVM refuses.
    pub(crate) fn read_vm(&self) -> Result<VmKvmState, StateError> {
        Ok(VmKvmState {
            pic_master: self.irqchip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: self.irqchip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: self.irqchip(KVM_IRQCHIP_IOAPIC)?,
            clock: clock::save(&self.vm)?,
        })
    }

    fn irqchip(&self, chip_id: u32) -> Result<KvmBytes<kvm_irqchip>, StateError> {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        self.vm.get_irqchip(&mut chip).call("KVM_GET_IRQCHIP")?;
        Ok(KvmBytes(chip))
    }
}
