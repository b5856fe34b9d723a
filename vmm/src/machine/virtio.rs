//! Makes the virtio devices that a configuration asks for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::config::{
    BalloonConfig, CacheType, ConsoleDevice, DiskFormat, DriveBackend, DriveConfig, EntropyConfig,
    Field, IoEngine, MacAddr, MmdsConfig, NetConfig, NetHost, PmemConfig, RateLimiter, Section,
    TokenBucket, VmConfig, VsockConfig,
};
use api::event::ErrorKind;
use devices::disk::{
    BackingFile, Cache, Disk, DiskBackend, DiskError, DiskErrorKind, DiskOptions, Engine, Format,
};
use devices::rate_limiter::{RateLimiterConfig, TokenBucketConfig};
use devices::virtio::balloon::{Balloon, BalloonOptions, BalloonPort};
use devices::virtio::block::{Block, BlockConfig};
use devices::virtio::console::{Console, ConsolePort};
use devices::virtio::mem::{Mem, MemPort};
use devices::virtio::net::{FrameBackend, Net, NetConfig as NetSettings, StreamBackend};
use devices::virtio::pmem::{Pmem, PmemFile};
use devices::virtio::rng::Rng;
use devices::virtio::vhost_user::{VhostUserBlock, VhostUserError};
use devices::virtio::vsock::{Vsock, VsockConfig as VsockSettings, VsockError};
use sys::tap::{Tap, TapError};

use super::Surroundings;
use super::device_memory::{DeviceMemory, Pluggable};
use super::filesystem;
use super::registry::{Handle, Made};
use super::state::DeviceKey;
use crate::error::VmmError;

/// The size of each queue of a block device.
const BLOCK_QUEUE_SIZE: u16 = 256;

/// The size of each queue of a network card.
const NET_QUEUE_SIZE: u16 = 256;

/// Pages of 4 KiB in a MiB.
pub(super) const PAGES_PER_MIB: u64 = 256;

/// Lists the devices that a configuration asks for, in the guest's order: drives before network
/// interfaces, so that the root disk is `/dev/vda`.
pub(super) fn keys(config: &VmConfig) -> Vec<DeviceKey> {
    let mut keys = Vec::new();
    if config.console.device == ConsoleDevice::Virtio {
        keys.push(DeviceKey::Console);
    }
    keys.extend(config.drives.iter().map(|drive| DeviceKey::Block(drive.id.clone())));
    keys.extend(config.nets.iter().map(|net| DeviceKey::Net(net.id.clone())));
    keys.extend(config.pmem.iter().map(|pmem| DeviceKey::Pmem(pmem.id.clone())));
    keys.extend(config.filesystems.iter().map(|fs| DeviceKey::Fs(fs.id.clone())));
    let single = [
        (config.vsock.is_some(), DeviceKey::Vsock),
        (config.entropy.is_some(), DeviceKey::Rng),
        (config.balloon.is_some(), DeviceKey::Balloon),
        (config.memory_hotplug.is_some(), DeviceKey::Memory),
    ];
    keys.extend(single.into_iter().filter_map(|(wanted, key)| wanted.then_some(key)));
    keys
}

/// Where the memory that a device brings goes.
#[derive(Clone, Copy)]
pub(super) struct MemoryPlace<'m> {
    /// The window.
    pub(super) window: &'m Arc<DeviceMemory>,
    /// Where a restored guest expects it.
    pub(super) at: Option<u64>,
}

/// Makes the device `key` of `config`; `console` is where the virtio console is connected to.
///
/// # Errors
/// [`VmmError::Device`] with the part of the configuration.
pub(super) fn make(
    config: &VmConfig,
    key: &DeviceKey,
    around: &Surroundings,
    console: Option<&Arc<ConsolePort>>,
    memory: MemoryPlace<'_>,
) -> Result<Made, VmmError> {
    let missing = || {
        let reason = "the configuration has no such device";
        VmmError::snapshot(format!("make device {:?}", key.name()), reason)
    };
    match key {
        DeviceKey::Block(id) => {
            let index = config.drives.iter().position(|drive| drive.id == *id);
            let index = index.ok_or_else(missing)?;
            make_block(&config.drives[index], index)
        }
        DeviceKey::Net(id) => {
            let index = config.nets.iter().position(|net| net.id == *id).ok_or_else(missing)?;
            make_net(&config.nets[index], index, config.mmds.as_ref(), around)
        }
        DeviceKey::Vsock => make_vsock(config.vsock.as_ref().ok_or_else(missing)?),
        DeviceKey::Rng => make_rng(config.entropy.as_ref().ok_or_else(missing)?),
        DeviceKey::Balloon => make_balloon(config.balloon.as_ref().ok_or_else(missing)?),
        DeviceKey::Console => {
            let port = Arc::clone(console.ok_or_else(missing)?);
            Ok(Made { device: Box::new(Console::new(port)), handle: Handle::Console })
        }
        DeviceKey::Pmem(id) => {
            let index = config.pmem.iter().position(|pmem| pmem.id == *id).ok_or_else(missing)?;
            make_pmem(&config.pmem[index], index, memory)
        }
        DeviceKey::Fs(id) => {
            let index = config.filesystems.iter().position(|fs| fs.id == *id);
            let index = index.ok_or_else(missing)?;
            filesystem::make(&config.filesystems[index], index)
        }
        DeviceKey::Memory => {
            let Pluggable { region, memory, slots } =
                memory.window.pluggable().cloned().ok_or_else(missing)?;
            let port = Arc::new(MemPort::new(region, memory, slots));
            Ok(Made { device: Box::new(Mem::new(Arc::clone(&port))), handle: Handle::Memory(port) })
        }
    }
}

/// Opens the image of `drive`.
///
/// # Errors
/// [`VmmError::Device`], about the drive at `index` of the configuration.
pub(super) fn open_disk(drive: &DriveConfig, index: usize) -> Result<Disk, VmmError> {
    open_disk_as(drive, index, Disk::open)
}

/// Opens the image of `drive`, to take the place of `present`: that may be the same image, grown.
///
/// # Errors
/// As [`open_disk`].
pub(super) fn open_disk_instead(
    present: &dyn DiskBackend,
    drive: &DriveConfig,
    index: usize,
) -> Result<Disk, VmmError> {
    open_disk_as(drive, index, |options| present.replacement(options))
}

fn open_disk_as(
    drive: &DriveConfig,
    index: usize,
    open: impl FnOnce(&DiskOptions) -> Result<Disk, DiskError>,
) -> Result<Disk, VmmError> {
    let error =
        |key: &str, kind, source: Box<dyn std::error::Error + Send + Sync>| VmmError::Device {
            what: format!("drive {:?}", drive.id),
            field: Field::drive(index, key),
            kind,
            source,
        };
    let Some(path) = drive.image() else {
        let reason = "a vhost-user drive has no image here";
        return Err(error("socket", ErrorKind::ConfigUnsupported, reason.into()));
    };
    let options = DiskOptions {
        path: path.to_owned(),
        format: Some(disk_format(drive.format)),
        read_only: drive.read_only,
        cache: match drive.cache {
            CacheType::Unsafe => Cache::Unsafe,
            CacheType::Writeback => Cache::WriteBack,
            CacheType::Direct => Cache::Direct,
        },
        engine: drive.io_engine.map(|engine| match engine {
            IoEngine::Sync => Engine::Sync,
            IoEngine::Async => Engine::IoUring,
        }),
        backing: drive
            .backing
            .iter()
            .map(|file| BackingFile {
                path: file.path_on_host.clone(),
                format: disk_format(file.format),
            })
            .collect(),
        concat: drive.concat.clone(),
    };
    open(&options).map_err(|source| {
        let (key, kind) = disk_kind(source.kind());
        let key = match source.path() {
            wrong if wrong == path => key,
            wrong if drive.concat.iter().any(|file| file == wrong) => "concat",
            _ => "backing",
        };
        error(key, kind, Box::new(source))
    })
}

/// Translates a format into the devices' own type.
pub(super) fn disk_format(format: DiskFormat) -> Format {
    match format {
        DiskFormat::Raw => Format::Raw,
        DiskFormat::Qcow2 => Format::Qcow2,
    }
}

/// Connects to the back end of `drive`.
fn make_vhost_user(drive: &DriveConfig, index: usize, socket: &Path) -> Result<Made, VmmError> {
    let connected = VhostUserBlock::connect(socket, drive.num_queues, BLOCK_QUEUE_SIZE);
    let device = connected.map_err(|source| {
        let (key, kind) = match &source {
            VhostUserError::Connect(_) => ("socket", ErrorKind::DiskMissing),
            VhostUserError::Queues { .. } => ("num_queues", ErrorKind::ConfigUnsupported),
            VhostUserError::Protocol { .. }
            | VhostUserError::Missing(_)
            | VhostUserError::Private => ("socket", ErrorKind::DiskUnsupported),
        };
        VmmError::Device {
            what: format!("drive {:?}", drive.id),
            field: Field::drive(index, key),
            kind,
            source: Box::new(source),
        }
    })?;
    let control = Arc::clone(device.control());
    Ok(Made { device: Box::new(device), handle: Handle::VhostUser(control) })
}

fn make_block(drive: &DriveConfig, index: usize) -> Result<Made, VmmError> {
    if let DriveBackend::VhostUser(socket) = &drive.backend {
        return make_vhost_user(drive, index, socket);
    }
    let disk = open_disk(drive, index)?;
    let settings = BlockConfig {
        serial: drive.serial.clone(),
        num_queues: drive.num_queues,
        queue_size: BLOCK_QUEUE_SIZE,
        rate_limit: rate_limit(&drive.rate_limiter),
    };
    let block = Block::new(&settings, disk).map_err(|source| VmmError::Device {
        what: format!("drive {:?}", drive.id),
        field: Field::drive(index, "num_queues"),
        kind: ErrorKind::Internal,
        source: Box::new(source),
    })?;
    let (control, metrics) = (Arc::clone(block.control()), Arc::clone(block.metrics()));
    Ok(Made { device: Box::new(block), handle: Handle::Block { control, metrics } })
}

fn make_pmem(pmem: &PmemConfig, index: usize, memory: MemoryPlace<'_>) -> Result<Made, VmmError> {
    let error = |kind, source: Box<dyn std::error::Error + Send + Sync>| VmmError::Device {
        what: format!("persistent memory {:?}", pmem.id),
        field: Field::pmem(index, "path_on_host"),
        kind,
        source,
    };
    let file = PmemFile::open(&pmem.path, pmem.read_only)
        .map_err(|source| error(disk_kind(source.kind()).1, Box::new(source)))?;
    let mapping = file.map().map_err(|source| error(ErrorKind::Internal, Box::new(source)))?;
    let mapped = memory
        .window
        .map(mapping, memory.at)
        .map_err(|source| error(ErrorKind::ConfigUnsupported, Box::new(source)))?;
    let device = Pmem::new(file, mapped.start(), &rate_limit(&pmem.rate_limiter))
        .map_err(|source| VmmError::os("make persistent memory", source))?;
    let (control, metrics) = (device.control(), Arc::clone(device.metrics()));
    Ok(Made { device: Box::new(device), handle: Handle::Pmem { control, metrics, mapped } })
}

/// Returns which of a drive's keys an error is about, and its sort.
fn disk_kind(kind: DiskErrorKind) -> (&'static str, ErrorKind) {
    let path = "path_on_host";
    match kind {
        DiskErrorKind::NotFound => (path, ErrorKind::DiskMissing),
        DiskErrorKind::ReadOnly => (path, ErrorKind::DiskReadOnly),
        DiskErrorKind::Open => (path, ErrorKind::DiskDenied),
        DiskErrorKind::InUse => (path, ErrorKind::DiskInUse),
        DiskErrorKind::Empty => (path, ErrorKind::DiskEmpty),
        DiskErrorKind::Length => (path, ErrorKind::DiskSize),
        DiskErrorKind::NotAnImage | DiskErrorKind::OtherFile => (path, ErrorKind::DiskUnsupported),
        DiskErrorKind::Repeated => ("backing", ErrorKind::DiskUnsupported),
        DiskErrorKind::Format => ("format", ErrorKind::DiskUnsupported),
        DiskErrorKind::Engine => ("io_engine", ErrorKind::IoUringUnavailable),
        DiskErrorKind::Direct => ("cache_type", ErrorKind::DiskUnsupported),
    }
}

fn make_net(
    net: &NetConfig,
    index: usize,
    mmds: Option<&MmdsConfig>,
    around: &Surroundings,
) -> Result<Made, VmmError> {
    let error =
        |key: &str, kind, source: Box<dyn std::error::Error + Send + Sync>| VmmError::Device {
            what: format!("network interface {:?}", net.id),
            field: Field::net(index, key),
            kind,
            source,
        };
    let backends: Vec<Box<dyn FrameBackend>> = match &net.host {
        NetHost::Tap(name) => Tap::open(name, net.num_queue_pairs)
            .map_err(|source| error("host_dev_name", tap_kind(&source), Box::new(source)))?
            .into_iter()
            .map(|tap| Box::new(tap) as Box<dyn FrameBackend>)
            .collect(),
        NetHost::Socket(path) => {
            let backend = StreamBackend::connect(path).map_err(|source| {
                error("socket", ErrorKind::NetSocketUnusable, Box::new(source))
            })?;
            vec![Box::new(backend)]
        }
    };
    let settings = NetSettings {
        mac: net.mac.map_or_else(random_mac, |mac| Ok(mac.octets()))?,
        queue_pairs: net.num_queue_pairs,
        queue_size: NET_QUEUE_SIZE,
        mtu: net.mtu,
        rx_limit: rate_limit(&net.rx_rate_limiter),
        tx_limit: rate_limit(&net.tx_rate_limiter),
    };
    let net = if mmds.is_some_and(|mmds| mmds.nets.contains(&net.id)) {
        Net::with_mmds(settings, backends, Arc::clone(&around.mmds))
    } else {
        Net::new(settings, backends)
    };
    let net =
        net.map_err(|source| error("num_queue_pairs", ErrorKind::Internal, Box::new(source)))?;
    let (control, metrics) = (net.control(), Arc::clone(net.metrics()));
    Ok(Made { device: Box::new(net), handle: Handle::Net { control, metrics } })
}

fn tap_kind(error: &TapError) -> ErrorKind {
    match error {
        TapError::Absent { .. } => ErrorKind::TapMissing,
        TapError::Busy { .. } => ErrorKind::TapBusy,
        TapError::NotPermitted { .. } | TapError::NoTun { .. } => ErrorKind::TapDenied,
        TapError::NotTap { .. } => ErrorKind::NotTap,
        TapError::SingleQueue { .. } => ErrorKind::TapSingleQueue,
        TapError::InvalidName { .. } | TapError::InvalidQueues { .. } => ErrorKind::ConfigInvalid,
        TapError::Request { .. } => ErrorKind::Internal,
    }
}

/// Makes up a unicast, locally administered Ethernet address.
fn random_mac() -> Result<[u8; 6], VmmError> {
    let mut mac = [0; 6];
    rustix::rand::getrandom(&mut mac, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| VmmError::os("get random bytes", error.into()))?;
    mac[0] = mac[0] & !0x01 | 0x02;
    Ok(mac)
}

/// Gives every interface whose configuration names no Ethernet address one: what a guest sees must
/// come back from a snapshot.
///
/// # Errors
/// When there is no randomness.
pub(super) fn choose_addresses(config: &mut VmConfig) -> Result<(), VmmError> {
    config.nets.iter_mut().try_for_each(choose_address)
}

/// Gives an interface an Ethernet address unless it has one.
///
/// # Errors
/// When there is no randomness.
pub(super) fn choose_address(net: &mut NetConfig) -> Result<(), VmmError> {
    if net.mac.is_none() {
        let mac = MacAddr::new(random_mac()?)
            .map_err(|error| VmmError::os("choose an address", std::io::Error::other(error)))?;
        net.mac = Some(mac);
    }
    Ok(())
}

fn make_vsock(vsock: &VsockConfig) -> Result<Made, VmmError> {
    let settings = VsockSettings { cid: vsock.guest_cid, path: vsock.uds_path.clone() };
    let vsock = Vsock::new(&settings).map_err(|source| {
        let (key, kind) = match &source {
            VsockError::InvalidCid(_) => ("guest_cid", ErrorKind::ConfigInvalid),
            VsockError::PathTooLong { .. } => ("uds_path", ErrorKind::ConfigInvalid),
            VsockError::SocketExists { .. } => ("uds_path", ErrorKind::SocketInUse),
            VsockError::Bind { .. } => ("uds_path", ErrorKind::OutputDenied),
        };
        VmmError::Device {
            what: "the vsock device".to_owned(),
            field: Field::new(Section::Vsock, key),
            kind,
            source: Box::new(source),
        }
    })?;
    let metrics = Arc::clone(vsock.metrics());
    Ok(Made { device: Box::new(vsock), handle: Handle::Vsock(metrics) })
}

fn make_rng(entropy: &EntropyConfig) -> Result<Made, VmmError> {
    let rng = Rng::with_limit(&rate_limit(&entropy.rate_limiter))
        .map_err(|source| VmmError::os("make the source of randomness", source))?;
    Ok(Made { device: Box::new(rng), handle: Handle::Rng })
}

fn make_balloon(config: &BalloonConfig) -> Result<Made, VmmError> {
    let port = BalloonPort::new().map_err(|source| VmmError::os("make the balloon", source))?;
    let pages =
        u32::try_from(config.amount_mib.saturating_mul(PAGES_PER_MIB)).map_err(|source| {
            VmmError::Device {
                what: "the balloon".to_owned(),
                field: Field::new(Section::Balloon, "amount_mib"),
                kind: ErrorKind::ConfigInvalid,
                source: Box::new(source),
            }
        })?;
    port.set_target_pages(pages);
    let options = BalloonOptions {
        deflate_on_oom: config.deflate_on_oom,
        free_page_reporting: config.free_page_reporting,
        free_page_hinting: config.free_page_hinting,
        stats: config.stats_polling_interval_s != 0,
    };
    port.set_stats_interval(Duration::from_secs(config.stats_polling_interval_s.into()))
        .map_err(|source| VmmError::os("set the balloon's timer", source))?;
    let port = Arc::new(port);
    let balloon = Balloon::new(Arc::clone(&port), options);
    Ok(Made { device: Box::new(balloon), handle: Handle::Balloon(port) })
}

/// Translates limits into the devices' own type.
pub(super) fn rate_limit(limiter: &RateLimiter) -> RateLimiterConfig {
    RateLimiterConfig { bandwidth: limiter.bandwidth.map(bucket), ops: limiter.ops.map(bucket) }
}

/// Translates one limit into the devices' own type.
pub(super) fn bucket(bucket: TokenBucket) -> TokenBucketConfig {
    TokenBucketConfig {
        size: bucket.size,
        one_time_burst: bucket.one_time_burst.unwrap_or_default(),
        refill_time_ms: bucket.refill_time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_image_and_one_of_half_a_sector_are_told_apart() {
        assert_eq!(disk_kind(DiskErrorKind::Empty).1, ErrorKind::DiskEmpty);
        assert_eq!(disk_kind(DiskErrorKind::Length).1, ErrorKind::DiskSize);
    }

    #[test]
    fn interface_that_is_no_tap_and_tap_of_one_queue_are_told_apart() {
        let name = "lo".to_owned();
        assert_eq!(tap_kind(&TapError::NotTap { name: name.clone() }), ErrorKind::NotTap);
        let single = TapError::SingleQueue { name, queues: 2 };
        assert_eq!(tap_kind(&single), ErrorKind::TapSingleQueue);
    }

    #[test]
    fn made_up_address_is_unicast_and_locally_administered() {
        for _ in 0..32 {
            assert_eq!(random_mac().unwrap()[0] & 0b11, 0b10);
        }
    }
}
