//! What of a configuration can be checked without the host and the image.

use std::collections::BTreeSet;

use crate::RuntimeError;
use crate::config::{ContainerConfig, MountKind, MountSpec, Protocol};
use crate::names;
use crate::signals::parse_signal;

/// The least memory that can be asked for, in bytes: Docker's.
const MIN_MEMORY_BYTES: u64 = 6 << 20;

/// The most and the least CPU time, in billionths of a CPU.
const MAX_NANO_CPUS: u64 = api::config::MAX_VCPUS as u64 * 1_000_000_000;
const MIN_NANO_CPUS: u64 = 10_000_000;

/// Docker's limit of labels and host names, in bytes, so that records stay small.
const MAX_HOSTNAME_BYTES: usize = 63;

const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const RLIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Checks a configuration.
///
/// # Errors
/// [`RuntimeError::Invalid`] with the first problem.
pub(crate) fn config(config: &ContainerConfig) -> Result<(), RuntimeError> {
    mounts(&config.mounts)?;
    words(config)?;
    limits(config)?;
    if let Some(hostname) = &config.hostname {
        check_hostname(hostname)?;
    }
    if let Some(signal) = &config.stop_signal {
        parse_signal(signal)?;
    }
    for name in config.cap_add.iter().chain(&config.cap_drop) {
        capability(name)?;
    }
    for option in &config.security_opt {
        if !matches!(
            option.as_str(),
            "no-new-privileges"
                | "no-new-privileges=true"
                | "no-new-privileges:true"
                | "seccomp=unconfined"
                | "apparmor=unconfined"
                | "label=disable"
        ) {
            return Err(RuntimeError::invalid(format!("invalid security option {option:?}")));
        }
    }
    let none = config.networks.iter().any(|network| network.network == "none");
    if none && config.networks.len() > 1 {
        return Err(RuntimeError::invalid("a container on no network can't be on another one"));
    }
    if config.auto_remove && config.restart != crate::RestartPolicy::No {
        return Err(RuntimeError::conflict(
            "conflicting options: cannot specify both --restart and --rm",
        ));
    }
    Ok(())
}

/// Refuses what no process can be given: zeros, and variables without a name.
fn words(config: &ContainerConfig) -> Result<(), RuntimeError> {
    let all = config.command.iter().chain(config.entrypoint.iter().flatten());
    for word in all.chain(&config.env).chain(&config.user).chain(&config.working_dir) {
        if word.contains('\0') {
            return Err(RuntimeError::invalid(format!("{word:?} has a zero byte in it")));
        }
    }
    match config.env.iter().find(|variable| variable.is_empty() || variable.starts_with('=')) {
        Some(variable) => {
            Err(RuntimeError::invalid(format!("invalid environment variable: {variable:?}")))
        }
        None => Ok(()),
    }
}

fn limits(config: &ContainerConfig) -> Result<(), RuntimeError> {
    if config.memory_bytes.is_some_and(|bytes| bytes < MIN_MEMORY_BYTES) {
        return Err(RuntimeError::failed(
            crate::ErrorKind::MemoryTooSmall,
            "the minimum memory limit allowed is 6MB",
        ));
    }
    let bad = |nano: u64| !(MIN_NANO_CPUS..=MAX_NANO_CPUS).contains(&nano);
    if config.nano_cpus.is_some_and(bad) {
        let max = api::config::MAX_VCPUS;
        return Err(RuntimeError::invalid(format!("range of CPUs is from 0.01 to {max}.00")));
    }
    for limit in &config.ulimits {
        if !RLIMITS.contains(&limit.name.as_str()) {
            return Err(RuntimeError::invalid(format!("invalid ulimit type: {}", limit.name)));
        }
        let above = limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard);
        if limit.soft < -1 || limit.hard < -1 || above {
            return Err(RuntimeError::invalid(format!(
                "ulimit {}: the soft limit must be at most the hard one: {} > {}",
                limit.name, limit.soft, limit.hard
            )));
        }
    }
    Ok(())
}

fn mounts(mounts: &[MountSpec]) -> Result<(), RuntimeError> {
    let mut targets = BTreeSet::new();
    for mount in mounts {
        let target = mount.target.trim_end_matches('/');
        let is_absolute = mount.target.starts_with('/') && !target.is_empty();
        if !is_absolute || mount.target.contains('\0') || has_dots(&mount.target) {
            return Err(RuntimeError::invalid(format!(
                "invalid mount path: {:?}: an absolute path is needed, and not /",
                mount.target
            )));
        }
        if !targets.insert(target) {
            return Err(RuntimeError::invalid(format!("duplicate mount point: {target}")));
        }
        match (&mount.kind, &mount.source) {
            (MountKind::Bind, None) => {
                return Err(RuntimeError::invalid(format!("the bind at {target} has no source")));
            }
            (MountKind::Bind, Some(source)) if !source.starts_with('/') => {
                return Err(RuntimeError::invalid(format!(
                    "invalid mount path: {source:?} is no absolute path"
                )));
            }
            (MountKind::Volume, Some(name)) => names::check(name, "volume")?,
            _ => {}
        }
    }
    Ok(())
}

fn has_dots(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// A host name is one label or several (RFC 1123): it's written into files of the guest's.
fn check_hostname(hostname: &str) -> Result<(), RuntimeError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let label = |label: &str| {
        (1..=MAX_HOSTNAME_BYTES).contains(&label.len())
            && label.bytes().all(good)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if hostname.len() <= MAX_HOSTNAME_BYTES && hostname.split('.').all(label) {
        return Ok(());
    }
    Err(RuntimeError::invalid(format!("invalid hostname format: {hostname}")))
}

fn capability(name: &str) -> Result<(), RuntimeError> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if short == "ALL" || CAPABILITIES.contains(&short) {
        return Ok(());
    }
    Err(RuntimeError::invalid(format!("invalid capability: {name:?}")))
}

/// Reads `PORT[/PROTOCOL]`.
pub(crate) fn exposed_port(text: &str) -> Result<(u16, Protocol), RuntimeError> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number = port.parse().ok().filter(|port| *port != 0);
    let number = number.ok_or_else(|| RuntimeError::invalid(format!("invalid port: {text:?}")))?;
    Ok((number, protocol.to_ascii_lowercase().parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NetworkAttachment, RestartPolicy, Ulimit};

    fn refused(change: impl FnOnce(&mut ContainerConfig)) -> String {
        let mut given = ContainerConfig::default();
        change(&mut given);
        config(&given).expect_err("it makes no sense").to_string()
    }

    fn volume(target: &str) -> MountSpec {
        MountSpec { target: target.to_owned(), ..MountSpec::default() }
    }

    #[test]
    fn empty_configuration_is_fine() {
        config(&ContainerConfig::default()).unwrap();
    }

    #[test]
    fn mounts_that_lead_elsewhere_or_twice_to_one_place_are_refused() {
        for target in ["", "/", "//", "data", "/a/../b", "/a\0"] {
            refused(|config| config.mounts.push(volume(target)));
        }
        refused(|config| config.mounts = vec![volume("/a"), volume("/a/")]);
        let bind = |source: Option<&str>| MountSpec {
            kind: MountKind::Bind,
            source: source.map(str::to_owned),
            ..volume("/a")
        };
        refused(|config| config.mounts.push(bind(None)));
        refused(|config| config.mounts.push(bind(Some("relative"))));
        let named = MountSpec { source: Some("../etc".to_owned()), ..volume("/a") };
        refused(|config| config.mounts.push(named));
    }

    #[test]
    fn limits_out_of_range_are_refused() {
        refused(|config| config.memory_bytes = Some((6 << 20) - 1));
        refused(|config| config.nano_cpus = Some(0));
        refused(|config| config.nano_cpus = Some(33_000_000_000));
        let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
        refused(|config| config.ulimits.push(limit("files", 1, 1)));
        refused(|config| config.ulimits.push(limit("nofile", 2, 1)));
        refused(|config| config.ulimits.push(limit("nofile", -1, 1)));
        let ulimits = vec![limit("nofile", 1024, -1), limit("core", -1, -1)];
        config(&ContainerConfig { ulimits, ..ContainerConfig::default() }).unwrap();
    }

    #[test]
    fn words_that_no_process_can_have_are_refused() {
        refused(|config| config.command.push("a\0b".to_owned()));
        refused(|config| config.env.push("=x".to_owned()));
        refused(|config| config.env.push(String::new()));
        for hostname in ["", "-a", "a b", "a\nb", "a..b", &"a".repeat(64)] {
            refused(|config| config.hostname = Some(hostname.to_owned()));
        }
        refused(|config| config.cap_add.push("NET".to_owned()));
        refused(|config| config.stop_signal = Some("SIGNOTHING".to_owned()));
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        refused(|config| {
            config.auto_remove = true;
            config.restart = RestartPolicy::Always;
        });
        let network = |name: &str| NetworkAttachment {
            network: name.to_owned(),
            ..NetworkAttachment::default()
        };
        refused(|config| config.networks = vec![network("none"), network("bridge")]);
    }

    #[test]
    fn exposed_ports_have_a_number_and_a_protocol() {
        assert_eq!(exposed_port("80").unwrap(), (80, Protocol::Tcp));
        assert_eq!(exposed_port("53/UDP").unwrap(), (53, Protocol::Udp));
        for text in ["", "0", "65536", "80/icmp", "a", "80/", "-1"] {
            exposed_port(text).unwrap_err();
        }
    }
}
