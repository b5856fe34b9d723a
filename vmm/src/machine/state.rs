//! All of a machine but its memory, as it is written to a snapshot.

use api::config::VmSpec;
use arch_x86_64::cpuid::CpuSnapshot;
use devices::legacy::{RtcState, SerialPortState};
use devices::pci::PciRootState;
use devices::virtio::transport::TransportState;
use serde::{Deserialize, Serialize};

use crate::x86_64::{VcpuState, VmKvmState};

/// The state of a paused machine.
///
/// It comes back from a file that anybody may have written: whoever restores from it checks every
/// value.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MachineState {
    /// The configuration with every default written out, and with what was changed since the boot.
    pub(crate) config: VmSpec,
    /// What the guest's CPUs need of a host.
    pub(crate) cpu: CpuSnapshot,
    /// Interrupt controllers and clock.
    pub(crate) vm: VmKvmState,
    /// One for each vCPU, in the order of their numbers.
    pub(crate) vcpus: Vec<VcpuState>,
    /// The devices at fixed ports.
    pub(crate) legacy: LegacyState,
    /// The PCI bus itself, if there is one.
    #[serde(default)]
    pub(crate) pci: Option<PciRootState>,
    /// The virtio devices.
    pub(crate) devices: Vec<DeviceState>,
}

/// The devices at fixed ports that keep anything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LegacyState {
    /// The first serial port.
    pub(crate) serial: SerialPortState,
    /// The real-time clock.
    pub(crate) rtc: RtcState,
}

/// One virtio device.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeviceState {
    /// Which device of the configuration it is.
    pub(crate) key: DeviceKey,
    /// Its slot on PCI, or the index of its register window.
    pub(crate) place: u8,
    /// Whether it was added after the boot.
    #[serde(default)]
    pub(crate) hotplugged: bool,
    /// Where the guest has the memory that the device brings.
    #[serde(default)]
    pub(crate) memory_address: Option<u64>,
    /// The transport, and behind it the device.
    pub(crate) transport: TransportState,
}

/// Names a device of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub(crate) enum DeviceKey {
    /// The drive of this identifier.
    Block(String),
    /// The network interface of this identifier.
    Net(String),
    /// The persistent memory of this identifier.
    Pmem(String),
    /// The file system of this identifier.
    Fs(String),
    /// The socket device.
    Vsock,
    /// The source of randomness.
    Rng,
    /// The balloon.
    Balloon,
    /// The virtio console.
    Console,
    /// Memory that is plugged.
    Memory,
}

impl DeviceKey {
    /// Returns what the device is called on the host's side: its identifier, or its kind where a
    /// machine has one of it at most.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Block(id) | Self::Net(id) | Self::Pmem(id) | Self::Fs(id) => id,
            other => other.kind(),
        }
    }

    /// Returns the kind's name.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Block(_) => "block",
            Self::Net(_) => "net",
            Self::Pmem(_) => "pmem",
            Self::Fs(_) => "fs",
            Self::Vsock => "vsock",
            Self::Rng => "rng",
            Self::Balloon => "balloon",
            Self::Console => "console",
            Self::Memory => "mem",
        }
    }
}
