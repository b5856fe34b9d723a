//! The configuration once it's checked: what the VMM builds a machine from.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::{
    BalloonSpec, BootSourceSpec, CacheType, ConsoleDevice, ConsoleMode, ConsoleSpec, DiskFormat,
    DriveSpec, EntropySpec, HugePages, IoEngine, MacAddr, MachineSpec, NetSpec, RateLimiter,
    Transport, VmSpec, VsockSpec,
};

/// A VM's configuration in which everything that can be checked without the host has been; only
/// [`VmSpec::validate`] makes one.
///
/// It serializes as a [`VmSpec`] in which every default is written out, and which validates to the
/// same configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmConfig {
    /// vCPUs, memory, transport.
    pub machine: MachineConfig,
    /// What to boot.
    pub boot: BootConfig,
    /// Block devices in the guest's order; the root device, if there is one, is the first.
    pub drives: Vec<DriveConfig>,
    /// Network interfaces in the guest's order.
    pub nets: Vec<NetConfig>,
    /// Sockets between host and guest.
    pub vsock: Option<VsockConfig>,
    /// A source of randomness.
    pub entropy: Option<EntropyConfig>,
    /// Memory that the guest gives back.
    pub balloon: Option<BalloonConfig>,
    /// Where the guest's console goes.
    pub console: ConsoleConfig,
}

/// vCPUs, memory and transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineConfig {
    /// How many vCPUs, from 1 to [`MAX_VCPUS`](super::MAX_VCPUS).
    pub vcpus: u8,
    /// How much memory, in MiB; at most [`MAX_MEM_MIB`](super::MAX_MEM_MIB), and even with 2 MiB
    /// pages.
    pub mem_mib: u64,
    /// What guest memory is made of on the host.
    pub huge_pages: HugePages,
    /// How virtio devices are attached.
    pub transport: Transport,
}

impl MachineConfig {
    /// How much memory, in bytes.
    #[must_use]
    pub const fn mem_bytes(&self) -> u64 {
        // At most MAX_MEM_MIB, 2^26: no bit is lost.
        self.mem_mib << 20
    }
}

/// What to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BootConfig {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The whole command line: what the guest gets, byte for byte. Printable ASCII, at most
    /// [`MAX_CMDLINE_BYTES`](super::MAX_CMDLINE_BYTES).
    ///
    /// It's the configuration's `boot_args`, or by default `console=ttyS0` (`console=hvc0` on a
    /// virtio console, neither without a console) and
    /// [`DEFAULT_BOOT_ARGS`](super::DEFAULT_BOOT_ARGS). With a root device,
    /// `root=/dev/vda` or `root=PARTUUID=…` and `rw` or `ro` follow, unless a `root=` is there.
    pub cmdline: String,
}

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DriveConfig {
    /// Its unique name on the host's side.
    pub id: String,
    /// The image.
    pub path: PathBuf,
    /// Whether the guest's root file system is on it.
    pub is_root: bool,
    /// The partition that `root=` names.
    pub partuuid: Option<String>,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// What the guest may rely on after a flush.
    pub cache: CacheType,
    /// How requests reach the host's kernel; `None` is the best that the host has.
    pub io_engine: Option<IoEngine>,
    /// Limits of the transfer rate.
    pub rate_limiter: RateLimiter,
    /// The image's format.
    pub format: DiskFormat,
    /// The serial number: 1 to [`MAX_SERIAL_BYTES`](super::MAX_SERIAL_BYTES) printable ASCII bytes.
    pub serial: String,
    /// How many queues, from 1 to [`MAX_QUEUES`](super::MAX_QUEUES).
    pub num_queues: u16,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetConfig {
    /// Its unique name on the host's side.
    pub id: String,
    /// The TAP interface: 1 to 15 bytes.
    pub tap: String,
    /// The guest's Ethernet address; without it the guest chooses one.
    pub mac: Option<MacAddr>,
    /// Limits of what the guest receives.
    pub rx_rate_limiter: RateLimiter,
    /// Limits of what the guest sends.
    pub tx_rate_limiter: RateLimiter,
    /// How many pairs of queues, from 1 to [`MAX_QUEUES`](super::MAX_QUEUES).
    pub num_queue_pairs: u16,
}

/// Sockets between host and guest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VsockConfig {
    /// The guest's context identifier, at least 3 and less than 2³² - 1.
    pub guest_cid: u32,
    /// The Unix socket on the host.
    pub uds_path: PathBuf,
}

/// A source of randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntropyConfig {}

/// Memory that the guest gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BalloonConfig {
    /// How much the guest should give back from the start, in MiB; less than the VM's memory.
    pub amount_mib: u64,
    /// Whether the guest takes memory back rather than run out of it.
    pub deflate_on_oom: bool,
    /// Whether the guest reports pages as it frees them.
    pub free_page_reporting: bool,
}

/// Where the guest's console goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsoleConfig {
    /// What it's connected to.
    pub output: ConsoleOutput,
    /// The device that the guest sees.
    pub device: ConsoleDevice,
}

/// What a guest's console is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleOutput {
    /// The VMM's standard input and output.
    Stdio,
    /// A file that the guest's output is written to.
    File(PathBuf),
    /// Nothing.
    None,
}

impl Serialize for VmConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        VmSpec::from(self.clone()).serialize(serializer)
    }
}

impl From<VmConfig> for VmSpec {
    fn from(config: VmConfig) -> Self {
        Self {
            boot_source: Some(config.boot.into()),
            drives: config.drives.into_iter().map(Into::into).collect(),
            network_interfaces: config.nets.into_iter().map(Into::into).collect(),
            machine_config: Some(config.machine.into()),
            vsock: config.vsock.map(Into::into),
            entropy: config.entropy.map(Into::into),
            balloon: config.balloon.map(Into::into),
            console: Some(config.console.into()),
            ..Self::default()
        }
    }
}

impl From<BootConfig> for BootSourceSpec {
    fn from(boot: BootConfig) -> Self {
        Self {
            kernel_image_path: Some(boot.kernel),
            initrd_path: boot.initrd,
            boot_args: Some(boot.cmdline),
        }
    }
}

impl From<MachineConfig> for MachineSpec {
    fn from(machine: MachineConfig) -> Self {
        Self {
            vcpu_count: Some(machine.vcpus.into()),
            mem_size_mib: Some(machine.mem_mib),
            huge_pages: Some(machine.huge_pages),
            transport: Some(machine.transport),
            ..Self::default()
        }
    }
}

impl From<DriveConfig> for DriveSpec {
    fn from(drive: DriveConfig) -> Self {
        Self {
            drive_id: drive.id,
            path_on_host: Some(drive.path),
            is_root_device: drive.is_root,
            partuuid: drive.partuuid,
            is_read_only: Some(drive.read_only),
            cache_type: Some(drive.cache),
            io_engine: drive.io_engine,
            rate_limiter: written(drive.rate_limiter),
            format: Some(drive.format),
            serial: Some(drive.serial),
            num_queues: Some(drive.num_queues),
            socket: None,
        }
    }
}

impl From<NetConfig> for NetSpec {
    fn from(net: NetConfig) -> Self {
        Self {
            iface_id: net.id,
            host_dev_name: net.tap,
            guest_mac: net.mac.map(|mac| mac.to_string()),
            rx_rate_limiter: written(net.rx_rate_limiter),
            tx_rate_limiter: written(net.tx_rate_limiter),
            num_queue_pairs: Some(net.num_queue_pairs),
        }
    }
}

impl From<VsockConfig> for VsockSpec {
    fn from(vsock: VsockConfig) -> Self {
        Self { vsock_id: None, guest_cid: vsock.guest_cid.into(), uds_path: vsock.uds_path }
    }
}

impl From<EntropyConfig> for EntropySpec {
    fn from(_: EntropyConfig) -> Self {
        Self { rate_limiter: None }
    }
}

impl From<BalloonConfig> for BalloonSpec {
    fn from(balloon: BalloonConfig) -> Self {
        Self {
            amount_mib: balloon.amount_mib,
            deflate_on_oom: balloon.deflate_on_oom,
            free_page_reporting: Some(balloon.free_page_reporting),
            ..Self::default()
        }
    }
}

impl From<ConsoleConfig> for ConsoleSpec {
    fn from(console: ConsoleConfig) -> Self {
        let (mode, path) = match console.output {
            ConsoleOutput::Stdio => (ConsoleMode::Stdio, None),
            ConsoleOutput::File(path) => (ConsoleMode::File, Some(path)),
            ConsoleOutput::None => (ConsoleMode::None, None),
        };
        Self { mode, path, device: console.device }
    }
}

/// A limiter that limits nothing is left out.
fn written(limiter: RateLimiter) -> Option<RateLimiter> {
    (limiter != RateLimiter::default()).then_some(limiter)
}
