//! Everything that can go wrong between a configuration and a running machine.

use std::io;
use std::path::PathBuf;

use api::config::{ConfigError, Field, Section};
use api::event::{ErrorKind, Failure};
use api::http::ServerError;
use arch::{BootError, Image, LayoutError};
use devices::BusError;

use crate::host_probe::HostError;
use crate::seccomp::SeccompError;
use crate::vcpu::VcpuError;
use crate::x86_64::StateError;

/// Why a machine can't be built or run.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The configuration is wrong by itself.
    #[error("the configuration is wrong")]
    Config(#[from] ConfigError),
    /// This host can't run Linux guests.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A system call that has nothing to do with the configuration failed.
    #[error("can't {what}")]
    Os {
        /// What it was for.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// KVM refused a request.
    #[error("KVM refused {call}")]
    Kvm {
        /// The ioctl's name.
        call: &'static str,
        /// The error that it gave.
        source: kvm_ioctls::Error,
    },
    /// KVM doesn't know a register that every machine here sets.
    #[error("KVM refused to set model-specific register {index:#x}")]
    RefusedMsr {
        /// Its number.
        index: u32,
    },
    /// Guest memory can't be had.
    #[error("can't get {size_mib} MiB of guest memory: {reason}")]
    Memory {
        /// How much, in MiB.
        size_mib: u64,
        /// Whether it was to be of reserved huge pages.
        huge: bool,
        /// Why not.
        reason: String,
    },
    /// The guest's memory has no layout.
    #[error("can't lay out the guest's memory")]
    Layout(#[from] LayoutError),
    /// The kernel or the initrd can't be opened.
    #[error("can't open the {image} {path:?}")]
    OpenImage {
        /// Which one.
        image: Image,
        /// Where it should be.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The kernel or what goes with it can't be booted.
    #[error("can't boot {path:?}")]
    Boot {
        /// The file that it is about.
        path: PathBuf,
        /// What is wrong with it.
        source: BootError,
    },
    /// A device can't be made out of what the configuration names.
    #[error("can't attach {what}")]
    Device {
        /// The device, in words.
        what: String,
        /// The part of the configuration.
        field: Field,
        /// The sort of failure.
        kind: ErrorKind,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The machine has no place for another device.
    #[error("the machine has room for {max} {what}")]
    TooManyDevices {
        /// Devices of this sort.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// A vCPU can't go on.
    #[error("the virtual machine can't go on: {reason}")]
    VcpuFailed {
        /// What it met.
        reason: String,
    },
    /// A vCPU can't do what it's asked.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The VM's state can't be read or set.
    #[error(transparent)]
    State(#[from] StateError),
    /// System calls can't be filtered.
    #[error("can't filter system calls; --no-seccomp goes without, for debugging only")]
    Seccomp(#[from] SeccompError),
    /// The API's socket can't be served.
    #[error("can't offer the API")]
    Api(#[from] ServerError),
    /// A snapshot can't be written or read, or doesn't fit this host.
    #[error("can't {what}")]
    Snapshot {
        /// What it was for.
        what: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two devices claim the same address: a mistake in the layout.
    #[error("two devices claim the same address")]
    Bus(#[from] BusError),
}

impl VmmError {
    /// Wraps a failed system call: "can't {what}".
    pub fn os(what: &'static str, source: io::Error) -> Self {
        Self::Os { what, source }
    }

    /// Wraps a failed KVM ioctl.
    pub fn kvm(call: &'static str, source: kvm_ioctls::Error) -> Self {
        Self::Kvm { call, source }
    }

    /// Says that `call` can't take that much at once.
    pub fn kvm_limit(call: &'static str) -> Self {
        Self::Kvm { call, source: kvm_ioctls::Error::new(libc::E2BIG) }
    }

    /// Wraps whatever kept a snapshot from being made or used: "can't {what}".
    pub fn snapshot(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Snapshot { what: what.into(), source: source.into() }
    }

    /// Returns what the parent process is told.
    pub fn to_failure(&self) -> Failure {
        match self {
            // The wrapper's message says nothing that the kind doesn't.
            Self::Config(error) => Failure::new(error.kind(), error.field().cloned(), error),
            error => Failure::new(error.kind(), error.field(), error),
        }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(error) => error.kind(),
            Self::Host(error) => error.kind(),
            Self::Memory { huge: true, .. } => ErrorKind::HugePagesUnavailable,
            Self::Memory { huge: false, .. } => ErrorKind::MemoryUnavailable,
            Self::Layout(_) => ErrorKind::ConfigInvalid,
            Self::OpenImage { image, source, .. } => open_kind(*image, source.kind()),
            Self::Boot { source, .. } => boot_kind(source),
            Self::Device { kind, .. } => *kind,
            Self::TooManyDevices { .. } => ErrorKind::TooManyDevices,
            Self::Kvm { .. } | Self::RefusedMsr { .. } => ErrorKind::KvmUnable,
            Self::VcpuFailed { .. } => ErrorKind::VcpuFailed,
            Self::Api(ServerError::InUse { .. } | ServerError::NotASocket { .. }) => {
                ErrorKind::SocketInUse
            }
            Self::Api(_) => ErrorKind::OutputDenied,
            Self::Seccomp(_) => ErrorKind::SeccompUnavailable,
            Self::Snapshot { .. } => ErrorKind::SnapshotUnusable,
            Self::State(StateError::Malformed { .. } | StateError::VcpuCount { .. })
            | Self::Vcpu(_)
            | Self::Os { .. }
            | Self::Bus(_) => ErrorKind::Internal,
            Self::State(StateError::Template(_)) => ErrorKind::ConfigInvalid,
            Self::State(_) => ErrorKind::KvmUnable,
        }
    }

    fn field(&self) -> Option<Field> {
        match self {
            Self::Memory { huge: true, .. } => {
                Some(Field::new(Section::MachineConfig, "huge_pages"))
            }
            Self::Memory { .. } | Self::Layout(_) => {
                Some(Field::new(Section::MachineConfig, "mem_size_mib"))
            }
            Self::OpenImage { image, .. } => Some(image_field(*image)),
            Self::Boot { source, .. } => Some(boot_field(source)),
            Self::Device { field, .. } => Some(field.clone()),
            _ => None,
        }
    }
}

fn open_kind(image: Image, kind: io::ErrorKind) -> ErrorKind {
    let missing = matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    match (image, missing) {
        (Image::Kernel, true) => ErrorKind::KernelMissing,
        (Image::Kernel, false) => ErrorKind::KernelUnreadable,
        (Image::Initrd, true) => ErrorKind::InitrdMissing,
        (Image::Initrd, false) => ErrorKind::InitrdUnreadable,
    }
}

fn boot_kind(error: &BootError) -> ErrorKind {
    match error {
        BootError::Read { image: Image::Kernel, .. } => ErrorKind::KernelUnreadable,
        BootError::Read { image: Image::Initrd, .. }
        | BootError::Empty { image: Image::Initrd } => ErrorKind::InitrdUnreadable,
        BootError::DoesNotFit { image: Image::Initrd, .. } => ErrorKind::InitrdTooLarge,
        BootError::DoesNotFit { image: Image::Kernel, .. } => ErrorKind::KernelTooLarge,
        BootError::Cmdline { .. } => ErrorKind::ConfigInvalid,
        BootError::TableTooLarge { .. } | BootError::GuestMemory { .. } => {
            ErrorKind::KernelTooLarge
        }
        _ => ErrorKind::KernelUnsupported,
    }
}

fn image_field(image: Image) -> Field {
    let key = match image {
        Image::Kernel => "kernel_image_path",
        Image::Initrd => "initrd_path",
    };
    Field::new(Section::BootSource, key)
}

fn boot_field(error: &BootError) -> Field {
    match error {
        BootError::Read { image, .. }
        | BootError::Empty { image }
        | BootError::DoesNotFit { image, .. } => image_field(*image),
        BootError::Cmdline { .. } => Field::new(Section::BootSource, "boot_args"),
        _ => image_field(Image::Kernel),
    }
}
