//! What `/dev/kvm` says.

use std::io;

use api::host::KvmBackend;
use kvm_ioctls::{Cap, Kvm};

use super::{cpu, system};

/// Whether a capability is one that a VM can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    Useful,
}

/// Every capability that's looked at: its name without `KVM_CAP_`, and what it's for here.
const CAPABILITIES: &[(&str, Cap, Need)] = &[
    // Memory, interrupts and notifications: what the machine is assembled from.
    ("USER_MEMORY", Cap::UserMemory, Need::Required),
    ("IRQFD", Cap::Irqfd, Need::Required),
    ("IOEVENTFD", Cap::Ioeventfd, Need::Required),
    ("SIGNAL_MSI", Cap::SignalMsi, Need::Required),
    ("IRQ_ROUTING", Cap::IrqRouting, Need::Required),
    ("IMMEDIATE_EXIT", Cap::ImmediateExit, Need::Required),
    ("MP_STATE", Cap::MpState, Need::Required),
    #[cfg(target_arch = "x86_64")]
    ("IRQCHIP", Cap::Irqchip, Need::Required),
    #[cfg(target_arch = "x86_64")]
    ("EXT_CPUID", Cap::ExtCpuid, Need::Required),
    #[cfg(target_arch = "x86_64")]
    ("XSAVE", Cap::Xsave, Need::Required),
    #[cfg(target_arch = "aarch64")]
    ("ARM_PSCI_0_2", Cap::ArmPsci02, Need::Required),
    // What a VM gains by.
    #[cfg(target_arch = "x86_64")]
    ("XSAVE2", Cap::Xsave2, Need::Useful),
    #[cfg(target_arch = "x86_64")]
    ("XCRS", Cap::Xcrs, Need::Useful),
    ("ADJUST_CLOCK", Cap::AdjustClock, Need::Useful),
    ("ASYNC_PF", Cap::AsyncPf, Need::Useful),
    ("CLOCKSOURCE", Cap::Clocksource, Need::Useful),
    ("GET_TSC_KHZ", Cap::GetTscKhz, Need::Useful),
    ("KVMCLOCK_CTRL", Cap::KvmclockCtrl, Need::Useful),
    ("READONLY_MEM", Cap::ReadonlyMem, Need::Useful),
    ("SYNC_MMU", Cap::SyncMmu, Need::Useful),
    ("TSC_DEADLINE_TIMER", Cap::TscDeadlineTimer, Need::Useful),
    ("VCPU_EVENTS", Cap::VcpuEvents, Need::Useful),
];

/// A capability, and whether this kernel has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capability {
    pub(super) name: &'static str,
    pub(super) need: Need,
    pub(super) present: bool,
}

/// What an open `/dev/kvm` says.
#[derive(Clone, Debug)]
pub(super) struct OpenKvm {
    pub(super) api_version: i32,
    pub(super) max_vcpus: u32,
    pub(super) capabilities: Vec<Capability>,
}

/// All that the verdict is made from.
#[derive(Debug)]
pub(super) struct KvmFacts {
    pub(super) kvm: io::Result<OpenKvm>,
    pub(super) backend: KvmBackend,
}

impl KvmFacts {
    pub(super) fn collect() -> Self {
        let kvm = Kvm::new().map(|kvm| OpenKvm::ask(&kvm)).map_err(io::Error::from);
        Self { kvm, backend: backend(cpu::hardware(), system::module_loaded) }
    }
}

impl OpenKvm {
    fn ask(kvm: &Kvm) -> Self {
        let capabilities = CAPABILITIES
            .iter()
            .map(|&(name, cap, need)| Capability { name, need, present: kvm.check_extension(cap) })
            .collect();
        Self {
            api_version: kvm.get_api_version(),
            max_vcpus: u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX),
            capabilities,
        }
    }

    /// The names of capabilities that a VM needs and this kernel lacks.
    pub(super) fn missing_capabilities(&self) -> impl Iterator<Item = &'static str> {
        self.capabilities
            .iter()
            .filter(|capability| capability.need == Need::Required && !capability.present)
            .map(|capability| capability.name)
    }
}

/// Tells the back end by the CPU and by the modules that are there.
///
/// The kernel takes one back end for x86. A CPU with VT-x or AMD-V may still run PVM, if that's
/// the module that was loaded.
pub(super) fn backend(hardware: KvmBackend, module_loaded: impl Fn(&str) -> bool) -> KvmBackend {
    let is_pvm =
        module_loaded("kvm_pvm") && !module_loaded("kvm_intel") && !module_loaded("kvm_amd");
    if is_pvm { KvmBackend::Pvm } else { hardware }
}
