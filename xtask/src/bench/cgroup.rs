//! Counts the CPU time of a process and all that it starts, whether still there or not: a cgroup
//! counts in microseconds, where `/proc/PID/stat` has only clock ticks.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Where cgroup v2 is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// CPU time used so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CpuTime {
    /// In user space and in guests, in microseconds.
    pub(super) user_us: u64,
    /// In the host's kernel, in microseconds.
    pub(super) system_us: u64,
}

/// A cgroup with the processes of one run. Those are killed when it's dropped.
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes an empty one.
    ///
    /// # Errors
    ///
    /// Fails without a writable cgroup v2.
    pub(super) fn create(name: &str) -> Result<Self> {
        let path = Path::new(ROOT).join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    /// Makes `command` one that runs in here from its `exec` on. The shell that moves itself here
    /// first is counted with the few system calls that it needs for `exec`.
    pub(super) fn enter(&self, command: &Command) -> Command {
        let mut entering = Command::new("sh");
        entering.args(["-c", r#"echo 0 >"$0" && exec "$@""#]).arg(self.path.join("cgroup.procs"));
        entering.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entering.env(name, value),
                None => entering.env_remove(name),
            };
        }
        entering
    }

    /// Returns the CPU time of all processes that are or were in here.
    ///
    /// # Errors
    ///
    /// Fails when the kernel's file can't be read.
    pub(super) fn cpu_time(&self) -> Result<CpuTime> {
        let text = self.read("cpu.stat")?;
        parse_cpu_stat(&text).with_context(|| format!("cpu.stat lacks times:\n{text}"))
    }

    /// Lists the processes that are in here.
    ///
    /// # Errors
    ///
    /// Fails when the kernel's file can't be read.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        let text = self.read("cgroup.procs")?;
        text.lines().map(|line| line.parse().context("cgroup.procs lists numbers")).collect()
    }

    /// Kills all processes in here and waits until they have ended.
    ///
    /// # Errors
    ///
    /// Fails when the kernel's files can't be used.
    pub(super) fn kill(&self) -> Result<()> {
        let file = self.path.join("cgroup.kill");
        fs::write(&file, "1").with_context(|| format!("cannot write {}", file.display()))?;
        self.wait_until_empty(None)
    }

    /// Waits until no process is in here or below, for as long as `patience` unless that's none.
    ///
    /// # Errors
    ///
    /// Fails when some are left then, or the kernel's files can't be used.
    pub(super) fn wait_until_empty(&self, patience: Option<Duration>) -> Result<()> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            // Opened before it's read: a change after that wakes the poll.
            let path = self.path.join("cgroup.events");
            let mut events =
                File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            let mut text = String::new();
            events.read_to_string(&mut text).context("cannot read a cgroup's events")?;
            if text.lines().any(|line| line == "populated 0") {
                return Ok(());
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.map(Timespec::try_from).transpose().context("a timeout")?;
            let ready = poll(&mut [PollFd::new(&events, PollFlags::PRI)], left.as_ref())
                .context("cannot wait for the end of a cgroup's processes")?;
            ensure!(ready != 0, "processes are left in {}", self.path.display());
        }
    }

    /// Lists the processes that are in here and below.
    ///
    /// # Errors
    ///
    /// Fails when the kernel's files can't be read.
    pub(super) fn all_processes(&self) -> Result<Vec<u32>> {
        let mut processes = self.processes()?;
        for path in below(&self.path) {
            let path = path.join("cgroup.procs");
            // One that has just been removed has no processes.
            let text = fs::read_to_string(&path).unwrap_or_default();
            processes.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        Ok(processes)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.path.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // An error here has another one before it, which says more.
        let _ = self.kill();
        for below in below(&self.path) {
            let _ = fs::remove_dir(below);
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// The cgroups below one, the deepest first.
fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&entry.path()));
            found.push(entry.path());
        }
    }
    found
}

fn parse_cpu_stat(text: &str) -> Option<CpuTime> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(CpuTime { user_us: value("user_usec ")?, system_us: value("system_usec ")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_in_cpu_stat() {
        let text = "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 0\n";
        assert_eq!(parse_cpu_stat(text), Some(CpuTime { user_us: 20, system_us: 10 }));
        assert_eq!(parse_cpu_stat("usage_usec 30\n"), None);
    }
}
