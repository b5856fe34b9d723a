//! The configuration of a VM: [`VmSpec`] as it's written, [`VmConfig`] once it's checked.
//!
//! The format is that of Firecracker's `--config-file`, so that its users' files work, with
//! additions of our own (a drive's `format`, `concat`, `serial` and `num_queues`, an interface's
//! `num_queue_pairs`, the machine's `transport`, `console`,
//! `filesystems`). A key that nobody knows is refused;
//! the two of Firecracker's that aren't honoured, the machine's `smt` and `cpu_template`, are
//! accepted at their default values only.
//!
//! ```text
//! JSON or flags ──> VmSpec ──validate──> VmConfig ──Serialize──> JSON that reads back the same
//! ```

mod checked;
mod error;
mod mac;
mod spec;
#[cfg(test)]
mod tests;
mod validate;

pub use checked::{
    BalloonConfig, BootConfig, ConsoleConfig, ConsoleOutput, DriveBackend, DriveConfig,
    EntropyConfig, FilesystemConfig, LoggerConfig, MachineConfig, MemoryHotplugConfig,
    MetricsConfig, MmdsConfig, NetConfig, NetHost, PmemConfig, SerialConfig, ShareConfig, VmConfig,
    VsockConfig,
};
pub use error::{ConfigError, Field, Section};
pub use mac::{MacAddr, ParseMacError};
pub use spec::{
    BackingFile, BalloonSpec, Bitmap, BootSourceSpec, CacheType, ConsoleDevice, ConsoleMode,
    ConsoleSpec, CpuTemplate, CpuidLeafModifier, CpuidModifier, CpuidRegister, DiskFormat,
    DriveSpec, EntropySpec, FilesystemSpec, HugePages, IoEngine, KvmCapability, LogLevel,
    LoggerSpec, MachineSpec, MemoryHotplugSpec, MetricsSpec, MmdsSpec, MmdsVersion, MsrModifier,
    NetSpec, ParseLevelError, PmemSpec, RateLimiter, Register, SerialSpec, ShareSpec, TokenBucket,
    Transport, VmSpec, VsockSpec,
};

/// The most vCPUs that a VM may have.
pub const MAX_VCPUS: u8 = 32;

/// Memory of a VM whose configuration doesn't say, in MiB.
pub const DEFAULT_MEM_MIB: u64 = 512;

/// The most memory that a VM may have, in MiB: 64 TiB, what 46 physical address bits reach.
pub const MAX_MEM_MIB: u64 = 1 << 26;

/// The longest kernel command line in bytes, without its terminating NUL (`COMMAND_LINE_SIZE` of
/// x86 and arm64 is 2048).
pub const MAX_CMDLINE_BYTES: usize = 2047;

/// The most queues of a drive, and queue pairs of a network interface.
pub const MAX_QUEUES: u16 = 16;

/// The most images that a drive's image may build upon.
pub const MAX_BACKING_FILES: usize = 32;

/// The most files that may follow a drive's first one.
pub const MAX_CONCAT_FILES: usize = 256;

/// The longest serial number of a drive in bytes (VIRTIO 1.3 §5.2.6, `VIRTIO_BLK_T_GET_ID`).
pub const MAX_SERIAL_BYTES: usize = 20;

/// The longest tag of a file system in bytes (VIRTIO 1.3 §5.11.4).
pub const MAX_TAG_BYTES: usize = 36;

/// The most shares of a file system.
pub const MAX_SHARES: usize = 256;

/// The command line's first words when the configuration gives no `boot_args`. `console=` is
/// prepended when the guest has one; see [`BootConfig::cmdline`].
pub const DEFAULT_BOOT_ARGS: &str = "reboot=k panic=-1";
