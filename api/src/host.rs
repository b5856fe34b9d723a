//! What a host can do: made by `vmm --probe-host`, shown by `vmctl doctor`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::ErrorKind;

/// What was found on a host. Facts only; what to do about them is the reader's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The machine's architecture as `uname -m` has it.
    pub arch: String,
    /// The kernel's release as `uname -r` has it.
    pub kernel_release: String,
    /// CPUs that this process may run on.
    pub cpus: u32,
    /// The host's memory, in MiB.
    pub mem_total_mib: u64,
    /// Memory that new programs could have without swapping, in MiB.
    pub mem_available_mib: u64,
    /// The kernel's virtual machines.
    pub kvm: KvmReport,
    /// Whether the host is itself a virtual machine, as its CPU says.
    pub virtualized: Virtualized,
    /// IOMMU groups; 0 without an IOMMU that's in use.
    pub iommu_groups: u32,
    /// Reserved huge pages, one entry per size that the kernel knows, smallest first.
    pub huge_pages: Vec<HugePagePool>,
    /// The mode of transparent huge pages (`always`, `madvise`, `never`), if the kernel has them.
    pub transparent_huge_pages: Option<String>,
    /// `/dev/net/tun`: network interfaces of VMs.
    pub tun: DeviceAccess,
    /// `/dev/vhost-vsock`: not needed for a VM's vsock here, which is a Unix socket on the host.
    pub vhost_vsock: DeviceAccess,
    /// Whether the host's kernel has `AF_VSOCK` sockets; not needed either.
    pub vsock_sockets: bool,
    /// How control groups are mounted.
    pub cgroup: CgroupVersion,
    /// Whether io_uring can be used.
    pub io_uring: IoUring,
    /// Whether this host can run an unmodified Linux kernel as a guest.
    pub linux_guests: Verdict,
}

/// `/dev/kvm` and what's behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmReport {
    /// Whether the device may be opened for reading and writing.
    pub device: DeviceAccess,
    /// `KVM_GET_API_VERSION`; 12 on every kernel since 2007.
    pub api_version: Option<i32>,
    /// What runs guest code.
    pub backend: KvmBackend,
    /// Whether this host's guests may run virtual machines themselves, by the back end's module
    /// parameter.
    pub nested_guests: Option<bool>,
    /// The most vCPUs that a VM may have.
    pub max_vcpus: Option<u32>,
    /// Capabilities that a VM needs or gains by, each by its name without `KVM_CAP_`, and whether
    /// this kernel has it.
    pub capabilities: BTreeMap<String, bool>,
}

/// What runs guest code on a host with KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmBackend {
    /// Intel's VT-x.
    Vmx,
    /// AMD-V.
    Svm,
    /// A page-table based virtual machine: no hardware support, guest kernels must be made for it.
    Pvm,
    /// Arm's EL2.
    El2,
    /// No hardware support that this process can see.
    None,
}

/// Whether a host is itself a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Virtualized {
    /// The CPU reports no hypervisor.
    No,
    /// The CPU reports a hypervisor of this name (CPUID leaf 0x4000_0000), such as `KVMKVMKVM`.
    Yes(String),
    /// This architecture doesn't say.
    Unknown,
}

/// Whether this process can use a device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceAccess {
    /// It opens for reading and writing.
    Ok,
    /// There's no such node.
    Missing,
    /// This user may not open it.
    Denied,
    /// It opens no other way, with the system's message.
    Failed(String),
}

/// The reserved huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePagePool {
    /// The size of a page, in KiB.
    pub page_kib: u64,
    /// Pages that are reserved.
    pub total: u64,
    /// Pages that are free.
    pub free: u64,
}

/// How control groups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupVersion {
    /// The unified hierarchy.
    V2,
    /// Version 1 with the unified hierarchy beside it.
    Hybrid,
    /// Version 1 only.
    V1,
    /// Not mounted at the usual place.
    None,
}

/// Whether io_uring can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoUring {
    /// A ring was made.
    Ok,
    /// The kernel doesn't have it.
    Missing,
    /// It's switched off by sysctl or seccomp.
    Denied,
    /// A ring can't be made, with the system's message.
    Failed(String),
}

/// Whether a host can run an unmodified Linux kernel as a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The answer.
    pub can_run: bool,
    /// Why, as a sentence's end.
    pub because: String,
    /// What `vmctl boot` fails with here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<ErrorKind>,
}
