//! What a snapshot holds of KVM: of the VM as a whole, and of each vCPU.

use arch_x86_64::cpu_template::TemplateError;
use arch_x86_64::cpuid::CpuidEntry;
use kvm_bindings::{
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use serde::{Deserialize, Serialize};

use super::kvm_bytes::{KvmBytes, base64_bytes};

/// The state of the in-kernel interrupt controllers and of the VM's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VmKvmState {
    /// The first 8259.
    pub(super) pic_master: KvmBytes<kvm_irqchip>,
    /// The second 8259.
    pub(super) pic_slave: KvmBytes<kvm_irqchip>,
    /// The I/O APIC.
    pub(super) ioapic: KvmBytes<kvm_irqchip>,
    /// kvmclock.
    pub(super) clock: SavedClock,
}

/// kvmclock and the host's clock at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedClock {
    /// Nanoseconds of kvmclock.
    pub(super) kvmclock_ns: u64,
    /// Nanoseconds of the host's CLOCK_REALTIME.
    pub(super) realtime_ns: u64,
}

/// The state of one vCPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VcpuState {
    /// Its number, from 0.
    pub(super) index: u8,
    /// What its CPUID says.
    pub(super) cpuid: Vec<CpuidEntry>,
    /// Whether it runs, is halted, or waits for INIT or SIPI.
    pub(super) mp_state: KvmBytes<kvm_mp_state>,
    /// General registers.
    pub(super) regs: KvmBytes<kvm_regs>,
    /// Segments, control registers, EFER, APIC base.
    pub(super) sregs: KvmBytes<kvm_sregs>,
    /// FPU and vector registers, and more, in the standard format of XSAVE.
    #[serde(with = "base64_bytes")]
    pub(super) xsave: Vec<u8>,
    /// XCR0.
    pub(super) xcrs: KvmBytes<kvm_xcrs>,
    /// DR0 to DR7.
    pub(super) debugregs: KvmBytes<kvm_debugregs>,
    /// The local APIC's registers.
    pub(super) lapic: KvmBytes<kvm_lapic_state>,
    /// Model-specific registers but for the time-stamp counter.
    pub(super) msrs: Vec<SavedMsr>,
    /// The current shadow stack's pointer, which is in no other register while it is in use. None
    /// on kernels before 6.18, whose guests have no shadow stacks.
    #[serde(default)]
    pub(super) shadow_stack: Option<u64>,
    /// Pending exceptions, interrupts and NMIs.
    pub(super) events: KvmBytes<kvm_vcpu_events>,
    /// The time-stamp counter.
    pub(super) tsc: SavedTsc,
}

impl VcpuState {
    /// Returns what the vCPU's CPUID says.
    pub(crate) fn cpuid(&self) -> &[CpuidEntry] {
        &self.cpuid
    }
}

/// One model-specific register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedMsr {
    /// Register number.
    pub(super) index: u32,
    /// Value.
    pub(super) value: u64,
}

/// A vCPU's time-stamp counter, tied to kvmclock: the two advance together for ever, so the pair
/// says all about the counter whatever the host, and however long the gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedTsc {
    /// Its frequency; none on a host whose own isn't stable.
    pub(super) khz: Option<u32>,
    /// Its value…
    pub(super) value: u64,
    /// …when kvmclock had this many nanoseconds.
    pub(super) kvmclock_ns: u64,
    /// By how much it was ahead of the host's: this only matters as the difference between two
    /// vCPUs. None on hosts that don't tell.
    pub(super) offset: Option<u64>,
}

/// Why a vCPU's or a VM's state can't be read, or a saved or changed one can't be set.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A part of it has an impossible size.
    #[error("the saved state is damaged: {what}")]
    Malformed {
        /// What is wrong with it, in words.
        what: String,
    },
    /// The vCPUs aren't those that the state is of.
    #[error("the saved state has {saved} vCPUs, the machine {created}")]
    VcpuCount {
        /// How many there were.
        saved: usize,
        /// How many there are.
        created: usize,
    },
    /// This host's KVM refuses a register.
    #[error("this host's KVM can't set model-specific register {index:#x} to {value:#x}")]
    RefusedMsr {
        /// Its number.
        index: u32,
        /// Its value in the saved state.
        value: u64,
    },
    /// The guest's time-stamp counter ran at a frequency that this host can't give it.
    #[error("this host can't give the guest its time-stamp counter of {khz} kHz")]
    TscFrequency {
        /// The guest's frequency.
        khz: u32,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
    /// The host doesn't have what a CPU template changes.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The host's KVM can't do what a CPU template asks for.
    #[error("this host's KVM lacks capability {number}, which the CPU template asks for")]
    MissingCapability {
        /// Its number (`KVM_CAP_*`).
        number: u32,
    },
    /// KVM refused a request.
    #[error("KVM refused {call}")]
    Kvm {
        /// The ioctl's name.
        call: &'static str,
        /// The error that it gave.
        source: kvm_ioctls::Error,
    },
}

impl StateError {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }
}

/// Names the ioctl in the error of a call to KVM.
pub(super) trait NameCall<T> {
    /// Wraps the error as that of `call`.
    fn call(self, call: &'static str) -> Result<T, StateError>;
}

impl<T> NameCall<T> for Result<T, kvm_ioctls::Error> {
    fn call(self, call: &'static str) -> Result<T, StateError> {
        self.map_err(|source| StateError::Kvm { call, source })
    }
}
