//! What the agent is told: whose VM it is, what container to make.

use agent_proto::{
    CapabilitySpec, Clock, Configuration, ContainerSpec, CpuQuota, Dns, HostEntry, Interface,
    Limits, Mount, MountSource, ProcessSpec, Rlimit, Root, Stdio, TerminalSize, Upper,
};
use network::ResolvConf;

use super::machine::{IMAGE, UPPER};
use super::place::{self, Place};
use crate::RuntimeError;
use crate::config::MountKind;
use crate::error::system;
use crate::files;
use crate::paths::SHORT_ID;
use crate::record::{ContainerRecord, MountPoint};

/// The period of a CPU quota: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// How much randomness a guest is given, in bytes.
const ENTROPY_BYTES: usize = 64;

/// The guest's host name: as asked for, else the identifier's first digits.
pub(super) fn hostname(record: &ContainerRecord) -> String {
    match record.resolved.hostname.as_str() {
        "" => record.id.get(..SHORT_ID).unwrap_or(&record.id).to_owned(),
        name => name.to_owned(),
    }
}

/// What makes the VM the container's.
pub(super) fn configuration(
    record: &ContainerRecord,
    place: &Place,
) -> Result<Configuration, RuntimeError> {
    let config = &record.config;
    let interfaces = place.interfaces();
    Ok(Configuration {
        hostname: hostname(record),
        domainname: config.domainname.clone(),
        hosts: hosts(record, place),
        dns: dns(record, &interfaces, &place::host_resolv_conf()),
        interfaces,
        clock: Some(Clock::now()),
        entropy: Some(files::random_hex(ENTROPY_BYTES).map_err(system("get random bytes"))?),
        sysctls: config.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    })
}

fn hosts(record: &ContainerRecord, place: &Place) -> Vec<HostEntry> {
    let entry = |extra: &crate::ExtraHost| {
        let address = extra.address.or_else(|| place.host_address());
        if address.is_none() {
            log::warn!("{} isn't in /etc/hosts: there's no way to the host", extra.name);
        }
        Some(HostEntry { address: address?, names: vec![extra.name.clone()] })
    };
    record.config.extra_hosts.iter().filter_map(entry).collect()
}

/// Name resolution: through this host, which knows the other containers; search domains and options
/// are the host's unless said.
fn dns(record: &ContainerRecord, interfaces: &[Interface], host: &str) -> Dns {
    let config = &record.config;
    if interfaces.is_empty() {
        return Dns::default();
    }
    let file =
        ResolvConf { servers: &[], search: &config.dns_search, options: &config.dns_options };
    let text = network::resolv_conf(&file, host);
    let words = |keyword: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(keyword)?.strip_prefix(' '));
        line.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
    };
    Dns { servers: Vec::new(), search: words("search"), options: words("options"), relay: true }
}

/// What container is to be made. `size` is that of the terminal, if it has one.
pub(super) fn container(record: &ContainerRecord, size: Option<(u16, u16)>) -> ContainerSpec {
    let config = &record.config;
    ContainerSpec {
        root: Root {
            image_serial: IMAGE.to_owned(),
            upper: Upper::Drive { serial: UPPER.to_owned() },
            read_only: config.read_only,
        },
        mounts: mounts(&record.mounts),
        shm_bytes: config.shm_size_bytes,
        limits: Limits {
            memory_bytes: config.memory_bytes,
            cpu: config.nano_cpus.and_then(quota),
            pids: config
                .pids_limit
                .and_then(|limit| u64::try_from(limit).ok())
                .filter(|it| *it > 0),
        },
        init: config.init,
        privileged: config.privileged,
        process: process(record, size),
    }
}

fn process(record: &ContainerRecord, size: Option<(u16, u16)>) -> ProcessSpec {
    let (config, resolved) = (&record.config, &record.resolved);
    let size =
        size.map_or_else(TerminalSize::default, |(rows, columns)| TerminalSize { rows, columns });
    let limit = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    ProcessSpec {
        args: resolved.entrypoint.iter().chain(&resolved.command).cloned().collect(),
        env: resolved.env.clone(),
        cwd: resolved.working_dir.clone(),
        user: resolved.user.clone(),
        groups: config.group_add.clone(),
        terminal: config.tty.then_some(size),
        stdio: Stdio { stdin: config.open_stdin, stdout: true, stderr: true },
        capabilities: Some(CapabilitySpec {
            add: if config.privileged { vec!["ALL".to_owned()] } else { config.cap_add.clone() },
            drop: config.cap_drop.clone(),
        }),
        no_new_privileges: config.security_opt.iter().any(|it| it.starts_with("no-new-privileges")),
        rlimits: config
            .ulimits
            .iter()
            .map(|it| Rlimit {
                resource: it.name.clone(),
                soft: limit(it.soft),
                hard: limit(it.hard),
            })
            .collect(),
        ..ProcessSpec::default()
    }
}

/// The quota that takes a part of a vCPU away; none for whole ones, as the VM has no more.
fn quota(nano_cpus: u64) -> Option<CpuQuota> {
    let quota_us = nano_cpus.checked_mul(CPU_PERIOD_US)? / 1_000_000_000;
    let is_whole = nano_cpus.is_multiple_of(1_000_000_000);
    (!is_whole).then_some(CpuQuota { quota_us: quota_us.max(1000), period_us: CPU_PERIOD_US })
}

/// Whether a mount is of something of the host's.
pub(super) const fn is_share(mount: &MountPoint) -> bool {
    matches!(mount.kind, MountKind::Bind | MountKind::Volume)
}

/// The mounts, what's above others first; shares by their places in [`shares`].
fn mounts(points: &[MountPoint]) -> Vec<Mount> {
    let mut index = 0;
    let mut mounts: Vec<_> = points
        .iter()
        .map(|point| {
            let source = if is_share(point) {
                index += 1;
                MountSource::Share { index: index - 1, path: None, copy_up: point.copy_up }
            } else {
                MountSource::Tmpfs {
                    size_bytes: point.tmpfs_size_bytes,
                    mode: point.tmpfs_mode,
                    options: Vec::new(),
                }
            };
            Mount { target: point.target.clone(), source, read_only: point.read_only }
        })
        .collect();
    let depth = |mount: &Mount| mount.target.split('/').filter(|part| !part.is_empty()).count();
    mounts.sort_by_key(depth);
    mounts
}

/// What's shared with the guest, in the order of its numbers.
pub(super) fn shares(points: &[MountPoint]) -> impl Iterator<Item = &MountPoint> {
    points.iter().filter(|point| is_share(point))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn point(kind: MountKind, target: &str) -> MountPoint {
        MountPoint {
            kind,
            name: None,
            anonymous: false,
            source: Some(PathBuf::from("/x")),
            target: target.to_owned(),
            read_only: false,
            copy_up: false,
            tmpfs_size_bytes: None,
            tmpfs_mode: None,
        }
    }

    #[test]
    fn parents_are_mounted_first_and_shares_keep_their_numbers() {
        let points = [
            point(MountKind::Bind, "/a/b/c"),
            point(MountKind::Tmpfs, "/a/b"),
            point(MountKind::Volume, "/a"),
        ];
        let mounts = mounts(&points);
        let targets: Vec<_> = mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/a", "/a/b", "/a/b/c"]);
        let number = |mount: &Mount| match mount.source {
            MountSource::Share { index, .. } => Some(index),
            MountSource::Tmpfs { .. } => None,
        };
        assert_eq!(mounts.iter().map(number).collect::<Vec<_>>(), [Some(1), None, Some(0)]);
        assert_eq!(shares(&points).count(), 2);
    }

    #[test]
    fn part_of_a_cpu_is_a_quota_and_whole_ones_are_vcpus() {
        assert_eq!(quota(2_000_000_000), None);
        let half = CpuQuota { quota_us: 150_000, period_us: 100_000 };
        assert_eq!(quota(1_500_000_000), Some(half));
        assert_eq!(quota(10_000_000).map(|it| it.quota_us), Some(1000));
    }
}
