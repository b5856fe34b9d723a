//! The configuration as it's written: Firecracker's keys, and ours.

mod cpu_template;
mod filesystem;
mod memory;
mod mmds;
mod outputs;

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};
use utoipa::ToSchema;

pub use self::cpu_template::{
    Bitmap, CpuTemplate, CpuidLeafModifier, CpuidModifier, CpuidRegister, KvmCapability,
    MsrModifier, Register,
};
pub use self::filesystem::{FilesystemSpec, ShareSpec};
pub use self::memory::{MemoryHotplugSpec, PmemSpec};
pub use self::mmds::{MmdsSpec, MmdsVersion};
pub use self::outputs::{LogLevel, LoggerSpec, MetricsSpec, ParseLevelError, SerialSpec};
use super::ConfigError;
use crate::schema::{EthernetAddress, HostPath, InterfaceName, ResourceId, SocketPath};
use crate::strict;

/// A VM's configuration as a file or a set of flags gives it, not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VmSpec {
    /// What to boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_source: Option<BootSourceSpec>,
    /// Block devices, in the order that the guest sees them; a root device comes first whatever
    /// its place here.
    #[serde(default)]
    pub drives: Vec<DriveSpec>,
    /// Network interfaces, in the order that the guest sees them.
    #[serde(default)]
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
    /// What the guest's CPUs announce, beside what this VMM chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_config: Option<CpuTemplate>,
    /// The VMM's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logger: Option<LoggerSpec>,
    /// The VMM's metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsSpec>,
    /// The metadata service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmds_config: Option<MmdsSpec>,
    /// The output of the guest's serial port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<SerialSpec>,
    /// Memory that's plugged into the running guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_hotplug: Option<MemoryHotplugSpec>,
    /// Files that the guest sees as persistent memory, in the order that it sees them.
    #[serde(default)]
    pub pmem: Vec<PmemSpec>,
    /// Ours: directories of the host's that the guest mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filesystems: Vec<FilesystemSpec>,
}

impl VmSpec {
    /// Reads a configuration file's contents. A section that is `null` says nothing, whatever its
    /// name: SDKs write such.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`]: not JSON, or a key or a type that the format doesn't know.
    pub fn from_json(text: &[u8]) -> Result<Self, ConfigError> {
        strict::from_slice(text).or_else(|problem: serde_json::Error| {
            let mut sections: Map<String, Value> =
                strict::from_slice(text).map_err(ConfigError::Syntax)?;
            let all = sections.len();
            sections.retain(|_, section| !section.is_null());
            if sections.len() == all {
                return Err(ConfigError::Syntax(problem));
            }
            let rest = Value::Object(sections).to_string();
            strict::from_slice(rest.as_bytes()).map_err(|_| ConfigError::Syntax(problem))
        })
    }
}

/// `boot-source`: what to boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BootSourceSpec {
    /// The kernel image: bzImage or vmlinux. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = true, value_type = HostPath)]
    pub kernel_image_path: Option<PathBuf>,
    /// The initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HostPath>)]
    pub initrd_path: Option<PathBuf>,
    /// The kernel's command line; see [`BootConfig::cmdline`](super::BootConfig::cmdline) for what
    /// is added to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2047, pattern = "^[ -~]*$")]
    pub boot_args: Option<String>,
}

/// An element of `drives`: a block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DriveSpec {
    /// Its name on the host's side. Required, unique.
    #[serde(default)]
    #[schema(required = true, value_type = ResourceId)]
    pub drive_id: String,
    /// The image. Either this or `socket` is required.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HostPath>)]
    pub path_on_host: Option<PathBuf>,
    /// Whether the guest's root file system is on it: puts it first and adds `root=` to the
    /// command line.
    #[serde(default)]
    #[schema(required = true)]
    pub is_root_device: bool,
    /// The partition that `root=` names; without one it's the whole disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9A-Za-z-]+$")]
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
    /// Ours: the images that a qcow2 image builds upon, from the nearest to the base. They're only
    /// read. Exactly these are opened, whatever the image's header says; without any, an image that
    /// names one in its header is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub backing: Vec<BackingFile>,
    /// Ours: files that follow `path_on_host` in the drive's address space, in this order. Only for
    /// a raw drive that's read-only; each file, the first too, is a multiple of 512 bytes long. The
    /// same file may be there several times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256, value_type = Vec<HostPath>)]
    pub concat: Vec<PathBuf>,
    /// Ours: the serial number that the guest sees, by default the `drive_id`'s first 20 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 20, pattern = "^[ -~]+$")]
    pub serial: Option<String>,
    /// Ours: how many queues, 1 unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 16)]
    pub num_queues: Option<u16>,
    /// The Unix socket of a vhost-user back end that serves the drive, in place of an image: then
    /// `path_on_host`, `is_read_only`, `io_engine`, `rate_limiter`, `format`, `backing`, `concat`
    /// and `serial` are the back end's affair, and must be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SocketPath>)]
    pub socket: Option<PathBuf>,
}

/// An element of a drive's `backing`: an image that others build upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackingFile {
    /// The image.
    #[schema(value_type = HostPath)]
    pub path_on_host: PathBuf,
    /// Its format. A raw image builds upon nothing: only the last one can be raw.
    pub format: DiskFormat,
}

/// What a guest may rely on after it has flushed a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum IoEngine {
    /// One system call at a time (`preadv`, `pwritev`).
    Sync,
    /// io_uring.
    Async,
}

/// The format of a drive's image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes, one after the other.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// An element of `network-interfaces`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// Its name on the host's side. Required, unique.
    #[serde(default)]
    #[schema(required = true, value_type = ResourceId)]
    pub iface_id: String,
    /// The TAP interface. Required, unless there's a `socket`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Option<InterfaceName>)]
    pub host_dev_name: String,
    /// Ours: the Unix stream socket of a process that is the guest's network (`passt`, or whatever
    /// QEMU's `-netdev stream` connects to), in place of a TAP interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SocketPath>)]
    pub socket: Option<PathBuf>,
    /// The guest's Ethernet address; without it the guest chooses one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<EthernetAddress>)]
    pub guest_mac: Option<String>,
    /// The largest packet that the guest is told to send, in bytes without the Ethernet header;
    /// without it the guest chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 68, maximum = 65535)]
    pub mtu: Option<u16>,
    /// Limits of what the guest receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits of what the guest sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
    /// Ours: how many pairs of a receive and a transmit queue, 1 unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 16)]
    pub num_queue_pairs: Option<u16>,
}

/// Limits of a device's transfer rate; what has no bucket is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// Tokens are bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Tokens are requests or packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// A token bucket: `size` tokens that refill evenly in `refill_time`. One whose `size` or
/// `refill_time` is 0 limits nothing, as in Firecracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// How many tokens it holds.
    #[serde(deserialize_with = "amount")]
    #[schema(maximum = 9_223_372_036_854_775_807_u64)]
    pub size: u64,
    /// Tokens that are there at the start on top of a full bucket, and never come back.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_amount"
    )]
    #[schema(maximum = 9_223_372_036_854_775_807_u64)]
    pub one_time_burst: Option<u64>,
    /// How long an empty bucket takes to fill, in milliseconds.
    #[serde(deserialize_with = "amount")]
    #[schema(maximum = 9_223_372_036_854_775_807_u64)]
    pub refill_time: u64,
}

/// Reads a number that fits in 63 bits: what many clients can represent at all.
fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    optional_amount(deserializer)?.ok_or_else(|| de::Error::custom("expected a number"))
}

fn optional_amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = Option::<u64>::deserialize(deserializer)?;
    match value.filter(|value| i64::try_from(*value).is_err()) {
        None => Ok(value),
        Some(large) => {
            Err(de::Error::custom(format_args!("{large} is too large: at most {}", i64::MAX)))
        }
    }
}

impl RateLimiter {
    /// The limiter without the buckets that limit nothing.
    #[must_use]
    pub fn effective(self) -> Self {
        let limits = |bucket: &TokenBucket| !bucket.is_unlimited();
        Self { bandwidth: self.bandwidth.filter(limits), ops: self.ops.filter(limits) }
    }
}

impl TokenBucket {
    /// Whether it limits nothing: its size or its refill time is 0.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.size == 0 || self.refill_time == 0
    }
}

/// `machine-config`: vCPUs and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// How many vCPUs, 1 unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = true, value_type = u64, minimum = 1, maximum = 32)]
    pub vcpu_count: Option<u64>,
    /// How much memory, in MiB; [`DEFAULT_MEM_MIB`](super::DEFAULT_MEM_MIB) unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = true, value_type = u64, minimum = 1, maximum = 67_108_864)]
    pub mem_size_mib: Option<u64>,
    /// Whether two vCPUs share a core; only `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schema::only_false)]
    pub smt: Option<bool>,
    /// Whether written pages are logged from the start, as differential snapshots need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track_dirty_pages: Option<bool>,
    /// A template of Firecracker's by name; only `None`. A template of one's own is `cpu-config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^None$")]
    pub cpu_template: Option<String>,
    /// What guest memory is made of on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<HugePages>,
    /// Ours: how virtio devices are attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
}

/// What guest memory is made of on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum HugePages {
    /// The host's ordinary pages.
    #[default]
    None,
    /// Reserved 2 MiB pages (hugetlbfs).
    #[serde(rename = "2M")]
    Size2M,
}

/// How virtio devices are attached to the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// As PCI functions with MSI-X.
    #[default]
    Pci,
    /// As memory-mapped registers that ACPI describes.
    Mmio,
}

/// `vsock`: sockets between host and guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VsockSpec {
    /// Firecracker's former name for the device; without effect there and here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_id: Option<String>,
    /// The guest's context identifier, at least 3.
    #[schema(minimum = 3, maximum = 4_294_967_294_u32)]
    pub guest_cid: u64,
    /// The Unix socket on the host through which ports are reached.
    #[schema(value_type = SocketPath)]
    pub uds_path: PathBuf,
}

/// `entropy`: a source of randomness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntropySpec {
    /// Limits of what the guest is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `balloon`: memory that the guest gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BalloonSpec {
    /// How much the guest should give back from the start, in MiB.
    #[serde(default)]
    #[schema(required = true, maximum = 67_108_864)]
    pub amount_mib: u64,
    /// Whether the guest takes memory back rather than run out of it.
    #[serde(default)]
    #[schema(required = true)]
    pub deflate_on_oom: bool,
    /// How often the guest's memory statistics are asked for, in seconds; 0, which it is unless
    /// said, for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 65535)]
    pub stats_polling_interval_s: Option<u16>,
    /// Whether the guest can be asked which pages it has free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_page_hinting: Option<bool>,
    /// Whether the guest reports pages as it frees them, for the host to take back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_page_reporting: Option<bool>,
}

/// `console`: ours; where the guest's console goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsoleSpec {
    /// What it's connected to.
    #[serde(default)]
    pub mode: ConsoleMode,
    /// The file, for the mode `file`; the socket, for the mode `socket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HostPath>)]
    pub path: Option<PathBuf>,
    /// The device that the guest sees.
    #[serde(default)]
    pub device: ConsoleDevice,
}

/// What a guest's console is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleMode {
    /// The VMM's standard input and output.
    #[default]
    Stdio,
    /// A file that the guest's output is written to; there's no input.
    File,
    /// A Unix socket whose clients get the guest's output, the newest 64 KiB of the past included,
    /// and may type.
    Socket,
    /// Nothing: output is dropped, there's no input.
    None,
}

/// The device that a guest's console is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleDevice {
    /// The first serial port, `ttyS0`.
    #[default]
    Serial,
    /// A virtio console, `hvc0`.
    Virtio,
}
