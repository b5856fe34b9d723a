//! Makes the virtio devices that a configuration asks for, in the guest's order.

use std::sync::Arc;

use api::config::{
    BalloonConfig, CacheType, DiskFormat, DriveConfig, Field, IoEngine, NetConfig, RateLimiter,
    Section, TokenBucket, VmConfig, VsockConfig,
};
use api::event::ErrorKind;
use devices::disk::{Cache, Disk, DiskErrorKind, DiskOptions, Engine, Format};
use devices::rate_limiter::{RateLimiterConfig, TokenBucketConfig};
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::{Balloon, BalloonOptions, BalloonPort};
use devices::virtio::block::{Block, BlockConfig, BlockError};
use devices::virtio::net::{FrameBackend, Net, NetConfig as NetSettings, NetError};
use devices::virtio::rng::Rng;
use devices::virtio::vsock::{Vsock, VsockConfig as VsockSettings, VsockError};
use sys::tap::{Tap, TapError};

use super::attach::Attacher;
use crate::error::VmmError;

/// The size of each queue of a block device.
const BLOCK_QUEUE_SIZE: u16 = 256;

/// The size of each queue of a network card.
const NET_QUEUE_SIZE: u16 = 256;

/// Pages of 4 KiB in a MiB.
const PAGES_PER_MIB: u64 = 256;

/// Makes and attaches all devices: drives first, so that the root disk is `/dev/vda`.
///
/// # Errors
/// [`VmmError::Device`] with the part of the configuration, and what attaching refuses.
pub(super) fn attach_all(config: &VmConfig, attacher: &mut Attacher) -> Result<(), VmmError> {
    for (index, drive) in config.drives.iter().enumerate() {
        attacher.attach(Box::new(make_block(drive, index)?))?;
    }
    for (index, net) in config.nets.iter().enumerate() {
        attacher.attach(Box::new(make_net(net, index)?))?;
    }
    if let Some(vsock) = &config.vsock {
        attacher.attach(Box::new(make_vsock(vsock)?))?;
    }
    if config.entropy.is_some() {
        attacher.attach(Box::new(Rng::new()))?;
    }
    if let Some(balloon) = &config.balloon {
        attacher.attach(make_balloon(balloon)?)?;
    }
    Ok(())
}

fn make_block(drive: &DriveConfig, index: usize) -> Result<Block, VmmError> {
    let error =
        |key: &str, kind, source: Box<dyn std::error::Error + Send + Sync>| VmmError::Device {
            what: format!("drive {:?}", drive.id),
            field: Field::drive(index, key),
            kind,
            source,
        };
    let Some(path) = drive.image() else {
        let reason = "this VMM has no front end for vhost-user drives yet";
        return Err(error("socket", ErrorKind::ConfigUnsupported, reason.into()));
    };
    let options = DiskOptions {
        path: path.to_owned(),
        format: Some(match drive.format {
            DiskFormat::Raw => Format::Raw,
            DiskFormat::Qcow2 => Format::Qcow2,
        }),
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
    };
    let disk = Disk::open(&options).map_err(|source| {
        let (key, kind) = disk_kind(source.kind());
        error(key, kind, Box::new(source))
    })?;
    let settings = BlockConfig {
        serial: drive.serial.clone(),
        num_queues: drive.num_queues,
        queue_size: BLOCK_QUEUE_SIZE,
        rate_limit: rate_limit(&drive.rate_limiter),
    };
    Block::new(&settings, disk)
        .map_err(|source: BlockError| error("num_queues", ErrorKind::Internal, Box::new(source)))
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
        DiskErrorKind::Format => ("format", ErrorKind::DiskUnsupported),
        DiskErrorKind::Engine => ("io_engine", ErrorKind::IoUringUnavailable),
        DiskErrorKind::Direct => ("cache_type", ErrorKind::DiskUnsupported),
    }
}

fn make_net(net: &NetConfig, index: usize) -> Result<Net, VmmError> {
    let error =
        |key: &str, kind, source: Box<dyn std::error::Error + Send + Sync>| VmmError::Device {
            what: format!("network interface {:?}", net.id),
            field: Field::net(index, key),
            kind,
            source,
        };
    let taps = Tap::open(&net.tap, net.num_queue_pairs)
        .map_err(|source| error("host_dev_name", tap_kind(&source), Box::new(source)))?;
    let backends = taps.into_iter().map(|tap| Box::new(tap) as Box<dyn FrameBackend>).collect();
    let settings = NetSettings {
        mac: match net.mac {
            Some(mac) => mac.octets(),
            None => random_mac()?,
        },
        queue_pairs: net.num_queue_pairs,
        queue_size: NET_QUEUE_SIZE,
        mtu: None,
        rx_limit: rate_limit(&net.rx_rate_limiter),
        tx_limit: rate_limit(&net.tx_rate_limiter),
    };
    Net::new(settings, backends)
        .map_err(|source: NetError| error("num_queue_pairs", ErrorKind::Internal, Box::new(source)))
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

fn make_vsock(vsock: &VsockConfig) -> Result<Vsock, VmmError> {
    let settings = VsockSettings { cid: vsock.guest_cid, path: vsock.uds_path.clone() };
    Vsock::new(&settings).map_err(|source| {
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
    })
}

fn make_balloon(config: &BalloonConfig) -> Result<Box<dyn VirtioDevice>, VmmError> {
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
    };
    Ok(Box::new(Balloon::new(Arc::new(port), options)))
}

/// Translates limits into the devices' own type.
fn rate_limit(limiter: &RateLimiter) -> RateLimiterConfig {
    let bucket = |bucket: TokenBucket| TokenBucketConfig {
        size: bucket.size,
        one_time_burst: bucket.one_time_burst.unwrap_or_default(),
        refill_time_ms: bucket.refill_time,
    };
    RateLimiterConfig { bandwidth: limiter.bandwidth.map(bucket), ops: limiter.ops.map(bucket) }
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
