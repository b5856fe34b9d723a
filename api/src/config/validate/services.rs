//! Devices of which a VM has one at most, memory devices, the metadata service, and outputs.

use std::net::Ipv4Addr;

use super::super::{
    BalloonConfig, BalloonSpec, ConfigError, ConsoleConfig, ConsoleDevice, ConsoleOutput,
    DriveConfig, EntropyConfig, EntropySpec, Field, LoggerConfig, LoggerSpec, MAX_MEM_MIB,
    MachineConfig, MemoryHotplugConfig, MemoryHotplugSpec, MetricsConfig, MetricsSpec, MmdsConfig,
    MmdsSpec, NetConfig, PmemConfig, PmemSpec, Section, SerialConfig, SerialSpec, TokenBucket,
    VsockConfig, VsockSpec,
};
use super::values::{check_id, checked_path, checked_socket, in_range, invalid, limiter};

/// The lowest context identifier that a guest may have: 0 to 2 are the hypervisor, the loopback
/// and the host.
const MIN_GUEST_CID: u32 = 3;

/// The metadata service's address unless said.
const MMDS_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The least block and slot of hot-plugged memory, and their sizes unless said, in MiB.
const MIN_BLOCK_MIB: u64 = 2;
const MIN_SLOT_MIB: u64 = 128;

pub(super) fn vsock(spec: VsockSpec) -> Result<VsockConfig, ConfigError> {
    let field = |key| Field::new(Section::Vsock, key);
    // 2^32 - 1 is VMADDR_CID_ANY.
    let last = u64::from(u32::MAX) - 1;
    let cid = in_range(field("guest_cid"), spec.guest_cid, MIN_GUEST_CID.into(), last)?;
    let uds_path = checked_socket(field("uds_path"), spec.uds_path)?;
    let guest_cid = u32::try_from(cid).unwrap_or(MIN_GUEST_CID);
    Ok(VsockConfig { guest_cid, uds_path })
}

pub(super) fn entropy(spec: &EntropySpec) -> EntropyConfig {
    EntropyConfig { rate_limiter: limiter(spec.rate_limiter) }
}

/// `machine` is `None` while it isn't known how much memory there'll be.
pub(super) fn balloon(
    spec: &BalloonSpec,
    machine: Option<&MachineConfig>,
) -> Result<BalloonConfig, ConfigError> {
    if let Some(machine) = machine.filter(|machine| spec.amount_mib >= machine.mem_mib) {
        return Err(ConfigError::OutOfRange {
            field: Field::new(Section::Balloon, "amount_mib"),
            value: spec.amount_mib,
            expected: format!("less than the VM's memory of {} MiB", machine.mem_mib),
        });
    }
    Ok(BalloonConfig {
        amount_mib: spec.amount_mib,
        deflate_on_oom: spec.deflate_on_oom,
        free_page_reporting: spec.free_page_reporting.unwrap_or(false),
        free_page_hinting: spec.free_page_hinting.unwrap_or(false),
        stats_polling_interval_s: spec.stats_polling_interval_s.unwrap_or(0),
    })
}

pub(super) fn pmem(
    specs: Vec<PmemSpec>,
    drives: &[DriveConfig],
) -> Result<Vec<PmemConfig>, ConfigError> {
    let mut devices: Vec<PmemConfig> = Vec::with_capacity(specs.len());
    for (index, spec) in specs.into_iter().enumerate() {
        let device = pmem_device(index, spec)?;
        refuse_pmem_conflict(index, &device, &devices, drives)?;
        devices.push(device);
    }
    Ok(devices)
}

pub(super) fn pmem_device(index: usize, spec: PmemSpec) -> Result<PmemConfig, ConfigError> {
    check_id(&Field::pmem(index, "id"), &spec.id)?;
    Ok(PmemConfig {
        id: spec.id,
        path: checked_path(Field::pmem(index, "path_on_host"), spec.path_on_host)?,
        is_root: spec.root_device,
        read_only: spec.read_only,
        rate_limiter: limiter(spec.rate_limiter),
    })
}

/// Refuses a second device of the same name, a second root device of any sort, and a second device
/// of any sort on a file that either of them may write.
pub(super) fn refuse_pmem_conflict(
    index: usize,
    device: &PmemConfig,
    earlier: &[PmemConfig],
    drives: &[DriveConfig],
) -> Result<(), ConfigError> {
    let shown = device.path.display().to_string();
    let mut conflicts = Vec::new();
    for (other_index, other) in earlier.iter().enumerate() {
        let first = |key| Field::pmem(other_index, key);
        let shares = other.path == device.path && !(other.read_only && device.read_only);
        conflicts.extend([
            (other.id == device.id, "id", &device.id, first("id")),
            (shares, "path_on_host", &shown, first("path_on_host")),
            (other.is_root && device.is_root, "root_device", &shown, first("root_device")),
        ]);
    }
    for (other_index, other) in drives.iter().enumerate() {
        let first = |key| Field::drive(other_index, key);
        let shares = other.conflicts(&device.path, !device.read_only);
        conflicts.extend([
            (shares, "path_on_host", &shown, first("path_on_host")),
            (other.is_root && device.is_root, "root_device", &shown, first("is_root_device")),
        ]);
    }
    match conflicts.into_iter().find(|(is_one, ..)| *is_one) {
        None => Ok(()),
        Some((_, key, value, first)) => Err(ConfigError::Duplicate {
            field: Field::pmem(index, key),
            value: value.clone(),
            first,
        }),
    }
}

/// `machine` is `None` while it isn't known how much memory there'll be.
pub(super) fn memory_hotplug(
    spec: MemoryHotplugSpec,
    machine: Option<&MachineConfig>,
) -> Result<MemoryHotplugConfig, ConfigError> {
    let field = |key| Field::new(Section::MemoryHotplug, key);
    let block_mib = spec.block_size_mib.unwrap_or(MIN_BLOCK_MIB);
    let slot_mib = spec.slot_size_mib.unwrap_or(MIN_SLOT_MIB);
    let total_mib = spec.total_size_mib;
    in_range(field("block_size_mib"), block_mib, MIN_BLOCK_MIB, MAX_MEM_MIB)?;
    if !block_mib.is_power_of_two() {
        return Err(ConfigError::OutOfRange {
            field: field("block_size_mib"),
            value: block_mib,
            expected: "a power of two".to_owned(),
        });
    }
    in_range(field("slot_size_mib"), slot_mib, MIN_SLOT_MIB, MAX_MEM_MIB)?;
    check_multiple(field("slot_size_mib"), slot_mib, "block_size_mib", block_mib)?;
    let room = MAX_MEM_MIB.saturating_sub(machine.map_or(0, |machine| machine.mem_mib));
    in_range(field("total_size_mib"), total_mib, slot_mib, room)?;
    check_multiple(field("total_size_mib"), total_mib, "slot_size_mib", slot_mib)?;
    Ok(MemoryHotplugConfig { total_mib, block_mib, slot_mib })
}

fn check_multiple(field: Field, value: u64, key: &str, unit: u64) -> Result<(), ConfigError> {
    if value.is_multiple_of(unit) {
        return Ok(());
    }
    let expected = format!("a multiple of {key}, {unit}");
    Err(ConfigError::OutOfRange { field, value, expected })
}

pub(super) fn mmds(spec: MmdsSpec, nets: &[NetConfig]) -> Result<MmdsConfig, ConfigError> {
    let field = |key: &str| Field::new(Section::MmdsConfig, key);
    let address = spec.ipv4_address.unwrap_or(MMDS_ADDRESS);
    if !matches!(address.octets(), [169, 254, 1..=254, _]) {
        let reason = "is not from 169.254.1.0 to 169.254.254.255, the link-local addresses";
        return Err(invalid(field("ipv4_address"), address.to_string(), reason));
    }
    if spec.network_interfaces.is_empty() {
        return Err(ConfigError::Missing { field: field("network_interfaces") });
    }
    for (index, id) in spec.network_interfaces.iter().enumerate() {
        let place = |index: usize| field(&format!("network_interfaces.{index}"));
        if !nets.iter().any(|net| net.id == *id) {
            let reason = "is no network interface of this VM: add it first";
            return Err(invalid(place(index), id, reason));
        }
        if let Some(first) = spec.network_interfaces.iter().take(index).position(|it| it == id) {
            return Err(ConfigError::Duplicate {
                field: place(index),
                value: id.clone(),
                first: place(first),
            });
        }
    }
    Ok(MmdsConfig {
        version: spec.version.unwrap_or_default(),
        address,
        nets: spec.network_interfaces,
        imds_compat: spec.imds_compat.unwrap_or(false),
    })
}

pub(super) fn logger(spec: LoggerSpec) -> Result<LoggerConfig, ConfigError> {
    let field = || Field::new(Section::Logger, "log_path");
    Ok(LoggerConfig {
        path: spec.log_path.map(|path| checked_path(field(), path)).transpose()?,
        level: spec.level.unwrap_or_default(),
        show_level: spec.show_level.unwrap_or(false),
        show_origin: spec.show_log_origin.unwrap_or(false),
        module: spec.module,
    })
}

pub(super) fn metrics(spec: MetricsSpec) -> Result<MetricsConfig, ConfigError> {
    let field = Field::new(Section::Metrics, "metrics_path");
    Ok(MetricsConfig { path: checked_path(field, spec.metrics_path)? })
}

pub(super) fn serial(
    spec: SerialSpec,
    console: &ConsoleConfig,
) -> Result<SerialConfig, ConfigError> {
    let field = || Field::new(Section::Serial, "serial_out_path");
    let path = match spec.serial_out_path {
        None => None,
        Some(path) => {
            let on_stdio = console.output == ConsoleOutput::Stdio;
            if !on_stdio || console.device != ConsoleDevice::Serial {
                let reason = "is only for a serial console on standard output: leave out \
                              `console`, or put the path there";
                return Err(invalid(field(), path.to_string_lossy(), reason));
            }
            Some(checked_path(field(), path)?)
        }
    };
    let limits = |bucket: &TokenBucket| !bucket.is_unlimited();
    Ok(SerialConfig { path, rate_limiter: spec.rate_limiter.filter(limits) })
}
