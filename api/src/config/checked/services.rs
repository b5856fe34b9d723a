//! Devices of which a VM has one at most, and the metadata service.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::super::{BalloonSpec, EntropySpec, MmdsSpec, MmdsVersion, RateLimiter, VsockSpec};

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
pub struct EntropyConfig {
    /// Limits of what the guest is given.
    pub rate_limiter: RateLimiter,
}

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
    /// Whether the guest can be asked which pages it has free.
    pub free_page_hinting: bool,
    /// How often the guest's memory statistics are asked for, in seconds; 0 for never.
    pub stats_polling_interval_s: u16,
}

/// The metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MmdsConfig {
    /// Whether a guest needs a token.
    pub version: MmdsVersion,
    /// The service's address, from 169.254.1.0 to 169.254.254.255.
    pub address: Ipv4Addr,
    /// The interfaces behind which it answers: each is one of the VM's, none is there twice, and
    /// there's one at least.
    pub nets: Vec<String>,
    /// Whether answers are `text/plain` whatever a request accepts.
    pub imds_compat: bool,
}

impl From<VsockConfig> for VsockSpec {
    fn from(vsock: VsockConfig) -> Self {
        Self { vsock_id: None, guest_cid: vsock.guest_cid.into(), uds_path: vsock.uds_path }
    }
}

impl From<EntropyConfig> for EntropySpec {
    fn from(entropy: EntropyConfig) -> Self {
        Self { rate_limiter: super::written(entropy.rate_limiter) }
    }
}

impl From<BalloonConfig> for BalloonSpec {
    fn from(balloon: BalloonConfig) -> Self {
        Self {
            amount_mib: balloon.amount_mib,
            deflate_on_oom: balloon.deflate_on_oom,
            stats_polling_interval_s: Some(balloon.stats_polling_interval_s),
            free_page_hinting: Some(balloon.free_page_hinting),
            free_page_reporting: Some(balloon.free_page_reporting),
        }
    }
}

impl From<MmdsConfig> for MmdsSpec {
    fn from(mmds: MmdsConfig) -> Self {
        Self {
            version: Some(mmds.version),
            network_interfaces: mmds.nets,
            ipv4_address: Some(mmds.address),
            imds_compat: Some(mmds.imds_compat),
        }
    }
}
