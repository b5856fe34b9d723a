//! The container's cgroup (version 2): limits, use, the end of memory.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_proto::Limits;

use crate::fault::{Context, ErrorKind, Result};
use crate::paths::CGROUP;

/// How long processes have to stand still: one that waits for a disk does when that has answered.
const FREEZE_PATIENCE: Duration = Duration::from_secs(10);

/// Lets cgroups below the root one have the controllers that we use.
pub(crate) fn delegate() -> io::Result<()> {
    for controller in ["cpu", "memory", "pids", "io"] {
        // A kernel without one has no such limit, which shows when it's set.
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
    }
    Ok(())
}

/// Makes the container's cgroup with its limits.
pub(crate) fn create(limits: &Limits) -> Result<()> {
    fs::create_dir_all(CGROUP).internal("cannot make the container's cgroup")?;
    for (file, value) in settings(limits) {
        let what = || format!("cannot set the container's {file} to {value}");
        fs::write(Path::new(CGROUP).join(file), &value).context(ErrorKind::Invalid, what)?;
    }
    Ok(())
}

fn settings(limits: &Limits) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        settings.push(("memory.max", bytes.to_string()));
    }
    if let Some(cpu) = limits.cpu {
        settings.push(("cpu.max", format!("{} {}", cpu.quota_us, cpu.period_us)));
    }
    if let Some(pids) = limits.pids {
        settings.push(("pids.max", pids.to_string()));
    }
    settings
}

/// Puts the calling process, single-threaded, into the container's cgroup.
pub(crate) fn join() -> Result<()> {
    fs::write(Path::new(CGROUP).join("cgroup.procs"), "0")
        .internal("cannot join the container's cgroup")
}

/// Kills every process of the container at once.
pub(crate) fn kill_all() -> io::Result<()> {
    fs::write(Path::new(CGROUP).join("cgroup.kill"), "1")
}

/// The container's processes stand still until this is dropped.
#[derive(Debug)]
pub(crate) struct Frozen(());

/// Makes the container's processes stand still, and waits until they do.
pub(crate) fn freeze() -> Result<Frozen> {
    let frozen = Frozen(());
    set_frozen(true)
        .and_then(|()| wait_for("frozen", FREEZE_PATIENCE))
        .internal("cannot make the container's processes stand still")?;
    Ok(frozen)
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It fails when there's no container any more.
        let _ = set_frozen(false);
    }
}

fn set_frozen(is_frozen: bool) -> io::Result<()> {
    fs::write(Path::new(CGROUP).join("cgroup.freeze"), if is_frozen { "1" } else { "0" })
}

/// Waits until a key of `cgroup.events` is 1.
fn wait_for(key: &str, patience: Duration) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = Instant::now() + patience;
    let file = fs::File::open(Path::new(CGROUP).join("cgroup.events"))?;
    loop {
        let mut text = String::new();
        io::Read::read_to_string(&mut &file, &mut text)?;
        io::Seek::rewind(&mut &file)?;
        if value(&text, key) == Some(1) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A signal or a change: look again.
        let timeout = Timespec::try_from(left).ok();
        let _ = poll(&mut [PollFd::new(&file, PollFlags::PRI)], timeout.as_ref());
    }
}

/// Lists the container's processes, by their numbers outside of it.
pub(crate) fn processes() -> Vec<i32> {
    let list = fs::read_to_string(Path::new(CGROUP).join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Returns how many processes the kernel killed for lack of memory.
pub(crate) fn memory_kills() -> u64 {
    let events = fs::read_to_string(Path::new(CGROUP).join("memory.events")).unwrap_or_default();
    value(&events, "oom_kill").unwrap_or(0)
}

/// Reads the value of a key in a file of `KEY VALUE` lines.
pub(crate) fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Calls `report` with the number of kills each time it has changed, for as long as the cgroup is
/// there.
pub(crate) fn watch_memory(mut report: impl FnMut(u64)) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let file = fs::File::open(Path::new(CGROUP).join("memory.events"))?;
    let mut reported = 0;
    loop {
        let mut text = String::new();
        io::Read::read_to_string(&mut &file, &mut text)?;
        io::Seek::rewind(&mut &file)?;
        let kills = value(&text, "oom_kill").unwrap_or(0);
        if kills > reported {
            reported = kills;
            report(kills);
        }
        // The kernel tells of a change by POLLPRI, after the file was read.
        poll(&mut [PollFd::new(&file, PollFlags::PRI)], None)?;
    }
}

/// Waits until the container has no processes. Returns false when it still has some at `deadline`;
/// none is for ever.
pub(crate) fn wait_until_empty(deadline: Option<Instant>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    // No cgroup: no container.
    let Ok(file) = fs::File::open(Path::new(CGROUP).join("cgroup.events")) else { return true };
    loop {
        let mut text = String::new();
        let read = io::Read::read_to_string(&mut &file, &mut text);
        if read.is_err() || io::Seek::rewind(&mut &file).is_err() {
            return true;
        }
        if value(&text, "populated") != Some(1) {
            return true;
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        // A signal or a change: look again.
        let _ = poll(&mut [PollFd::new(&file, PollFlags::PRI)], timeout.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_proto::CpuQuota;

    #[test]
    fn limits_become_settings() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            cpu: Some(CpuQuota { quota_us: 50_000, period_us: 100_000 }),
            pids: Some(7),
        };
        let expected = [("memory.max", "1048576"), ("cpu.max", "50000 100000"), ("pids.max", "7")];
        assert_eq!(settings(&limits), expected.map(|(file, value)| (file, value.to_owned())));
        assert!(settings(&Limits::default()).is_empty());
    }

    #[test]
    fn a_key_is_not_another_keys_beginning() {
        let text = "oom 1\noom_kill 2\noom_group_kill 3\n";
        assert_eq!((value(text, "oom_kill"), value(text, "oom")), (Some(2), Some(1)));
        assert_eq!(value(text, "oo"), None);
    }
}
