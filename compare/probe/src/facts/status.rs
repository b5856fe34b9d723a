//! What `/proc/self/status` says of rights.

use crate::files;
use crate::results::{Capabilities, Text};

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

/// Returns the names of the capabilities in a set; one that has no name yet is its number.
pub fn capability_names(set: u64) -> Vec<Text> {
    (0..u64::BITS)
        .filter(|bit| set & (1 << bit) != 0)
        .map(|bit| match NAMES.get(bit as usize) {
            Some(name) => Text::from(*name),
            None => Text::from(bit.to_string()),
        })
        .collect()
}

/// Reads the capability sets.
pub(super) fn capabilities(status: &str) -> Capabilities {
    let set = |key| files::field(status, key).map(Text::from).unwrap_or_default();
    let effective = set("CapEff");
    let bits = u64::from_str_radix(&effective, 16).unwrap_or_default();
    Capabilities {
        inheritable: set("CapInh"),
        permitted: set("CapPrm"),
        effective_names: capability_names(bits),
        effective,
        bounding: set("CapBnd"),
        ambient: set("CapAmb"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_their_names() {
        let status = "Name:\tx\nCapEff:\t0000000000000021\nCapBnd:\t000001ffffffffff\n";
        let capabilities = capabilities(status);
        assert_eq!(capabilities.effective_names, [Text::from("CHOWN"), Text::from("KILL")]);
        assert_eq!(&*capabilities.bounding, "000001ffffffffff");
        assert_eq!(&*capabilities.ambient, "");
    }

    #[test]
    fn capability_without_a_name_is_its_number() {
        assert_eq!(capability_names(1 << 63), [Text::from("63")]);
    }

    #[test]
    fn set_that_is_no_number_is_empty() {
        assert_eq!(capabilities("CapEff:\tzz\n").effective_names, []);
    }
}
