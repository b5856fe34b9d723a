//! What the rest of the host's kernel says: `/sys`, `/proc`, device nodes.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use api::host::{CgroupVersion, DeviceAccess, HugePagePool, IoUring, KvmBackend};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use sys::uring::FileRing;

/// The host's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total_mib: u64,
    pub(super) available_mib: u64,
}

pub(super) fn memory() -> Memory {
    parse_meminfo(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

/// Reads `/proc/meminfo`'s lines such as `MemTotal:       16318412 kB`.
pub(super) fn parse_meminfo(text: &str) -> Memory {
    let mib = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .map_or(0, |kib| kib / 1024)
    };
    Memory { total_mib: mib("MemTotal"), available_mib: mib("MemAvailable") }
}

pub(super) fn kernel_release() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

/// Whether a kernel module is there, loaded or built in.
pub(super) fn module_loaded(name: &str) -> bool {
    Path::new("/sys/module").join(name).exists()
}

/// Whether the back end lets guests run virtual machines, by its module's parameter.
pub(super) fn nested_parameter(backend: KvmBackend) -> Option<bool> {
    let module = match backend {
        KvmBackend::Vmx => "kvm_intel",
        KvmBackend::Svm => "kvm_amd",
        KvmBackend::Pvm | KvmBackend::El2 | KvmBackend::None => return None,
    };
    let text = fs::read_to_string(format!("/sys/module/{module}/parameters/nested")).ok()?;
    parse_flag(&text)
}

/// Reads a module's boolean parameter, which older kernels have as a number.
pub(super) fn parse_flag(text: &str) -> Option<bool> {
    match text.trim() {
        "Y" | "1" => Some(true),
        "N" | "0" => Some(false),
        _ => None,
    }
}

pub(super) fn iommu_groups() -> u32 {
    let count = fs::read_dir("/sys/kernel/iommu_groups").map_or(0, Iterator::count);
    u32::try_from(count).unwrap_or(u32::MAX)
}

pub(super) fn huge_pages() -> Vec<HugePagePool> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut pools: Vec<_> =
        entries.filter_map(|entry| huge_page_pool(&entry.ok()?.path())).collect();
    pools.sort_by_key(|pool| pool.page_kib);
    pools
}

/// Reads a directory such as `hugepages-2048kB`.
fn huge_page_pool(dir: &Path) -> Option<HugePagePool> {
    let name = dir.file_name()?.to_str()?;
    let page_kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let count = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok();
    Some(HugePagePool { page_kib, total: count("nr_hugepages")?, free: count("free_hugepages")? })
}

pub(super) fn transparent_huge_pages() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    bracketed(&text)
}

/// The choice that a line such as `always [madvise] never` marks.
pub(super) fn bracketed(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (choice, _) = rest.split_once(']')?;
    Some(choice.to_owned())
}

/// Opens a device node as a VM would.
pub(super) fn device_access(path: &str) -> DeviceAccess {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => DeviceAccess::Ok,
        Err(error) => access_of(&error),
    }
}

pub(super) fn access_of(error: &io::Error) -> DeviceAccess {
    let no_driver = [rustix::io::Errno::NODEV, rustix::io::Errno::NXIO]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    match error.kind() {
        io::ErrorKind::NotFound => DeviceAccess::Missing,
        _ if no_driver => DeviceAccess::Missing,
        io::ErrorKind::PermissionDenied => DeviceAccess::Denied,
        _ => DeviceAccess::Failed(error.to_string()),
    }
}

pub(super) fn vsock_sockets() -> bool {
    socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None).is_ok()
}

pub(super) fn cgroup_version() -> CgroupVersion {
    cgroup_version_at(Path::new("/sys/fs/cgroup"))
}

/// Tells by the files that each version has at its mount point.
pub(super) fn cgroup_version_at(root: &Path) -> CgroupVersion {
    if root.join("cgroup.controllers").exists() {
        CgroupVersion::V2
    } else if root.join("unified/cgroup.controllers").exists() {
        CgroupVersion::Hybrid
    } else if root.join("memory").exists() || root.join("cpu").exists() {
        CgroupVersion::V1
    } else {
        CgroupVersion::None
    }
}

/// Asks as a disk does: sysctl, seccomp and an old kernel all show in how that fails.
pub(super) fn io_uring() -> IoUring {
    match FileRing::probe() {
        Ok(()) => IoUring::Ok,
        Err(error) => match error.kind() {
            io::ErrorKind::PermissionDenied => IoUring::Denied,
            io::ErrorKind::Unsupported => IoUring::Missing,
            _ => IoUring::Failed(error.to_string()),
        },
    }
}
