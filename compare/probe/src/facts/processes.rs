//! Processes that can be seen.

use std::collections::BTreeSet;
use std::fs;

use crate::files;
use crate::results::Text;

/// A process that can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number, as it's seen here.
    pub(crate) pid: u32,
    /// Its name.
    pub(crate) name: Text,
}

/// Returns the numbers in `/proc`, in order.
pub(super) fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// Returns the first few processes' names.
pub(super) fn names(pids: &[u32], most: usize) -> Vec<Text> {
    pids.iter().filter_map(|pid| name(*pid)).take(most).collect()
}

fn name(pid: u32) -> Option<Text> {
    files::read(format!("/proc/{pid}/comm")).ok().map(|text| Text::from(text.trim_end()))
}

/// Returns the processes that aren't of this instance: neither this one nor its ancestors, nor any
/// in the same control group, as all of a container's are. Kernel threads, which have no memory of
/// their own, are left out.
pub(crate) fn others() -> Vec<Process> {
    let group = |pid: &str| files::read(format!("/proc/{pid}/cgroup")).ok();
    let own = group("self");
    let kin = ancestors();
    let is_other = |pid: &u32| {
        let same_group = own.is_some() && group(&pid.to_string()) == own;
        !kin.contains(pid) && !same_group && has_program(*pid)
    };
    let process = |pid| Some(Process { pid, name: name(pid)? });
    all().into_iter().filter(is_other).filter_map(process).collect()
}

/// Whether a process has memory of its own. The link tells, but may not be readable.
fn has_program(pid: u32) -> bool {
    let text = files::read(format!("/proc/{pid}/status")).unwrap_or_default();
    files::field(&text, "VmSize").is_some()
}

/// This process, its parent, and so on.
fn ancestors() -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut next = Some(std::process::id());
    while let Some(pid) = next.filter(|pid| *pid != 0 && found.insert(*pid)) {
        let text = files::read(format!("/proc/{pid}/status")).unwrap_or_default();
        next = files::field(&text, "PPid").and_then(|parent| parent.parse().ok());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_but_is_no_other() {
        let own = std::process::id();
        assert!(all().contains(&own));
        assert!(others().iter().all(|process| process.pid != own));
    }

    #[test]
    fn ancestors_are_this_process_and_its_parent() {
        let ancestors = ancestors();
        assert!(ancestors.contains(&std::process::id()), "{ancestors:?}");
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        let parent = parent.and_then(|pid| u32::try_from(pid).ok());
        assert!(parent.is_none_or(|parent| ancestors.contains(&parent)), "{ancestors:?}");
    }
}
