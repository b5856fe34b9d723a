//! What an instance sees.

use compare_probe::results::{Facts, Text};

use super::attempts::plain;
use crate::model::Verdict::{self, Own, Refused, Shared, Unclear};
use crate::report::quantity::counted;

/// Something that's seen.
pub(super) struct Sight {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) method: &'static str,
    /// What the host has.
    pub(super) of_host: fn(&Facts) -> String,
    /// What an instance has, and what that means; given the host's, and whether its kernel is the
    /// host's.
    pub(super) of: fn(&Facts, &Facts, bool) -> (String, Verdict),
}

/// How many characters of a boot id are shown.
const SHORT: usize = 8;

pub(super) const SIGHTS: &[Sight] = &[
    Sight {
        id: "kernel-release",
        title: "kernel",
        method: "uname() inside",
        of_host: |host| host.kernel_release.to_string(),
        of: |facts, _, shares| (facts.kernel_release.to_string(), of_kernel(shares)),
    },
    Sight {
        id: "boot-id",
        title: "boot id",
        method: "/proc/sys/kernel/random/boot_id inside: a kernel chooses it as it boots",
        of_host: |host| boot_id(host),
        of: |facts, _, shares| (boot_id(facts), of_kernel(shares)),
    },
    Sight {
        id: "operating-system",
        title: "operating system",
        method: "/etc/os-release inside: different systems run side by side on one host",
        of_host: |host| text(host.os.as_ref()),
        of: |facts, _, _| (text(facts.os.as_ref()), Own),
    },
    Sight {
        id: "processes-visible",
        title: "processes visible",
        method: "/proc inside, counted",
        of_host: |host| host.processes.to_string(),
        of: |facts, host, shares| {
            let names: Vec<_> = facts.process_names.iter().take(3).map(|name| &**name).collect();
            let value = format!("{}: {}", facts.processes, names.join(", "));
            (value, of_namespace(facts, host, shares, "pid"))
        },
    },
    Sight {
        id: "modules",
        title: "kernel modules",
        method: "/proc/modules inside, counted",
        of_host: |host| number(host.modules),
        of: |facts, _, shares| match facts.modules {
            Some(count) => (count.to_string(), of_kernel(shares)),
            // A kernel without modules has no such file.
            None => ("none can be loaded".to_owned(), of_kernel(shares)),
        },
    },
    Sight {
        id: "dmesg",
        title: "kernel's log",
        method: "/dev/kmsg or the system call, inside",
        of_host: |host| log(host),
        of: |facts, _, shares| match (&facts.kernel_log.readable, &facts.kernel_log.error) {
            (true, _) => (log(facts), of_kernel(shares)),
            (false, Some(error)) => (plain(Some(error)).to_owned(), Refused),
            (false, None) => ("unreadable".to_owned(), Refused),
        },
    },
    Sight {
        id: "namespaces",
        title: "namespaces",
        method: "/proc/self/ns inside: which of the host's aren't its own",
        of_host: |host| host.namespaces.len().to_string(),
        of: namespaces,
    },
    Sight {
        id: "cgroup",
        title: "limits",
        method: "the cgroup's files inside",
        of_host: |_| "none".to_owned(),
        of: |facts, _, shares| {
            let limit = |name: &str, value: &Option<Text>| {
                let value = value.as_deref().filter(|value| *value != "max");
                value.map(|value| format!("{name} {value}"))
            };
            let limits = &facts.limits;
            let all: Vec<_> = [
                limits
                    .memory_max
                    .as_deref()
                    .and_then(|value| value.parse::<u64>().ok())
                    .map(|bytes| format!("memory {} MiB", bytes >> 20)),
                limit("pids", &limits.pids_max),
                Some(format!(
                    "sees {} MiB, {}",
                    facts.memory_total_bytes >> 20,
                    counted(facts.cpus_online, "CPU")
                )),
            ]
            .into_iter()
            .flatten()
            .collect();
            // What it sees is there always: the host's, or its machine's.
            (all.join(", "), if shares && all.len() == 1 { Shared } else { Own })
        },
    },
    Sight {
        id: "capabilities",
        title: "capabilities",
        method: "CapEff inside; what they're good for depends on whose kernel it is",
        of_host: |host| capabilities(host),
        of: |facts, _, shares| (capabilities(facts), of_kernel(shares)),
    },
    Sight {
        id: "seccomp",
        title: "system call filter",
        method: "Seccomp inside: Docker and podman bring one, runc and crun get that of the host's \
                 container tools, if it's there; a VM's kernel protects itself only",
        of_host: |host| seccomp(host),
        of: |facts, _, shares| {
            let verdict = match facts.seccomp {
                None => Unclear,
                Some(0) => of_kernel(shares),
                Some(_) => Own,
            };
            (seccomp(facts), verdict)
        },
    },
];

fn of_kernel(shares: bool) -> Verdict {
    if shares { Shared } else { Own }
}

fn of_namespace(facts: &Facts, host: &Facts, shares: bool, kind: &str) -> Verdict {
    let name = Text::from(kind);
    if shares && facts.namespaces.get(&name) == host.namespaces.get(&name) { Shared } else { Own }
}

fn namespaces(facts: &Facts, host: &Facts, shares: bool) -> (String, Verdict) {
    if !shares {
        return ("all: another kernel's".to_owned(), Own);
    }
    // A process's own, not those of its children to be.
    let kinds = host.namespaces.iter().filter(|(kind, _)| !kind.ends_with("_for_children"));
    let common: Vec<_> = kinds
        .filter(|(kind, name)| facts.namespaces.get(*kind) == Some(name))
        .map(|(kind, _)| kind.to_string())
        .collect();
    if common.is_empty() {
        ("all its own".to_owned(), Own)
    } else {
        (format!("shares {}", common.join(", ")), Shared)
    }
}

fn boot_id(facts: &Facts) -> String {
    facts.boot_id.as_ref().map_or_else(|| "-".to_owned(), |id| id.chars().take(SHORT).collect())
}

fn text(text: Option<&Text>) -> String {
    text.map_or_else(|| "not said".to_owned(), Text::to_string)
}

fn number(number: Option<u32>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn log(facts: &Facts) -> String {
    match facts.kernel_log.records {
        Some(records) => format!("{records} records"),
        None if facts.kernel_log.readable => "readable".to_owned(),
        None => "unreadable".to_owned(),
    }
}

fn capabilities(facts: &Facts) -> String {
    format!("{} of them", facts.capabilities.effective_names.len())
}

fn seccomp(facts: &Facts) -> String {
    match facts.seccomp {
        Some(0) => "none",
        Some(1) => "strict",
        Some(_) => "a filter",
        None => "unknown",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(id: &str, facts: &Facts, shares: bool) -> Verdict {
        let sight = SIGHTS.iter().find(|sight| sight.id == id).unwrap();
        (sight.of)(facts, &Facts::default(), shares).1
    }

    #[test]
    fn limit_or_a_filter_is_ones_own_and_their_absence_the_hosts() {
        let free = Facts { seccomp: Some(0), ..Facts::default() };
        let mut bound = Facts { seccomp: Some(2), ..Facts::default() };
        bound.limits.pids_max = Some("512".into());
        for id in ["cgroup", "seccomp"] {
            assert_eq!(verdict(id, &free, true), Shared, "{id}");
            assert_eq!(verdict(id, &bound, true), Own, "{id}");
            assert_eq!(verdict(id, &free, false), Own, "{id}");
        }
        assert_eq!(verdict("seccomp", &Facts::default(), true), Unclear);
    }
}
