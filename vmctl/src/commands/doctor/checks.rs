//! What each fact about a host means for someone who wants to run VMs there.

use std::fmt::Write as _;

use api::host::{
    CgroupVersion, DeviceAccess, HostReport, HugePagePool, IoUring, KvmBackend, Virtualized,
};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// VMs run without it; something is slower or not offered.
    Note,
    /// Linux guests don't run without it.
    Missing,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) level: Level,
    pub(super) found: String,
    /// What to do about it.
    pub(super) advice: Option<&'static str>,
}

/// Judges every fact of a report, in the order of the table.
pub(super) fn checks(report: &HostReport) -> Vec<Check> {
    vec![
        host(report),
        kvm_device(report),
        kvm_api(report),
        back_end(report),
        capabilities(report),
        virtualized(report),
        nested_guests(report),
        memory(report),
        huge_pages(report),
        io_uring(report),
        tun(report),
        vsock(report),
        iommu(report),
        cgroup(report),
    ]
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, level: Level::Ok, found: found.into(), advice: None }
}

fn note(name: &'static str, found: impl Into<String>, advice: &'static str) -> Check {
    Check { name, level: Level::Note, found: found.into(), advice: Some(advice) }
}

fn missing(name: &'static str, found: impl Into<String>, advice: &'static str) -> Check {
    Check { name, level: Level::Missing, found: found.into(), advice: Some(advice) }
}

fn host(report: &HostReport) -> Check {
    let found = format!("Linux {} on {}, {} CPUs", report.kernel_release, report.arch, report.cpus);
    ok("host", found)
}

fn kvm_device(report: &HostReport) -> Check {
    const NAME: &str = "/dev/kvm";
    match &report.kvm.device {
        DeviceAccess::Ok => ok(NAME, "may be opened"),
        DeviceAccess::Missing => missing(
            NAME,
            "isn't there",
            "switch on virtualization in the firmware and run modprobe kvm_intel or kvm_amd; in a \
             cloud VM, choose a type with nested virtualization; in a container, pass the device \
             in",
        ),
        DeviceAccess::Denied => missing(
            NAME,
            "may not be opened by this user",
            "sudo usermod -aG kvm $USER, then log in again",
        ),
        DeviceAccess::Failed(message) => {
            missing(NAME, format!("can't be opened: {message}"), "dmesg | grep -i kvm may say why")
        }
    }
}

fn kvm_api(report: &HostReport) -> Check {
    const NAME: &str = "KVM API";
    match (report.kvm.api_version, report.kvm.max_vcpus) {
        (Some(12), Some(vcpus)) => ok(NAME, format!("version 12, at most {vcpus} vCPUs a VM")),
        (Some(version), _) => missing(
            NAME,
            format!("version {version}"),
            "every Linux since 2007 has version 12: this is another driver's /dev/kvm",
        ),
        (None, _) => note(NAME, "unknown", "see /dev/kvm"),
    }
}

fn back_end(report: &HostReport) -> Check {
    const NAME: &str = "KVM back end";
    match report.kvm.backend {
        KvmBackend::Vmx => ok(NAME, "VMX (Intel VT-x)"),
        KvmBackend::Svm => ok(NAME, "SVM (AMD-V)"),
        KvmBackend::El2 => ok(NAME, "EL2 (Arm)"),
        KvmBackend::Pvm => missing(
            NAME,
            "PVM: virtual machines without the CPU's help",
            "unmodified Linux kernels need VT-x or AMD-V; cargo xtask lab -- COMMAND runs commands \
             in an emulated machine that has it",
        ),
        KvmBackend::None => missing(
            NAME,
            "none: the CPU shows neither VT-x nor AMD-V",
            "switch it on in the firmware; in a cloud VM, choose a type with nested virtualization; \
             cargo xtask lab -- COMMAND runs commands in an emulated machine that has it",
        ),
    }
}

fn capabilities(report: &HostReport) -> Check {
    const NAME: &str = "KVM capabilities";
    let all = &report.kvm.capabilities;
    if all.is_empty() {
        return note(NAME, "unknown", "see /dev/kvm");
    }
    let absent: Vec<_> =
        all.iter().filter(|(_, present)| !**present).map(|(name, _)| name.as_str()).collect();
    let mut found = format!("{} of {}", all.len() - absent.len(), all.len());
    if absent.is_empty() {
        return ok(NAME, found);
    }
    // Writing to a string can't fail.
    let _ = write!(found, ", without {}", absent.join(", "));
    // The verdict knows which of them a VM can't do without.
    note(NAME, found, "a newer host kernel has them all")
}

fn virtualized(report: &HostReport) -> Check {
    const NAME: &str = "nested";
    match &report.virtualized {
        Virtualized::No => ok(NAME, "no: this is a physical machine"),
        Virtualized::Unknown => ok(NAME, "unknown on this architecture"),
        Virtualized::Yes(hypervisor) => note(
            NAME,
            format!("yes: this is a virtual machine itself ({hypervisor})"),
            "guests' exits cost several times more than on a physical machine",
        ),
    }
}

fn nested_guests(report: &HostReport) -> Check {
    const NAME: &str = "VMs in guests";
    match report.kvm.nested_guests {
        Some(true) => ok(NAME, "possible"),
        Some(false) => note(
            NAME,
            "switched off",
            "load kvm_intel or kvm_amd with nested=1 if guests are to run VMs",
        ),
        None => ok(NAME, "unknown"),
    }
}

fn memory(report: &HostReport) -> Check {
    let found = format!("{} MiB, {} MiB available", report.mem_total_mib, report.mem_available_mib);
    if report.mem_available_mib < 256 {
        note("memory", found, "little is left for guests")
    } else {
        ok("memory", found)
    }
}

fn huge_pages(report: &HostReport) -> Check {
    const NAME: &str = "huge pages";
    const RESERVE: &str =
        "sysctl vm.nr_hugepages=N reserves N of 2 MiB, for --hugepages; they make guests faster";
    let transparent = report.transparent_huge_pages.as_deref().unwrap_or("not there");
    let pool = |pool: &HugePagePool| {
        format!("{} of {} MiB free, {}", pool.free, pool.page_kib / 1024, pool.total)
    };
    match report.huge_pages.iter().find(|pool| pool.page_kib == 2048) {
        Some(found) if found.free > 0 => {
            ok(NAME, format!("{} reserved; transparent: {transparent}", pool(found)))
        }
        Some(_) => note(NAME, format!("none of 2 MiB free; transparent: {transparent}"), RESERVE),
        None => note(
            NAME,
            format!("the kernel has none of 2 MiB; transparent: {transparent}"),
            "a kernel with CONFIG_HUGETLBFS offers --hugepages",
        ),
    }
}

fn io_uring(report: &HostReport) -> Check {
    const NAME: &str = "io_uring";
    const DISKS: &str = "disks use system calls instead (engine=sync)";
    match &report.io_uring {
        IoUring::Ok => ok(NAME, "usable"),
        IoUring::Missing => note(NAME, "not in this kernel", DISKS),
        IoUring::Denied => note(
            NAME,
            "switched off for this process",
            "sysctl kernel.io_uring_disabled=0, or a seccomp profile that allows it; disks use \
             system calls meanwhile",
        ),
        IoUring::Failed(message) => note(NAME, format!("fails: {message}"), DISKS),
    }
}

fn tun(report: &HostReport) -> Check {
    const NAME: &str = "/dev/net/tun";
    match &report.tun {
        DeviceAccess::Ok => ok(NAME, "may be opened"),
        DeviceAccess::Missing => note(NAME, "isn't there", "modprobe tun, for --net"),
        DeviceAccess::Denied => note(
            NAME,
            "may not be opened by this user",
            "chmod 666 /dev/net/tun is safe, as TAPs have owners; for --net",
        ),
        DeviceAccess::Failed(message) => {
            note(NAME, format!("can't be opened: {message}"), "needed for --net only")
        }
    }
}

fn vsock(report: &HostReport) -> Check {
    // A VM's vsock is a Unix socket here: none of this is needed, so none of it is a complaint.
    let device = match report.vhost_vsock {
        DeviceAccess::Ok => "usable",
        DeviceAccess::Missing => "not there",
        DeviceAccess::Denied | DeviceAccess::Failed(_) => "not usable",
    };
    let sockets = if report.vsock_sockets { "there" } else { "not there" };
    ok("vsock", format!("a Unix socket here; vhost {device}, AF_VSOCK {sockets}, not needed"))
}

fn iommu(report: &HostReport) -> Check {
    match report.iommu_groups {
        0 => note("IOMMU", "not in use", "needed for passing host devices to guests only"),
        groups => ok("IOMMU", format!("in use, {groups} groups")),
    }
}

fn cgroup(report: &HostReport) -> Check {
    const NAME: &str = "cgroup";
    const ADVICE: &str =
        "containers in VMs on this host want version 2 (systemd.unified_cgroup_hierarchy=1)";
    match report.cgroup {
        CgroupVersion::V2 => ok(NAME, "version 2"),
        CgroupVersion::Hybrid => note(NAME, "version 1, with version 2 beside it", ADVICE),
        CgroupVersion::V1 => note(NAME, "version 1", ADVICE),
        CgroupVersion::None => note(NAME, "not mounted", ADVICE),
    }
}
