//! The configuration as it's written: Firecracker's keys, and ours.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ConfigError;

/// A VM's configuration as a file or a set of flags gives it, not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VmSpec {
    /// What to boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_source: Option<BootSourceSpec>,
    /// Block devices, in the order that the guest sees them; a root device comes first whatever
    /// its place here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drives: Vec<DriveSpec>,
    /// Network interfaces, in the order that the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_interfaces: Vec<NetSpec>,
    /// vCPUs and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_config: Option<MachineSpec>,
    /// Sockets between host and guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockSpec>,
    /// A source of randomness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<EntropySpec>,
    /// Memory that the guest gives back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonSpec>,
    /// Ours: where the guest's console goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<ConsoleSpec>,
    /// Firecracker's; only `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_config: Option<Value>,
    /// Firecracker's; only `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logger: Option<Value>,
    /// Firecracker's; only `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Value>,
    /// Firecracker's; only `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmds_config: Option<Value>,
    /// Firecracker's; only `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<Value>,
    /// Firecracker's; only `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_hotplug: Option<Value>,
    /// Firecracker's; only an empty list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pmem: Vec<Value>,
}

impl VmSpec {
    /// Reads a configuration file's contents.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`]: not JSON, or a key or a type that the format doesn't know.
    pub fn from_json(text: &[u8]) -> Result<Self, ConfigError> {
        serde_json::from_slice(text).map_err(ConfigError::Syntax)
    }
}

/// `boot-source`: what to boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSourceSpec {
    /// The kernel image: bzImage or vmlinux. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_image_path: Option<PathBuf>,
    /// The initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd_path: Option<PathBuf>,
    /// The kernel's command line; see [`BootConfig::cmdline`](super::BootConfig::cmdline) for what
    /// is added to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}

/// An element of `drives`: a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveSpec {
    /// Its name on the host's side. Required, unique.
    #[serde(default)]
    pub drive_id: String,
    /// The image. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_on_host: Option<PathBuf>,
    /// Whether the guest's root file system is on it: puts it first and adds `root=` to the
    /// command line.
    #[serde(default)]
    pub is_root_device: bool,
    /// The partition that `root=` names; without one it's the whole disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partuuid: Option<String>,
    /// Whether the guest may only read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_read_only: Option<bool>,
    /// What the guest may rely on after a flush.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_type: Option<CacheType>,
    /// How requests reach the host's kernel; without it the VMM takes the best that the host has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_engine: Option<IoEngine>,
    /// Limits of the transfer rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
    /// Ours: the image's format, raw unless said: it's never guessed from the contents, which the
    /// guest can write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// Ours: the serial number that the guest sees, by default the `drive_id`'s first 20 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Ours: how many queues, 1 unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_queues: Option<u16>,
    /// Firecracker's vhost-user socket; only `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Value>,
}

/// What a guest may rely on after it has flushed a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    /// Nothing: no flush is offered to the guest. A crash of the host loses writes.
    Unsafe,
    /// Flushed writes are on the host's storage; the host's page cache is used.
    #[default]
    Writeback,
    /// Ours: as `Writeback`, past the host's page cache (`O_DIRECT`).
    Direct,
}

/// How a drive's requests reach the host's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoEngine {
    /// One system call at a time (`preadv`, `pwritev`).
    Sync,
    /// io_uring.
    Async,
}

/// The format of a drive's image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes, one after the other.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// An element of `network-interfaces`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// Its name on the host's side. Required, unique.
    #[serde(default)]
    pub iface_id: String,
    /// The TAP interface. Required.
    #[serde(default)]
    pub host_dev_name: String,
    /// The guest's Ethernet address; without it the guest chooses one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_mac: Option<String>,
    /// Limits of what the guest receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits of what the guest sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
    /// Ours: how many pairs of a receive and a transmit queue, 1 unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_queue_pairs: Option<u16>,
}

/// Limits of a device's transfer rate; a direction without a bucket is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// Tokens are bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Tokens are requests or packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// A token bucket: `size` tokens that refill evenly in `refill_time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// How many tokens it holds, at least 1.
    pub size: u64,
    /// Tokens that are there at the start on top of a full bucket, and never come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
    /// How long an empty bucket takes to fill, in milliseconds, at least 1.
    pub refill_time: u64,
}

/// `machine-config`: vCPUs and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// How many vCPUs, 1 unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_count: Option<u64>,
    /// How much memory, in MiB; [`DEFAULT_MEM_MIB`](super::DEFAULT_MEM_MIB) unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_size_mib: Option<u64>,
    /// Firecracker's; only `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smt: Option<bool>,
    /// Firecracker's; only `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_dirty_pages: Option<bool>,
    /// Firecracker's; only `"None"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<String>,
    /// What guest memory is made of on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<HugePages>,
    /// Ours: how virtio devices are attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
}

/// What guest memory is made of on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// The host's ordinary pages.
    #[default]
    None,
    /// Reserved 2 MiB pages (hugetlbfs).
    #[serde(rename = "2M")]
    Size2M,
}

/// How virtio devices are attached to the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// As PCI functions with MSI-X.
    #[default]
    Pci,
    /// As memory-mapped registers that ACPI describes.
    Mmio,
}

/// `vsock`: sockets between host and guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockSpec {
    /// Firecracker's former name for the device; without effect there and here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_id: Option<String>,
    /// The guest's context identifier, at least 3.
    pub guest_cid: u64,
    /// The Unix socket on the host through which ports are reached.
    pub uds_path: PathBuf,
}

/// `entropy`: a source of randomness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntropySpec {
    /// Firecracker's; only `null`, or one that limits nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `balloon`: memory that the guest gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonSpec {
    /// How much the guest should give back from the start, in MiB.
    #[serde(default)]
    pub amount_mib: u64,
    /// Whether the guest takes memory back rather than run out of it.
    #[serde(default)]
    pub deflate_on_oom: bool,
    /// Firecracker's; only 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats_polling_interval_s: Option<u64>,
    /// Firecracker's; only `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_page_hinting: Option<bool>,
    /// Whether the guest reports pages as it frees them, for the host to take back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_page_reporting: Option<bool>,
}

/// `console`: ours; where the guest's console goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleSpec {
    /// What it's connected to.
    #[serde(default)]
    pub mode: ConsoleMode,
    /// The file, for the mode `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The device that the guest sees.
    #[serde(default)]
    pub device: ConsoleDevice,
}

/// What a guest's console is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleMode {
    /// The VMM's standard input and output.
    #[default]
    Stdio,
    /// A file that the guest's output is written to; there's no input.
    File,
    /// Nothing: output is dropped, there's no input.
    None,
}

/// The device that a guest's console is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleDevice {
    /// The first serial port, `ttyS0`.
    #[default]
    Serial,
    /// A virtio console, `hvc0`.
    Virtio,
}
