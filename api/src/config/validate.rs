//! From [`VmSpec`] to [`VmConfig`]: every check that needs nothing of the host.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    BalloonConfig, BalloonSpec, BootConfig, BootSourceSpec, ConfigError, ConsoleConfig,
    ConsoleDevice, ConsoleMode, ConsoleOutput, ConsoleSpec, DEFAULT_BOOT_ARGS, DEFAULT_MEM_MIB,
    DriveConfig, DriveSpec, EntropyConfig, EntropySpec, Field, HugePages, MAX_CMDLINE_BYTES,
    MAX_MEM_MIB, MAX_QUEUES, MAX_SERIAL_BYTES, MAX_VCPUS, MacAddr, MachineConfig, MachineSpec,
    NetConfig, NetSpec, RateLimiter, Section, VmConfig, VmSpec, VsockConfig, VsockSpec,
};

/// The longest identifier of a drive or an interface in bytes.
const MAX_ID_BYTES: usize = 64;

/// The longest name of an interface in bytes: `IFNAMSIZ` less the terminating NUL.
const MAX_IFNAME_BYTES: usize = 15;

/// The longest path of a Unix socket in bytes: `sun_path` less the terminating NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The lowest context identifier that a guest may have: 0 to 2 are the hypervisor, the loopback
/// and the host.
const MIN_GUEST_CID: u32 = 3;

impl VmSpec {
    /// Checks everything that can be checked without the host, and fills in defaults.
    ///
    /// # Errors
    /// The first thing that's wrong, in the order of [`VmConfig`]'s fields.
    pub fn validate(self) -> Result<VmConfig, ConfigError> {
        self.refuse_unsupported()?;
        let machine = machine(self.machine_config.unwrap_or_default())?;
        let console = console(self.console.unwrap_or_default())?;
        let drives = drives(self.drives)?;
        let boot = boot(self.boot_source.unwrap_or_default(), &console, &drives)?;
        Ok(VmConfig {
            boot,
            nets: nets(self.network_interfaces)?,
            vsock: self.vsock.map(vsock).transpose()?,
            entropy: self.entropy.as_ref().map(entropy).transpose()?,
            balloon: self.balloon.map(|spec| balloon(&spec, &machine)).transpose()?,
            machine,
            console,
            drives,
        })
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        let keys = [
            ("cpu-config", &self.cpu_config),
            ("logger", &self.logger),
            ("metrics", &self.metrics),
            ("mmds-config", &self.mmds_config),
            ("serial", &self.serial),
            ("memory-hotplug", &self.memory_hotplug),
        ];
        for (key, value) in keys {
            only_null(Field::new(Section::Other, key), value.as_ref())?;
        }
        match self.pmem.first() {
            None => Ok(()),
            Some(_) => Err(ConfigError::Unsupported {
                field: Field::new(Section::Other, "pmem"),
                value: Value::from(self.pmem.clone()).to_string(),
                accepted: "[]",
            }),
        }
    }
}

fn machine(spec: MachineSpec) -> Result<MachineConfig, ConfigError> {
    let field = |key| Field::new(Section::MachineConfig, key);
    let vcpus = spec.vcpu_count.unwrap_or(1);
    let vcpus = in_range(field("vcpu_count"), vcpus, 1, MAX_VCPUS.into())?;
    let mem_mib = spec.mem_size_mib.unwrap_or(DEFAULT_MEM_MIB);
    if !(1..=MAX_MEM_MIB).contains(&mem_mib) {
        return Err(ConfigError::OutOfRange {
            field: field("mem_size_mib"),
            value: mem_mib,
            expected: format!("from 1 to {MAX_MEM_MIB} (MiB)"),
        });
    }
    let huge_pages = spec.huge_pages.unwrap_or_default();
    if huge_pages == HugePages::Size2M && !mem_mib.is_multiple_of(2) {
        return Err(ConfigError::OutOfRange {
            field: field("mem_size_mib"),
            value: mem_mib,
            expected: "an even number of MiB, as 2 MiB pages need".to_owned(),
        });
    }
    only(field("smt"), spec.smt.as_ref(), &false, "false")?;
    only(field("track_dirty_pages"), spec.track_dirty_pages.as_ref(), &false, "false")?;
    only(field("cpu_template"), spec.cpu_template.as_ref(), &"None".to_owned(), "\"None\"")?;
    Ok(MachineConfig {
        vcpus: u8::try_from(vcpus).unwrap_or(MAX_VCPUS),
        mem_mib,
        huge_pages,
        transport: spec.transport.unwrap_or_default(),
    })
}

fn console(spec: ConsoleSpec) -> Result<ConsoleConfig, ConfigError> {
    let field = || Field::new(Section::Console, "path");
    let output = match (spec.mode, spec.path) {
        (ConsoleMode::File, Some(path)) => ConsoleOutput::File(checked_path(field(), path)?),
        (ConsoleMode::File, None) => return Err(ConfigError::Missing { field: field() }),
        (ConsoleMode::Stdio | ConsoleMode::None, Some(path)) => {
            return Err(invalid(field(), path.to_string_lossy(), "is only for the mode \"file\""));
        }
        (ConsoleMode::Stdio, None) => ConsoleOutput::Stdio,
        (ConsoleMode::None, None) => ConsoleOutput::None,
    };
    Ok(ConsoleConfig { output, device: spec.device })
}

fn boot(
    spec: BootSourceSpec,
    console: &ConsoleConfig,
    drives: &[DriveConfig],
) -> Result<BootConfig, ConfigError> {
    let field = |key| Field::new(Section::BootSource, key);
    let Some(kernel) = spec.kernel_image_path else {
        return Err(ConfigError::Missing { field: field("kernel_image_path") });
    };
    let mut cmdline = spec.boot_args.unwrap_or_else(|| default_boot_args(console));
    let names_root = cmdline.split_ascii_whitespace().any(|word| word.starts_with("root="));
    if let Some(root) = drives.first().filter(|drive| drive.is_root && !names_root) {
        if !cmdline.is_empty() {
            cmdline.push(' ');
        }
        cmdline.push_str(&root_args(root));
    }
    check_cmdline(&field("boot_args"), &cmdline)?;
    Ok(BootConfig {
        kernel: checked_path(field("kernel_image_path"), kernel)?,
        initrd: spec
            .initrd_path
            .map(|path| checked_path(field("initrd_path"), path))
            .transpose()?,
        cmdline,
    })
}

fn default_boot_args(console: &ConsoleConfig) -> String {
    match (&console.output, console.device) {
        (ConsoleOutput::None, _) => DEFAULT_BOOT_ARGS.to_owned(),
        (_, ConsoleDevice::Serial) => format!("console=ttyS0 {DEFAULT_BOOT_ARGS}"),
        (_, ConsoleDevice::Virtio) => format!("console=hvc0 {DEFAULT_BOOT_ARGS}"),
    }
}

fn root_args(root: &DriveConfig) -> String {
    let device = match &root.partuuid {
        Some(partuuid) => format!("PARTUUID={partuuid}"),
        None => "/dev/vda".to_owned(),
    };
    let mode = if root.read_only { "ro" } else { "rw" };
    format!("root={device} {mode}")
}

fn check_cmdline(field: &Field, cmdline: &str) -> Result<(), ConfigError> {
    if cmdline.len() > MAX_CMDLINE_BYTES {
        let start: String = cmdline.chars().take(40).collect();
        let reason = format!(
            "and what follows are {} bytes; at most {MAX_CMDLINE_BYTES} fit",
            cmdline.len()
        );
        return Err(ConfigError::Invalid { field: field.clone(), value: start, reason });
    }
    if cmdline.bytes().all(is_printable) {
        Ok(())
    } else {
        Err(invalid(field.clone(), cmdline, "has a character other than printable ASCII"))
    }
}

fn drives(specs: Vec<DriveSpec>) -> Result<Vec<DriveConfig>, ConfigError> {
    let mut drives = Vec::with_capacity(specs.len());
    for (index, spec) in specs.into_iter().enumerate() {
        let drive = drive(index, spec)?;
        refuse_drive_conflict(index, &drive, &drives)?;
        drives.push(drive);
    }
    // Stable: only the root device moves.
    drives.sort_by_key(|drive| !drive.is_root);
    Ok(drives)
}

fn drive(index: usize, spec: DriveSpec) -> Result<DriveConfig, ConfigError> {
    let field = |key| Field::drive(index, key);
    check_id(&field("drive_id"), &spec.drive_id)?;
    let Some(path) = spec.path_on_host else {
        return Err(ConfigError::Missing { field: field("path_on_host") });
    };
    only_null(field("socket"), spec.socket.as_ref())?;
    if let Some(partuuid) = &spec.partuuid {
        let is_uuid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if partuuid.is_empty() || !partuuid.bytes().all(is_uuid) {
            return Err(invalid(field("partuuid"), partuuid, "is no partition's UUID"));
        }
    }
    let num_queues = spec.num_queues.unwrap_or(1);
    in_range(field("num_queues"), num_queues.into(), 1, MAX_QUEUES.into())?;
    let serial = match spec.serial {
        Some(serial) => check_serial(field("serial"), serial)?,
        None => spec.drive_id.chars().take(MAX_SERIAL_BYTES).collect(),
    };
    Ok(DriveConfig {
        path: checked_path(field("path_on_host"), path)?,
        is_root: spec.is_root_device,
        partuuid: spec.partuuid,
        read_only: spec.is_read_only.unwrap_or(false),
        cache: spec.cache_type.unwrap_or_default(),
        io_engine: spec.io_engine,
        rate_limiter: limiter(&field("rate_limiter"), spec.rate_limiter)?,
        format: spec.format.unwrap_or_default(),
        serial,
        num_queues,
        id: spec.drive_id,
    })
}

/// Refuses a second drive of the same name, a second root device, and a second drive on an image
/// that either of them may write.
fn refuse_drive_conflict(
    index: usize,
    drive: &DriveConfig,
    earlier: &[DriveConfig],
) -> Result<(), ConfigError> {
    for (other_index, other) in earlier.iter().enumerate() {
        let conflict = if other.id == drive.id {
            Some(("drive_id", drive.id.clone()))
        } else if other.is_root && drive.is_root {
            Some(("is_root_device", "true".to_owned()))
        } else if other.path == drive.path && !(other.read_only && drive.read_only) {
            Some(("path_on_host", drive.path.display().to_string()))
        } else {
            None
        };
        if let Some((key, value)) = conflict {
            return Err(ConfigError::Duplicate {
                field: Field::drive(index, key),
                value,
                first: Field::drive(other_index, key),
            });
        }
    }
    Ok(())
}

fn check_serial(field: Field, serial: String) -> Result<String, ConfigError> {
    if serial.is_empty() || serial.len() > MAX_SERIAL_BYTES {
        let reason = format!("is {} bytes long; it must be 1 to {MAX_SERIAL_BYTES}", serial.len());
        return Err(ConfigError::Invalid { field, value: serial, reason });
    }
    if !serial.bytes().all(is_printable) {
        return Err(invalid(field, serial, "has a character other than printable ASCII"));
    }
    Ok(serial)
}

fn nets(specs: Vec<NetSpec>) -> Result<Vec<NetConfig>, ConfigError> {
    let mut nets: Vec<NetConfig> = Vec::with_capacity(specs.len());
    for (index, spec) in specs.into_iter().enumerate() {
        let net = net(index, spec)?;
        refuse_net_conflict(index, &net, &nets)?;
        nets.push(net);
    }
    Ok(nets)
}

/// Refuses a second interface of the same name, TAP or address.
fn refuse_net_conflict(
    index: usize,
    net: &NetConfig,
    earlier: &[NetConfig],
) -> Result<(), ConfigError> {
    for (other_index, other) in earlier.iter().enumerate() {
        let conflict = if other.id == net.id {
            Some(("iface_id", net.id.clone()))
        } else if other.tap == net.tap {
            Some(("host_dev_name", net.tap.clone()))
        } else {
            let mac = net.mac.filter(|mac| other.mac == Some(*mac));
            mac.map(|mac| ("guest_mac", mac.to_string()))
        };
        if let Some((key, value)) = conflict {
            return Err(ConfigError::Duplicate {
                field: Field::net(index, key),
                value,
                first: Field::net(other_index, key),
            });
        }
    }
    Ok(())
}

fn net(index: usize, spec: NetSpec) -> Result<NetConfig, ConfigError> {
    let field = |key| Field::net(index, key);
    check_id(&field("iface_id"), &spec.iface_id)?;
    check_tap_name(&field("host_dev_name"), &spec.host_dev_name)?;
    let mac = match spec.guest_mac {
        None => None,
        Some(text) => match text.parse::<MacAddr>() {
            Ok(mac) => Some(mac),
            Err(error) => {
                return Err(invalid(
                    field("guest_mac"),
                    text,
                    &format!("is no address for an interface: {error}"),
                ));
            }
        },
    };
    let num_queue_pairs = spec.num_queue_pairs.unwrap_or(1);
    in_range(field("num_queue_pairs"), num_queue_pairs.into(), 1, MAX_QUEUES.into())?;
    Ok(NetConfig {
        id: spec.iface_id,
        tap: spec.host_dev_name,
        mac,
        rx_rate_limiter: limiter(&field("rx_rate_limiter"), spec.rx_rate_limiter)?,
        tx_rate_limiter: limiter(&field("tx_rate_limiter"), spec.tx_rate_limiter)?,
        num_queue_pairs,
    })
}

/// The rules of the kernel's `dev_valid_name`, less bytes that nobody can type.
fn check_tap_name(field: &Field, name: &str) -> Result<(), ConfigError> {
    if name.is_empty() {
        return Err(ConfigError::Missing { field: field.clone() });
    }
    if name.len() > MAX_IFNAME_BYTES {
        let reason = format!("is {} bytes long; an interface's name has at most 15", name.len());
        return Err(invalid(field.clone(), name, &reason));
    }
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    if matches!(name, "." | "..") || !name.bytes().all(is_allowed) {
        return Err(invalid(field.clone(), name, "can't be an interface's name"));
    }
    Ok(())
}

fn vsock(spec: VsockSpec) -> Result<VsockConfig, ConfigError> {
    let field = |key| Field::new(Section::Vsock, key);
    // 2^32 - 1 is VMADDR_CID_ANY.
    let last = u64::from(u32::MAX) - 1;
    let cid = in_range(field("guest_cid"), spec.guest_cid, MIN_GUEST_CID.into(), last)?;
    let uds_path = checked_path(field("uds_path"), spec.uds_path)?;
    let len = uds_path.as_os_str().len();
    if len > MAX_SOCKET_PATH_BYTES {
        let reason =
            format!("is {len} bytes long; a socket's path has at most {MAX_SOCKET_PATH_BYTES}");
        return Err(invalid(field("uds_path"), uds_path.to_string_lossy(), &reason));
    }
    let guest_cid = u32::try_from(cid).unwrap_or(MIN_GUEST_CID);
    Ok(VsockConfig { guest_cid, uds_path })
}

fn entropy(spec: &EntropySpec) -> Result<EntropyConfig, ConfigError> {
    // The device bounds each request and has a worker of its own; rates aren't limited yet.
    let field = Field::new(Section::Entropy, "rate_limiter");
    only(field, spec.rate_limiter.as_ref(), &RateLimiter::default(), "null")?;
    Ok(EntropyConfig {})
}

fn balloon(spec: &BalloonSpec, machine: &MachineConfig) -> Result<BalloonConfig, ConfigError> {
    let field = |key| Field::new(Section::Balloon, key);
    if spec.amount_mib >= machine.mem_mib {
        return Err(ConfigError::OutOfRange {
            field: field("amount_mib"),
            value: spec.amount_mib,
            expected: format!("less than the VM's memory of {} MiB", machine.mem_mib),
        });
    }
    let interval = spec.stats_polling_interval_s.as_ref();
    only(field("stats_polling_interval_s"), interval, &0, "0")?;
    only(field("free_page_hinting"), spec.free_page_hinting.as_ref(), &false, "false")?;
    Ok(BalloonConfig {
        amount_mib: spec.amount_mib,
        deflate_on_oom: spec.deflate_on_oom,
        free_page_reporting: spec.free_page_reporting.unwrap_or(false),
    })
}

fn limiter(field: &Field, spec: Option<RateLimiter>) -> Result<RateLimiter, ConfigError> {
    let spec = spec.unwrap_or_default();
    for (key, bucket) in [("bandwidth", spec.bandwidth), ("ops", spec.ops)] {
        let Some(bucket) = bucket else { continue };
        let field = field.child(key);
        in_range(field.child("size"), bucket.size, 1, u64::MAX)?;
        in_range(field.child("refill_time"), bucket.refill_time, 1, u64::MAX)?;
    }
    Ok(spec)
}

fn check_id(field: &Field, id: &str) -> Result<(), ConfigError> {
    if id.is_empty() {
        return Err(ConfigError::Missing { field: field.clone() });
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if id.len() > MAX_ID_BYTES || !id.bytes().all(is_allowed) {
        let reason = "is no identifier: 1 to 64 letters, digits, '_' and '-'";
        return Err(invalid(field.clone(), id, reason));
    }
    Ok(())
}

fn checked_path(field: Field, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path == Path::new("") {
        return Err(ConfigError::Missing { field });
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(invalid(field, path.to_string_lossy(), "has a NUL in it"));
    }
    // It travels as JSON, which has no other strings.
    if path.to_str().is_none() {
        return Err(invalid(field, path.to_string_lossy(), "isn't UTF-8"));
    }
    Ok(path)
}

fn in_range(field: Field, value: u64, first: u64, last: u64) -> Result<u64, ConfigError> {
    if (first..=last).contains(&value) {
        return Ok(value);
    }
    let expected = if last == u64::MAX {
        format!("at least {first}")
    } else {
        format!("from {first} to {last}")
    };
    Err(ConfigError::OutOfRange { field, value, expected })
}

fn only_null(field: Field, value: Option<&Value>) -> Result<(), ConfigError> {
    only(field, value, &Value::Null, "null")
}

/// Refuses any value of a key that isn't honoured but its default.
fn only<T: PartialEq + Serialize>(
    field: Field,
    value: Option<&T>,
    default: &T,
    accepted: &'static str,
) -> Result<(), ConfigError> {
    match value {
        Some(value) if value != default => {
            Err(ConfigError::Unsupported { field, value: json!(value).to_string(), accepted })
        }
        _ => Ok(()),
    }
}

fn invalid(field: Field, value: impl Into<String>, reason: &str) -> ConfigError {
    ConfigError::Invalid { field, value: value.into(), reason: reason.to_owned() }
}

const fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}
