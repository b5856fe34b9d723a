//! The configuration once it's checked: what the VMM builds a machine from.

mod filesystem;
mod memory;
mod outputs;
mod services;

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

pub use self::filesystem::{FilesystemConfig, ShareConfig};
pub use self::memory::{MemoryHotplugConfig, PmemConfig};
pub use self::outputs::{LoggerConfig, MetricsConfig, SerialConfig};
pub use self::services::{BalloonConfig, EntropyConfig, MmdsConfig, VsockConfig};
use super::{
    BackingFile, BootSourceSpec, CacheType, ConsoleDevice, ConsoleMode, ConsoleSpec, CpuTemplate,
    DiskFormat, DriveSpec, HugePages, IoEngine, MacAddr, MachineSpec, NetSpec, RateLimiter,
    Transport, VmSpec,
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
    /// Where the output of the guest's serial port goes. A path here is where the console's output
    /// goes in place of standard output; then the console is a serial one on standard output.
    pub serial: Option<SerialConfig>,
    /// Files that the guest sees as persistent memory, in its order.
    pub pmem: Vec<PmemConfig>,
    /// Directories of the host's that the guest mounts.
    pub filesystems: Vec<FilesystemConfig>,
    /// Memory that's plugged into the running guest.
    pub memory_hotplug: Option<MemoryHotplugConfig>,
    /// The metadata service.
    pub mmds: Option<MmdsConfig>,
    /// Changes to what the guest's CPUs announce, made after the VMM's own.
    pub cpu_template: CpuTemplate,
    /// The VMM's log.
    pub logger: Option<LoggerConfig>,
    /// The VMM's metrics.
    pub metrics: Option<MetricsConfig>,
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
    /// Whether written pages are logged from the start, as differential snapshots need.
    pub track_dirty_pages: bool,
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
    /// Who serves its requests.
    pub backend: DriveBackend,
    /// Whether the guest's root file system is on it.
    pub is_root: bool,
    /// The partition that `root=` names.
    pub partuuid: Option<String>,
    /// Whether the guest may only read; `false` with a vhost-user back end, which tells itself.
    pub read_only: bool,
    /// What the guest may rely on after a flush.
    pub cache: CacheType,
    /// How requests reach the host's kernel; `None` is the best that the host has.
    pub io_engine: Option<IoEngine>,
    /// Limits of the transfer rate.
    pub rate_limiter: RateLimiter,
    /// The image's format.
    pub format: DiskFormat,
    /// The images that a qcow2 image builds upon, from the nearest to the base, at most
    /// [`MAX_BACKING_FILES`](super::MAX_BACKING_FILES); only the last one can be raw.
    pub backing: Vec<BackingFile>,
    /// The files that follow the image in the drive's address space, at most
    /// [`MAX_CONCAT_FILES`](super::MAX_CONCAT_FILES); none unless it's raw and read-only.
    pub concat: Vec<PathBuf>,
    /// The serial number: 1 to [`MAX_SERIAL_BYTES`](super::MAX_SERIAL_BYTES) printable ASCII bytes.
    pub serial: String,
    /// How many queues, from 1 to [`MAX_QUEUES`](super::MAX_QUEUES).
    pub num_queues: u16,
}

/// Who serves a drive's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriveBackend {
    /// The VMM, from an image.
    Image(PathBuf),
    /// A vhost-user back end that listens on a Unix socket. The drive's I/O engine, limits, format
    /// and serial number are its affair.
    VhostUser(PathBuf),
}

impl DriveConfig {
    /// The image, unless somebody else serves the drive.
    #[must_use]
    pub fn image(&self) -> Option<&Path> {
        match &self.backend {
            DriveBackend::Image(path) => Some(path),
            DriveBackend::VhostUser(_) => None,
        }
    }

    /// The drive's image, what that builds upon and what follows it. None if somebody else serves the drive.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let backing = self.backing.iter().map(|backing| backing.path_on_host.as_path());
        let concat = self.concat.iter().map(PathBuf::as_path);
        self.image().into_iter().chain(backing).chain(concat)
    }

    /// Whether the guest can write `file` through this drive.
    pub(super) fn writes(&self, file: &Path) -> bool {
        !self.read_only && self.image() == Some(file)
    }

    /// Whether `file` is one of the drive's, and this drive or its other user, if that `writes`,
    /// would change it under the eyes of the other.
    pub(super) fn conflicts(&self, file: &Path, writes: bool) -> bool {
        self.files().any(|own| own == file) && (writes || self.writes(file))
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetConfig {
    /// Its unique name on the host's side.
    pub id: String,
    /// What it's connected to.
    pub host: NetHost,
    /// The guest's Ethernet address; without it the guest chooses one.
    pub mac: Option<MacAddr>,
    /// The largest packet that the guest is told to send, in bytes without the Ethernet header, at
    /// least 68.
    pub mtu: Option<u16>,
    /// Limits of what the guest receives.
    pub rx_rate_limiter: RateLimiter,
    /// Limits of what the guest sends.
    pub tx_rate_limiter: RateLimiter,
    /// How many pairs of queues, from 1 to [`MAX_QUEUES`](super::MAX_QUEUES).
    pub num_queue_pairs: u16,
}

/// The host's side of a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetHost {
    /// A TAP interface's name: 1 to 15 bytes.
    Tap(String),
    /// The Unix stream socket of a process that is the guest's network; for one pair of queues.
    Socket(PathBuf),
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
    /// A Unix socket, for clients that come and go.
    Socket(PathBuf),
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
            serial: config.serial.map(Into::into),
            pmem: config.pmem.into_iter().map(Into::into).collect(),
            filesystems: config.filesystems.into_iter().map(Into::into).collect(),
            memory_hotplug: config.memory_hotplug.map(Into::into),
            mmds_config: config.mmds.map(Into::into),
            cpu_config: (config.cpu_template != CpuTemplate::default())
                .then_some(config.cpu_template),
            logger: config.logger.map(Into::into),
            metrics: config.metrics.map(Into::into),
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
            smt: Some(false),
            track_dirty_pages: Some(machine.track_dirty_pages),
            cpu_template: None,
        }
    }
}

impl From<DriveConfig> for DriveSpec {
    fn from(drive: DriveConfig) -> Self {
        let spec = Self {
            drive_id: drive.id,
            is_root_device: drive.is_root,
            partuuid: drive.partuuid,
            cache_type: Some(drive.cache),
            num_queues: Some(drive.num_queues),
            ..Self::default()
        };
        match drive.backend {
            DriveBackend::VhostUser(socket) => Self { socket: Some(socket), ..spec },
            DriveBackend::Image(path) => Self {
                path_on_host: Some(path),
                is_read_only: Some(drive.read_only),
                io_engine: drive.io_engine,
                rate_limiter: written(drive.rate_limiter),
                format: Some(drive.format),
                backing: drive.backing,
                concat: drive.concat,
                serial: Some(drive.serial),
                ..spec
            },
        }
    }
}

impl From<NetConfig> for NetSpec {
    fn from(net: NetConfig) -> Self {
        let (host_dev_name, socket) = match net.host {
            NetHost::Tap(name) => (name, None),
            NetHost::Socket(path) => (String::new(), Some(path)),
        };
        Self {
            iface_id: net.id,
            host_dev_name,
            socket,
            guest_mac: net.mac.map(|mac| mac.to_string()),
            mtu: net.mtu,
            rx_rate_limiter: written(net.rx_rate_limiter),
            tx_rate_limiter: written(net.tx_rate_limiter),
            num_queue_pairs: Some(net.num_queue_pairs),
        }
    }
}

impl From<ConsoleConfig> for ConsoleSpec {
    fn from(console: ConsoleConfig) -> Self {
        let (mode, path) = match console.output {
            ConsoleOutput::Stdio => (ConsoleMode::Stdio, None),
            ConsoleOutput::File(path) => (ConsoleMode::File, Some(path)),
            ConsoleOutput::Socket(path) => (ConsoleMode::Socket, Some(path)),
            ConsoleOutput::None => (ConsoleMode::None, None),
        };
        Self { mode, path, device: console.device }
    }
}

/// A limiter that limits nothing is left out.
fn written(limiter: RateLimiter) -> Option<RateLimiter> {
    (limiter != RateLimiter::default()).then_some(limiter)
}
