//! Drives and network interfaces.

use std::path::{Path, PathBuf};

use super::super::{
    BackingFile, ConfigError, DiskFormat, DriveBackend, DriveConfig, DriveSpec, Field,
    MAX_BACKING_FILES, MAX_CONCAT_FILES, MAX_QUEUES, MAX_SERIAL_BYTES, MacAddr, NetConfig, NetHost,
    NetSpec,
};
use super::values::{
    check_id, checked_path, checked_socket, in_range, invalid, is_printable, limiter,
};

/// The longest name of an interface in bytes: `IFNAMSIZ` less the terminating NUL.
const MAX_IFNAME_BYTES: usize = 15;

/// The least MTU that a device may offer (VIRTIO 1.3 §5.1.4.1).
const MIN_MTU: u64 = 68;

pub(super) fn drives(specs: Vec<DriveSpec>) -> Result<Vec<DriveConfig>, ConfigError> {
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

pub(super) fn drive(index: usize, spec: DriveSpec) -> Result<DriveConfig, ConfigError> {
    let field = |key| Field::drive(index, key);
    check_id(&field("drive_id"), &spec.drive_id)?;
    if let Some(partuuid) = &spec.partuuid {
        let is_uuid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if partuuid.is_empty() || !partuuid.bytes().all(is_uuid) {
            return Err(invalid(field("partuuid"), partuuid, "is no partition's UUID"));
        }
    }
    let num_queues = spec.num_queues.unwrap_or(1);
    in_range(field("num_queues"), num_queues.into(), 1, MAX_QUEUES.into())?;
    let backend = drive_backend(index, &spec)?;
    let format = spec.format.unwrap_or_default();
    let backing = check_backing(field("backing"), &backend, format, spec.backing)?;
    let read_only = spec.is_read_only.unwrap_or(false);
    let concat = check_concat(field("concat"), read_only, format, spec.concat)?;
    let serial = match spec.serial {
        Some(serial) => check_serial(field("serial"), serial)?,
        None => spec.drive_id.chars().take(MAX_SERIAL_BYTES).collect(),
    };
    Ok(DriveConfig {
        backend,
        is_root: spec.is_root_device,
        partuuid: spec.partuuid,
        read_only,
        cache: spec.cache_type.unwrap_or_default(),
        io_engine: spec.io_engine,
        rate_limiter: limiter(spec.rate_limiter),
        format,
        backing,
        concat,
        serial,
        num_queues,
        id: spec.drive_id,
    })
}

/// Finds out who serves a drive, and refuses what's the back end's affair.
fn drive_backend(index: usize, spec: &DriveSpec) -> Result<DriveBackend, ConfigError> {
    let field = |key| Field::drive(index, key);
    let Some(socket) = &spec.socket else {
        let Some(path) = &spec.path_on_host else {
            return Err(ConfigError::Missing { field: field("path_on_host") });
        };
        return Ok(DriveBackend::Image(checked_path(field("path_on_host"), path.clone())?));
    };
    let given = [
        ("path_on_host", spec.path_on_host.is_some()),
        ("is_read_only", spec.is_read_only.is_some()),
        ("io_engine", spec.io_engine.is_some()),
        ("rate_limiter", spec.rate_limiter.is_some()),
        ("format", spec.format.is_some()),
        ("backing", !spec.backing.is_empty()),
        ("concat", !spec.concat.is_empty()),
        ("serial", spec.serial.is_some()),
    ];
    if let Some((key, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
        let reason = format!("is the back end's affair: leave out {key} beside it");
        return Err(invalid(field("socket"), socket.to_string_lossy(), &reason));
    }
    Ok(DriveBackend::VhostUser(checked_socket(field("socket"), socket.clone())?))
}

/// Refuses a second drive of the same name, a second root device, and a second drive on an image
/// that either of them may write.
pub(super) fn refuse_drive_conflict(
    index: usize,
    drive: &DriveConfig,
    earlier: &[DriveConfig],
) -> Result<(), ConfigError> {
    for (other_index, other) in earlier.iter().enumerate() {
        let conflict = if other.id == drive.id {
            Some(("drive_id", "drive_id", drive.id.clone()))
        } else if other.is_root && drive.is_root {
            Some(("is_root_device", "is_root_device", "true".to_owned()))
        } else {
            shared_backend(drive, other)
        };
        if let Some((key, other_key, value)) = conflict {
            return Err(ConfigError::Duplicate {
                field: Field::drive(index, key),
                value,
                first: Field::drive(other_index, other_key),
            });
        }
    }
    Ok(())
}

/// The keys and the value of what serves two drives and may serve one only.
fn shared_backend(
    drive: &DriveConfig,
    other: &DriveConfig,
) -> Option<(&'static str, &'static str, String)> {
    if let DriveBackend::VhostUser(path) = &drive.backend {
        let is_shared = other.backend == drive.backend;
        return is_shared.then(|| ("socket", "socket", path.display().to_string()));
    }
    let file = drive.files().find(|file| other.conflicts(file, drive.writes(file)))?;
    let key = |drive: &DriveConfig| match drive.image() {
        Some(image) if image == file => "path_on_host",
        _ if drive.concat.iter().any(|other| other == file) => "concat",
        _ => "backing",
    };
    Some((key(drive), key(other), file.display().to_string()))
}

/// Checks what an image builds upon: each file once, and nothing below a raw image.
fn check_backing(
    field: Field,
    backend: &DriveBackend,
    format: DiskFormat,
    backing: Vec<BackingFile>,
) -> Result<Vec<BackingFile>, ConfigError> {
    if backing.len() > MAX_BACKING_FILES {
        let value = backing.len().to_string();
        let reason = format!("are too many images: at most {MAX_BACKING_FILES} are possible");
        return Err(ConfigError::Invalid { field, value, reason });
    }
    let DriveBackend::Image(image) = backend else { return Ok(backing) };
    let mut above: Vec<&Path> = vec![image];
    let mut format_above = format;
    for file in &backing {
        let path = checked_path(field.clone(), file.path_on_host.clone())?;
        if format_above == DiskFormat::Raw {
            let reason = "can't be below a raw image: only a qcow2 image builds upon another";
            return Err(invalid(field, path.to_string_lossy(), reason));
        }
        if above.contains(&path.as_path()) {
            return Err(invalid(field, path.to_string_lossy(), "is in the drive's chain twice"));
        }
        above.push(&file.path_on_host);
        format_above = file.format;
    }
    Ok(backing)
}

/// Checks the files that follow an image: it must be raw, and nobody may write it.
fn check_concat(
    field: Field,
    read_only: bool,
    format: DiskFormat,
    concat: Vec<PathBuf>,
) -> Result<Vec<PathBuf>, ConfigError> {
    if concat.len() > MAX_CONCAT_FILES {
        let value = concat.len().to_string();
        let reason = format!("are too many files: at most {MAX_CONCAT_FILES} can follow the first");
        return Err(ConfigError::Invalid { field, value, reason });
    }
    if let Some(file) = concat.first()
        && (!read_only || format != DiskFormat::Raw)
    {
        let reason =
            "can't follow this image: only a raw, read-only drive goes on in further files";
        return Err(invalid(field, file.to_string_lossy(), reason));
    }
    concat.into_iter().map(|path| checked_path(field.clone(), path)).collect()
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

pub(super) fn nets(specs: Vec<NetSpec>) -> Result<Vec<NetConfig>, ConfigError> {
    let mut nets: Vec<NetConfig> = Vec::with_capacity(specs.len());
    for (index, spec) in specs.into_iter().enumerate() {
        let net = net(index, spec)?;
        refuse_net_conflict(index, &net, &nets)?;
        nets.push(net);
    }
    Ok(nets)
}

/// Refuses a second interface of the same name, TAP or address.
pub(super) fn refuse_net_conflict(
    index: usize,
    net: &NetConfig,
    earlier: &[NetConfig],
) -> Result<(), ConfigError> {
    for (other_index, other) in earlier.iter().enumerate() {
        let conflict = if other.id == net.id {
            Some(("iface_id", net.id.clone()))
        } else if other.host == net.host {
            Some(match &net.host {
                NetHost::Tap(name) => ("host_dev_name", name.clone()),
                NetHost::Socket(path) => ("socket", path.display().to_string()),
            })
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

pub(super) fn net(index: usize, spec: NetSpec) -> Result<NetConfig, ConfigError> {
    let field = |key| Field::net(index, key);
    check_id(&field("iface_id"), &spec.iface_id)?;
    let host = net_host(index, spec.host_dev_name, spec.socket)?;
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
    let most = if matches!(host, NetHost::Tap(_)) { MAX_QUEUES.into() } else { 1 };
    in_range(field("num_queue_pairs"), num_queue_pairs.into(), 1, most)?;
    if let Some(mtu) = spec.mtu {
        in_range(field("mtu"), mtu.into(), MIN_MTU, u16::MAX.into())?;
    }
    Ok(NetConfig {
        id: spec.iface_id,
        host,
        mac,
        mtu: spec.mtu,
        rx_rate_limiter: limiter(spec.rx_rate_limiter),
        tx_rate_limiter: limiter(spec.tx_rate_limiter),
        num_queue_pairs,
    })
}

/// A TAP interface or a socket, and not both.
fn net_host(index: usize, tap: String, socket: Option<PathBuf>) -> Result<NetHost, ConfigError> {
    let Some(path) = socket else {
        check_tap_name(&Field::net(index, "host_dev_name"), &tap)?;
        return Ok(NetHost::Tap(tap));
    };
    let field = Field::net(index, "socket");
    if !tap.is_empty() {
        let reason = "stands beside host_dev_name: an interface has one of them";
        return Err(invalid(field, path.display().to_string(), reason));
    }
    checked_socket(field, path).map(NetHost::Socket)
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
