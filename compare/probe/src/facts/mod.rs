//! What an instance sees of the kernel that it runs on, and what it's let do.

mod kernel_log;
mod mounts;
mod processes;
mod status;

use std::collections::BTreeMap;
use std::fs;

pub(crate) use kernel_log::kernel_log;
pub(crate) use processes::{Process, others};
pub use status::capability_names;

use crate::results::{BlockDevice, CgroupLimits, Facts, Text};
use crate::{ProbeError, files};

/// The most names of processes that are told.
const MAX_PROCESS_NAMES: usize = 8;

/// Looks around.
///
/// # Errors
///
/// There's no `/proc`.
pub fn facts() -> Result<Facts, ProbeError> {
    let proc = |path: &str| files::read(format!("/proc/{path}"));
    let status = proc("self/status").map_err(ProbeError::system("read /proc/self/status"))?;
    let uname = rustix::system::uname();
    let processes = processes::all();
    let cgroup = proc("self/cgroup").ok();
    let mounts = mounts::parse(&proc("self/mountinfo").unwrap_or_default());
    Ok(Facts {
        kernel_release: Text::from_bytes(uname.release().to_bytes()),
        kernel_version: Text::from_bytes(uname.version().to_bytes()),
        architecture: Text::from_bytes(uname.machine().to_bytes()),
        boot_id: trimmed("/proc/sys/kernel/random/boot_id"),
        hostname: Text::from_bytes(uname.nodename().to_bytes()),
        os: os_name(),
        processes: u32::try_from(processes.len()).unwrap_or(u32::MAX),
        process_names: processes::names(&processes, MAX_PROCESS_NAMES),
        modules: proc("modules").ok().map(|text| count(text.lines())),
        kernel_log: kernel_log(),
        namespaces: namespaces(),
        limits: cgroup.as_deref().map(limits).unwrap_or_default(),
        cgroup: cgroup.map(|text| Text::from(text.trim())),
        capabilities: status::capabilities(&status),
        seccomp: files::field(&status, "Seccomp").and_then(|mode| mode.parse().ok()),
        no_new_privileges: files::field(&status, "NoNewPrivs").map(|value| value != "0"),
        user: rustix::process::geteuid().as_raw(),
        user_map: trimmed("/proc/self/uid_map"),
        cpus_online: cpus_online(&proc("stat").unwrap_or_default()),
        memory_total_bytes: proc("meminfo")
            .ok()
            .and_then(|text| files::kilobytes(&text, "MemTotal"))
            .unwrap_or_default(),
        uptime_seconds: uptime(&proc("uptime").unwrap_or_default()),
        root: mounts.iter().rev().find(|mount| &*mount.target == "/").cloned(),
        mounts,
        block_devices: block_devices(),
        interfaces: interfaces(&proc("net/dev").unwrap_or_default()),
    })
}

fn trimmed(path: &str) -> Option<Text> {
    files::read(path).ok().map(|text| Text::from(text.trim()))
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

/// The image's `PRETTY_NAME` (`os-release(5)`).
fn os_name() -> Option<Text> {
    let text =
        files::read("/etc/os-release").or_else(|_| files::read("/usr/lib/os-release")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    Some(Text::from(value.trim_matches(['"', '\''])))
}

fn namespaces() -> BTreeMap<Text, Text> {
    let entries = fs::read_dir("/proc/self/ns").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let name = entry.file_name();
            Some((Text::from(&*name.to_string_lossy()), Text::from(&*target.to_string_lossy())))
        })
        .collect()
}

/// The limits of the control group that `/proc/self/cgroup` names, or, in a namespace that shows
/// it under another name, those at the top of what is seen.
fn limits(cgroup: &str) -> CgroupLimits {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let limit = |file: &str| {
        let at = |group: &str| trimmed(&format!("/sys/fs/cgroup{group}/{file}"));
        at(own.trim_end_matches('/')).or_else(|| at(""))
    };
    CgroupLimits {
        memory_max: limit("memory.max"),
        cpu_max: limit("cpu.max"),
        pids_max: limit("pids.max"),
    }
}

/// Counts the lines of `/proc/stat` that are processors': it has those that are online.
fn cpus_online(stat: &str) -> u32 {
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    count(stat.lines().filter(is_cpu))
}

fn uptime(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default()
}

fn block_devices() -> Option<Vec<BlockDevice>> {
    let entries = fs::read_dir("/sys/block").ok()?;
    let mut devices: Vec<_> = entries
        .flatten()
        .map(|entry| {
            // In sectors of 512 bytes, whatever the device's are.
            let sectors = files::read(entry.path().join("size")).ok();
            let sectors: u64 =
                sectors.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
            let name = Text::from(&*entry.file_name().to_string_lossy());
            BlockDevice { name, bytes: sectors.saturating_mul(512) }
        })
        .collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    Some(devices)
}

/// The names in `/proc/net/dev`, whose first two lines are a table's head.
fn interfaces(text: &str) -> Vec<Text> {
    let name = |line: &str| Some(Text::from(line.split_once(':')?.0.trim()));
    text.lines().skip(2).filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processors_of_their_own_are_counted() {
        assert_eq!(cpus_online("cpu  1 2\ncpu0 1 2\ncpu3 1 2\ncpuidle\nintr 1\n"), 2);
        assert_eq!(cpus_online(""), 0);
    }

    #[test]
    fn interfaces_are_the_names_below_the_head() {
        let text = "Inter-| Receive\n face |bytes\n    lo: 1 2\n  eth0:3 4\nnonsense\n";
        assert_eq!(interfaces(text), [Text::from("lo"), Text::from("eth0")]);
        assert_eq!(interfaces("one line"), []);
    }

    #[test]
    fn uptime_that_is_no_number_is_none() {
        assert!((uptime("12.5 3.0\n") - 12.5).abs() < f64::EPSILON);
        assert!(uptime("soon").abs() < f64::EPSILON);
    }

    #[test]
    fn facts_of_this_machine_are_those_of_its_kernel() {
        let facts = facts().unwrap();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(&*facts.kernel_release, release.trim());
        assert!(facts.namespaces.contains_key(&Text::from("pid")), "{facts:?}");
        assert!(facts.processes >= 1 && facts.cpus_online >= 1, "{facts:?}");
        assert!(facts.memory_total_bytes > 0 && facts.root.is_some(), "{facts:?}");
        assert_eq!(facts.capabilities.effective.len(), 16, "{facts:?}");
    }
}
