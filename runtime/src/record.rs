//! What's known of a container: what it is (`config.json`), and how it is (`state.json`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::{ContainerConfig, HealthConfig, MountKind, PortSpec, Protocol};

/// What a container is: written when it's created, changed by `rename` and `update` only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The name, without Docker's slash.
    pub name: String,
    /// When it was created.
    pub created: SystemTime,
    /// What was asked for, `image` as it was written.
    pub config: ContainerConfig,
    /// What became of it with the image's configuration.
    pub resolved: Resolved,
    /// Mounts, volumes by their names and paths.
    pub mounts: Vec<MountPoint>,
}

/// A container's configuration once the image's is merged in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resolved {
    /// The image's identifier: `sha256:` and 64 digits.
    pub image_id: String,
    /// The digest of the image's manifest, as the store has it.
    pub manifest_digest: String,
    /// The entry point; nothing when there's none.
    pub entrypoint: Vec<String>,
    /// What follows the entry point.
    pub command: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// `USER[:GROUP]`; empty for root.
    pub user: String,
    /// The working directory, `/` if nobody said.
    pub working_dir: String,
    /// The guest's host name.
    pub hostname: String,
    /// The image's and the container's labels.
    pub labels: BTreeMap<String, String>,
    /// Exposed ports: `PORT/PROTOCOL`.
    pub exposed: Vec<String>,
    /// Mount points of the image's volumes.
    pub volumes: Vec<String>,
    /// The signal that `stop` sends.
    pub stop_signal: i32,
    /// How health is checked; none when it isn't.
    pub health: Option<HealthConfig>,
    /// The image's platform.
    pub platform: String,
}

/// A mount of a container, as it's made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What's mounted.
    pub kind: MountKind,
    /// The volume's name.
    pub name: Option<String>,
    /// Whether the volume was made for this container, without a name.
    #[serde(default)]
    pub anonymous: bool,
    /// The host's path; none for a tmpfs.
    pub source: Option<PathBuf>,
    /// The path in the container.
    pub target: String,
    /// Whether it's read-only.
    pub read_only: bool,
    /// Whether the image's contents at `target` go to the volume when that's empty.
    #[serde(default)]
    pub copy_up: bool,
    /// The most bytes of a tmpfs.
    #[serde(default)]
    pub tmpfs_size_bytes: Option<u64>,
    /// The mode of a tmpfs's root.
    #[serde(default)]
    pub tmpfs_mode: Option<u32>,
}

/// How a container is, with what `ps` shows: the one file that listing reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where in its life it is.
    pub status: Status,
    /// What `ps` shows of it besides.
    pub summary: Summary,
    /// When its process was started last.
    #[serde(default)]
    pub started: Option<SystemTime>,
    /// When its process ended last.
    #[serde(default)]
    pub finished: Option<SystemTime>,
    /// The exit code of the process's last end.
    #[serde(default)]
    pub exit_code: i32,
    /// Whether the guest's kernel killed the process for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// Why it couldn't be started or was lost; empty if nothing was wrong.
    #[serde(default)]
    pub error: String,
    /// How often the restart policy has started it again.
    #[serde(default)]
    pub restart_count: u32,
    /// Whether somebody stopped it: `unless-stopped` leaves it so.
    #[serde(default)]
    pub stopped_by_user: bool,
    /// The process number of the supervisor, while there is one.
    #[serde(default)]
    pub supervisor_pid: Option<u32>,
    /// The VMM's process, while there is one.
    #[serde(default)]
    pub vmm: Option<crate::process::ProcessIdentity>,
    /// Health, if it's checked.
    #[serde(default)]
    pub health: Option<Health>,
    /// Addresses on networks, while it runs.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Whether the VM came out of a warm template.
    #[serde(default)]
    pub warm: bool,
}

/// What `ps` shows of a container besides its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The name.
    pub name: String,
    /// The image as it was written.
    pub image: String,
    /// The image's identifier.
    pub image_id: String,
    /// Entry point and command, as words.
    pub command: Vec<String>,
    /// When it was created.
    pub created: SystemTime,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ports that are published while it runs, and those that are only exposed.
    pub ports: Vec<PublishedPort>,
    /// Sources of mounts: volumes' names, the host's paths.
    pub mounts: Vec<String>,
    /// Networks' names.
    pub networks: Vec<String>,
}

/// A port as `ps` and `port` show it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The container's port.
    pub container_port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The host's address and port; none for a port that's only exposed.
    pub host: Option<(IpAddr, u16)>,
}

/// Where in its life a container is; Docker's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It was never started.
    Created,
    /// Its process runs.
    Running,
    /// Its VM stands still.
    Paused,
    /// Its process has ended and will be started again.
    Restarting,
    /// It's being removed.
    Removing,
    /// Its process has ended.
    Exited,
    /// It couldn't be removed whole.
    Dead,
}

/// The health of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What the checks say.
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The latest checks, five at most, oldest first.
    pub log: Vec<HealthResult>,
}

/// What health checks say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// None has succeeded yet, nor too many failed.
    #[default]
    Starting,
    /// The last one succeeded, or too few failed since.
    Healthy,
    /// Too many failed in a row.
    Unhealthy,
}

/// The outcome of one health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// 0 healthy, 1 unhealthy, -1 it took too long or couldn't be run.
    pub exit_code: i32,
    /// The first 4096 bytes of what it printed.
    pub output: String,
}

/// A container's place on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// The network's identifier.
    pub network_id: String,
    /// The Ethernet address.
    pub mac: String,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Gateways.
    pub gateways: Vec<IpAddr>,
    /// Names on this network.
    pub aliases: Vec<String>,
}

impl Status {
    /// Docker's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether a supervisor should be there.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

impl HealthStatus {
    /// Docker's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl From<PortSpec> for PublishedPort {
    fn from(port: PortSpec) -> Self {
        let host = port.host_port.map(|number| {
            (port.host_ip.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)), number)
        });
        Self { container_port: port.container_port, protocol: port.protocol, host }
    }
}

impl Summary {
    /// What `ps` shows of a container that doesn't run.
    pub(crate) fn of(record: &ContainerRecord) -> Self {
        let ContainerRecord { id, name, created, config, resolved, mounts } = record;
        let words = resolved.entrypoint.iter().chain(&resolved.command);
        let sources = mounts.iter().filter_map(|mount| {
            let source = mount.source.as_ref().map(|path| path.to_string_lossy().into_owned());
            mount.name.clone().or(source)
        });
        let networks = crate::resolve::networks(config);
        Self {
            id: id.clone(),
            name: name.clone(),
            image: config.image.clone(),
            image_id: resolved.image_id.clone(),
            command: words.cloned().collect(),
            created: *created,
            labels: resolved.labels.clone(),
            ports: ports(config, resolved),
            mounts: sources.collect(),
            networks: networks.into_iter().map(|network| network.network).collect(),
        }
    }
}

/// Published ports, then those that are exposed only.
fn ports(config: &ContainerConfig, resolved: &Resolved) -> Vec<PublishedPort> {
    let mut ports: Vec<_> = config.ports.iter().copied().map(PublishedPort::from).collect();
    for text in &resolved.exposed {
        let Ok((container_port, protocol)) = crate::check::exposed_port(text) else { continue };
        let same = |port: &PublishedPort| {
            (port.container_port, port.protocol) == (container_port, protocol)
        };
        if !ports.iter().any(same) {
            ports.push(PublishedPort { container_port, protocol, host: None });
        }
    }
    ports
}
