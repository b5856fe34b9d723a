//! What this host can do: all of it for `vmctl doctor`, and for every boot just whether it can run
//! Linux.
//!
//! Both answer from the same facts, so that they never disagree. The check before a
//! boot costs a handful of system calls.

mod cpu;
mod kvm;
mod system;
#[cfg(test)]
mod tests;

use std::io;
use std::thread::available_parallelism;

use api::event::ErrorKind;
use api::host::{DeviceAccess, HostReport, KvmBackend, KvmReport, Verdict};
use thiserror::Error;

use self::kvm::KvmFacts;

/// The device node of the kernel's virtual machines.
const DEV_KVM: &str = "/dev/kvm";

/// The API version that every kernel since 2.6.22 has, and that will never change.
const KVM_API_VERSION: i32 = 12;

/// Why a host can't run an unmodified Linux kernel as a guest.
#[derive(Debug, Error)]
pub enum HostError {
    /// The device node isn't there: no KVM in the kernel, or its module isn't loaded.
    #[error("there is no {DEV_KVM} on this host")]
    Missing,
    /// This user may not use the device node.
    #[error("this user may not open {DEV_KVM}")]
    Denied(#[source] io::Error),
    /// The device node can't be used for another reason.
    #[error("{DEV_KVM} can't be opened")]
    Unusable(#[source] io::Error),
    /// The interface is another one than ours.
    #[error("{DEV_KVM} speaks API version {0}, not {KVM_API_VERSION}")]
    ApiVersion(i32),
    /// KVM runs guests without the CPU's help.
    #[error(
        "KVM on this host has the PVM back end, which can't run an unmodified Linux kernel: the \
         CPU's virtualization (Intel VT-x, AMD-V) is not available here"
    )]
    Pvm,
    /// KVM answers, and the CPU has no virtualization that this process can see.
    #[error("this host's CPU offers no hardware virtualization (Intel VT-x, AMD-V)")]
    NoHardware,
    /// The kernel lacks what a VM is built from.
    #[error("this host's KVM lacks {0}")]
    MissingCapabilities(String),
}

impl HostError {
    /// The stable name of the sort of error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing => ErrorKind::KvmMissing,
            Self::Denied(_) => ErrorKind::KvmDenied,
            Self::Unusable(_)
            | Self::ApiVersion(_)
            | Self::Pvm
            | Self::NoHardware
            | Self::MissingCapabilities(_) => ErrorKind::KvmUnable,
        }
    }
}

/// Checks whether this host can run an unmodified Linux kernel as a guest.
///
/// # Errors
/// The first reason why it can't.
pub fn can_run_linux() -> Result<(), HostError> {
    judge(&KvmFacts::collect())
}

/// Finds out everything that a [`HostReport`] has. Opens device nodes and makes a ring, and leaves
/// none of them open.
#[must_use]
pub fn probe() -> HostReport {
    let facts = KvmFacts::collect();
    let verdict = verdict(&judge(&facts), facts.backend);
    let memory = system::memory();
    HostReport {
        arch: std::env::consts::ARCH.to_owned(),
        kernel_release: system::kernel_release(),
        cpus: available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1)),
        mem_total_mib: memory.total_mib,
        mem_available_mib: memory.available_mib,
        kvm: report(facts),
        virtualized: cpu::virtualized(),
        iommu_groups: system::iommu_groups(),
        huge_pages: system::huge_pages(),
        transparent_huge_pages: system::transparent_huge_pages(),
        tun: system::device_access("/dev/net/tun"),
        vhost_vsock: system::device_access("/dev/vhost-vsock"),
        vsock_sockets: system::vsock_sockets(),
        cgroup: system::cgroup_version(),
        io_uring: system::io_uring(),
        linux_guests: verdict,
    }
}

/// Decides by facts alone, so that every host can be tested on any host.
fn judge(facts: &KvmFacts) -> Result<(), HostError> {
    let kvm = match &facts.kvm {
        Ok(kvm) => kvm,
        Err(error) => return Err(open_error(error)),
    };
    if kvm.api_version != KVM_API_VERSION {
        return Err(HostError::ApiVersion(kvm.api_version));
    }
    match facts.backend {
        KvmBackend::Pvm => return Err(HostError::Pvm),
        KvmBackend::None => return Err(HostError::NoHardware),
        KvmBackend::Vmx | KvmBackend::Svm | KvmBackend::El2 => {}
    }
    let missing: Vec<_> = kvm.missing_capabilities().collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(HostError::MissingCapabilities(missing.join(", ")))
    }
}

fn open_error(error: &io::Error) -> HostError {
    let copy = || io::Error::from_raw_os_error(error.raw_os_error().unwrap_or_default());
    match error.kind() {
        io::ErrorKind::NotFound => HostError::Missing,
        io::ErrorKind::PermissionDenied => HostError::Denied(copy()),
        _ => HostError::Unusable(copy()),
    }
}

fn verdict(judgement: &Result<(), HostError>, backend: KvmBackend) -> Verdict {
    match judgement {
        Ok(()) => {
            let name = match backend {
                KvmBackend::Vmx => "Intel VT-x",
                KvmBackend::Svm => "AMD-V",
                KvmBackend::El2 => "Arm's EL2",
                KvmBackend::Pvm | KvmBackend::None => "KVM",
            };
            let because =
                format!("{DEV_KVM} is usable, has {name} behind it and all that a VM needs");
            Verdict { can_run: true, because, kind: None }
        }
        Err(error) => {
            Verdict { can_run: false, because: error.to_string(), kind: Some(error.kind()) }
        }
    }
}

fn report(facts: KvmFacts) -> KvmReport {
    let nested_guests = system::nested_parameter(facts.backend);
    match facts.kvm {
        Ok(kvm) => KvmReport {
            device: DeviceAccess::Ok,
            api_version: Some(kvm.api_version),
            backend: facts.backend,
            nested_guests,
            max_vcpus: Some(kvm.max_vcpus),
            capabilities: kvm
                .capabilities
                .into_iter()
                .map(|capability| (capability.name.to_owned(), capability.present))
                .collect(),
        },
        Err(error) => KvmReport {
            device: system::access_of(&error),
            api_version: None,
            backend: facts.backend,
            nested_guests,
            max_vcpus: None,
            capabilities: Default::default(),
        },
    }
}
