//! Capabilities: Docker's default set, and what's added and dropped.

use agent_proto::CapabilitySpec;
use rustix::thread::CapabilitySet;

use crate::fault::{ErrorKind, Result, fault};

/// All names, by their numbers (`linux/capability.h`).
const NAMES: [&str; 41] = [
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

/// Docker's default set.
const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Returns every capability that the kernel may have.
pub(crate) fn all() -> CapabilitySet {
    CapabilitySet::from_bits_retain((1 << NAMES.len()) - 1)
}

/// Returns the set that `spec` asks for.
///
/// Docker's order: `drop ALL` starts from nothing, `add ALL` from everything; what's named
/// otherwise is then added or dropped, and dropping wins.
pub(crate) fn resolve(spec: &CapabilitySpec) -> Result<CapabilitySet> {
    let (add_all, add) = named(&spec.add)?;
    let (drop_all, drop) = named(&spec.drop)?;
    let start = match (add_all, drop_all) {
        (true, _) => all(),
        (false, true) => CapabilitySet::empty(),
        (false, false) => DEFAULT,
    };
    Ok(if drop_all { start.union(add) } else { start.union(add).difference(drop) })
}

fn named(names: &[String]) -> Result<(bool, CapabilitySet)> {
    let (mut every, mut set) = (false, CapabilitySet::empty());
    for name in names {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if short == "ALL" {
            every = true;
        } else if let Some(number) = NAMES.iter().position(|known| *known == short) {
            set |= CapabilitySet::from_bits_retain(1 << number);
        } else {
            return fault(ErrorKind::Invalid, format!("unknown capability {name:?}"));
        }
    }
    Ok((every, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Result<CapabilitySet> {
        let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        resolve(&CapabilitySpec { add: strings(add), drop: strings(drop) })
    }

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(set(&[], &[]).unwrap().bits(), 0xa804_25fb);
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let admin = set(&["net_admin"], &["CAP_CHOWN"]).unwrap();
        assert!(admin.contains(CapabilitySet::NET_ADMIN) && !admin.contains(CapabilitySet::CHOWN));
        assert_eq!(set(&[], &["ALL"]).unwrap(), CapabilitySet::empty());
        assert_eq!(set(&["KILL"], &["all"]).unwrap(), CapabilitySet::KILL);
        let nearly_all = set(&["ALL"], &["SYS_ADMIN"]).unwrap();
        assert_eq!(nearly_all, all().difference(CapabilitySet::SYS_ADMIN));
        assert!(set(&["FLY"], &[]).is_err());
    }
}
