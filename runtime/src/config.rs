//! What a container is asked to be: Docker's `run` flags, as values.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::RuntimeError;

/// What a container is asked to be. What isn't said comes from the image, then from defaults, when
/// the container is created.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// The image, as a reference or an identifier.
    pub image: String,
    /// The command, in place of the image's; empty to keep that.
    pub command: Vec<String>,
    /// The entry point, in place of the image's, whose command is then dropped too. Empty for none.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=VALUE`, over the image's. A `NAME` alone removes the image's variable.
    pub env: Vec<String>,
    /// `USER[:GROUP]`, names of the image's or numbers.
    pub user: Option<String>,
    /// The working directory, absolute; it's made if it's missing.
    pub working_dir: Option<String>,
    /// The guest's host name; the identifier's first twelve digits unless said.
    pub hostname: Option<String>,
    /// The guest's domain name.
    pub domainname: Option<String>,
    /// The container's name; made up unless said.
    pub name: Option<String>,
    /// Labels, over the image's.
    pub labels: BTreeMap<String, String>,
    /// Annotations, which are only kept.
    pub annotations: BTreeMap<String, String>,
    /// Whether the process has a terminal.
    pub tty: bool,
    /// Whether the process has a standard input that clients write to.
    pub open_stdin: bool,
    /// Whether the end of the first client's input is the end of the process's.
    pub stdin_once: bool,
    /// Binds, volumes and tmpfs, beside the image's volumes.
    pub mounts: Vec<MountSpec>,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Published ports.
    pub ports: Vec<PortSpec>,
    /// Ports that are exposed beside the image's: `PORT/PROTOCOL`.
    pub expose: Vec<String>,
    /// Whether every exposed port is published at a port that's free.
    pub publish_all: bool,
    /// Networks; the default one when it's empty.
    pub networks: Vec<NetworkAttachment>,
    /// Name servers that queries for other names than containers' are sent to; the host's unless
    /// said.
    pub dns: Vec<IpAddr>,
    /// Search domains; the host's unless said.
    pub dns_search: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Lines of `/etc/hosts`: a name and an address, or `host-gateway`.
    pub extra_hosts: Vec<ExtraHost>,
    /// What happens after the process's end.
    pub restart: RestartPolicy,
    /// The signal that `stop` sends, by name or number; the image's, then `SIGTERM`, unless said.
    pub stop_signal: Option<String>,
    /// How long `stop` waits until it kills, in seconds; 10 unless said, negative for ever.
    pub stop_timeout_s: Option<i32>,
    /// Limits of processes (`setrlimit(2)`).
    pub ulimits: Vec<Ulimit>,
    /// How health is checked, over the image's.
    pub health: Option<HealthConfig>,
    /// Whether a small init runs as the container's first process. The agent forwards signals and
    /// reaps orphans either way: with this the process isn't PID 1 of its namespace.
    pub init: bool,
    /// Capabilities on top of Docker's defaults, without or with `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities taken from Docker's defaults.
    pub cap_drop: Vec<String>,
    /// Whether it has all capabilities and nothing masked.
    pub privileged: bool,
    /// Options such as `no-new-privileges`.
    pub security_opt: Vec<String>,
    /// Kernel parameters of the guest, which are the container's own.
    pub sysctls: BTreeMap<String, String>,
    /// Supplementary groups.
    pub group_add: Vec<String>,
    /// CPU time, in billionths of a CPU per second; one CPU unless said. The VM has as many vCPUs as
    /// it takes.
    pub nano_cpus: Option<u64>,
    /// Memory, in bytes; 512 MiB of a VM unless said.
    pub memory_bytes: Option<u64>,
    /// The most processes and threads; unlimited unless said.
    pub pids_limit: Option<i64>,
    /// The size of `/dev/shm`, in bytes; 64 MiB unless said.
    pub shm_size_bytes: Option<u64>,
    /// The guest's kernel; the one that comes with `vmctl` unless said.
    pub kernel: Option<PathBuf>,
    /// `OS/ARCHITECTURE[/VARIANT]`; the host's unless said.
    pub platform: Option<String>,
    /// Whether the container is removed when its process has ended.
    pub auto_remove: bool,
    /// Whether what the process has changed is kept as a layer of an image when it has ended without
    /// a failure: see [`Engine::kept_changes`](crate::Engine::kept_changes). The writable disk itself
    /// isn't fit for another start then.
    pub keep_changes: bool,
    /// How the container's output is kept.
    pub log: LogConfig,
    /// Whether a warm template may be used and made; a cold boot otherwise.
    pub no_template: bool,
}

/// A mount of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountSpec {
    /// What's mounted.
    pub kind: MountKind,
    /// The host's path of a bind, the name of a volume (none for an anonymous one).
    pub source: Option<String>,
    /// Where, absolute.
    pub target: String,
    /// Whether it's read-only.
    pub read_only: bool,
    /// Whether a bind's missing source is made as a directory (`-v`), not refused (`--mount`).
    pub create_source: bool,
    /// Whether a new volume stays empty, rather than getting what the image has at `target`.
    pub no_copy: bool,
    /// The most bytes of a tmpfs; half of the guest's memory unless said.
    pub tmpfs_size_bytes: Option<u64>,
    /// The mode of a tmpfs's root directory; 1777 (octal) unless said.
    pub tmpfs_mode: Option<u32>,
    /// Labels of a volume that's made for this.
    pub labels: BTreeMap<String, String>,
}

/// What a mount is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A directory or file of the host's.
    Bind,
    /// A volume.
    #[default]
    Volume,
    /// Memory of the guest's.
    Tmpfs,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortSpec {
    /// The container's port.
    pub container_port: u16,
    /// Its protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The host's address; every one unless said.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    /// The host's port; one that's free unless said.
    #[serde(default)]
    pub host_port: Option<u16>,
}

/// The protocol of a port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A network that a container is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkAttachment {
    /// The network's name or identifier; `none` for no network at all.
    pub network: String,
    /// Names of the container on this network, beside its own.
    pub aliases: Vec<String>,
    /// A fixed IPv4 address.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// A fixed IPv6 address.
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// A fixed Ethernet address.
    pub mac: Option<String>,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// The address; none stands for `host-gateway`, the host as the container's network sees it.
    pub address: Option<IpAddr>,
}

/// What happens after the end of a container's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It's started again unless its exit code is 0.
    OnFailure {
        /// How often at most; for ever if it's 0.
        max_retries: u32,
    },
    /// It's started again.
    Always,
    /// As [`Always`](Self::Always), but one that was stopped stays so after the host's restart.
    UnlessStopped,
}

/// A limit of processes (`setrlimit(2)`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// The resource, as `nofile`.
    pub name: String,
    /// What processes get; `-1` for no limit.
    pub soft: i64,
    /// What they may raise it to; `-1` for no limit.
    pub hard: i64,
}

/// How health is checked. What's absent comes from the image, then from defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthConfig {
    /// As Docker has it: `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", COMMAND]`.
    pub test: Option<Vec<String>>,
    /// Time between checks, in nanoseconds; 30 s unless said.
    pub interval_ns: Option<u64>,
    /// How long a check may take, in nanoseconds; 30 s unless said.
    pub timeout_ns: Option<u64>,
    /// How long after the start failures don't count, in nanoseconds; 0 unless said.
    pub start_period_ns: Option<u64>,
    /// Time between checks in that period, in nanoseconds; 5 s unless said.
    pub start_interval_ns: Option<u64>,
    /// Consecutive failures that make it unhealthy; 3 unless said.
    pub retries: Option<u32>,
}

/// How a container's output is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Where to.
    pub driver: LogDriver,
    /// The size at which the file is put aside and a new one begun, in bytes; never unless said.
    pub max_size_bytes: Option<u64>,
    /// How many files there are at most, the current one included; 1 unless said.
    pub max_files: Option<u32>,
}

/// Where a container's output is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// A file of JSON lines, as Docker's.
    #[default]
    JsonFile,
    /// Nowhere.
    None,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = RuntimeError;

    fn from_str(text: &str) -> Result<Self, RuntimeError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(RuntimeError::invalid(format!("invalid protocol {text:?}: tcp or udp"))),
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { max_retries: 0 } => f.write_str("on-failure"),
            Self::OnFailure { max_retries } => write!(f, "on-failure:{max_retries}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = RuntimeError;

    fn from_str(text: &str) -> Result<Self, RuntimeError> {
        let invalid = || {
            RuntimeError::invalid(format!(
                "invalid restart policy {text:?}: no, on-failure[:RETRIES], always or unless-stopped"
            ))
        };
        match text {
            "" | "no" => Ok(Self::No),
            "on-failure" => Ok(Self::OnFailure { max_retries: 0 }),
            "always" => Ok(Self::Always),
            "unless-stopped" => Ok(Self::UnlessStopped),
            _ => {
                let retries = text.strip_prefix("on-failure:").ok_or_else(invalid)?;
                let max_retries = retries.parse().map_err(|_| invalid())?;
                Ok(Self::OnFailure { max_retries })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_read_back_as_they_are_written() {
        for text in ["no", "on-failure", "on-failure:3", "always", "unless-stopped"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        for text in ["never", "on-failure:", "on-failure:-1", "on-failure:x", "Always"] {
            text.parse::<RestartPolicy>().unwrap_err();
        }
    }

    #[test]
    fn config_with_nothing_said_reads_from_an_empty_object() {
        let config: ContainerConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(config, ContainerConfig::default());
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ContainerConfig>(&text).unwrap(), config);
    }
}
