//! Counts the CPU time of a process and all that it starts, whether still there or not: a cgroup
//! counts in microseconds, where `/proc/PID/stat` has only clock ticks.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{MeterError, file};

type Result<T> = std::result::Result<T, MeterError>;

/// The kernel's list of what's mounted where.
const MOUNTS: &str = "/proc/self/mountinfo";

/// CPU time used so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// In user space and in guests, in microseconds.
    pub user_us: u64,
    /// In the host's kernel, in microseconds.
    pub system_us: u64,
}

/// A cgroup with the processes of one run. Those are killed when it's dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes an empty one.
    ///
    /// # Errors
    ///
    /// Fails without a writable cgroup v2.
    pub fn create(name: &str) -> Result<Self> {
        let mounts = Path::new(MOUNTS);
        let text = fs::read_to_string(mounts).map_err(file("read", mounts))?;
        let root = mount_point(&text).ok_or(MeterError::NoCgroups)?;
        Self::create_at(root.join(name))
    }

    /// Makes an empty one; what a killed process has left in one of this name is killed first.
    ///
    /// # Errors
    ///
    /// Fails without a writable cgroup v2.
    pub fn create_anew(name: &str) -> Result<Self> {
        match Self::create(name) {
            Err(MeterError::File { path, source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                drop(Self { path });
                Self::create(name)
            }
            result => result,
        }
    }

    /// Makes an empty one below this one.
    ///
    /// # Errors
    ///
    /// Fails when there is one.
    pub fn create_below(&self, name: &str) -> Result<Self> {
        Self::create_at(self.path.join(name))
    }

    fn create_at(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).map_err(file("create", &path))?;
        Ok(Self { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `command` one that runs in here from its `exec` on. The shell that moves itself here
    /// first is counted with the few system calls that it needs for `exec`.
    pub fn enter(&self, command: &Command) -> Command {
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
    pub fn cpu_time(&self) -> Result<CpuTime> {
        let text = self.read("cpu.stat")?;
        parse_cpu_stat(&text).ok_or_else(|| MeterError::Format { path: self.path.join("cpu.stat") })
    }

    /// Lists the processes that are in here.
    ///
    /// # Errors
    ///
    /// Fails when the kernel's file can't be read.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let text = self.read("cgroup.procs")?;
        let wrong = || MeterError::Format { path: self.path.join("cgroup.procs") };
        text.lines().map(|line| line.parse().map_err(|_| wrong())).collect()
    }

    /// Kills all processes in here and waits until they have ended.
    ///
    /// # Errors
    ///
    /// Fails when the kernel's files can't be used.
    pub fn kill(&self) -> Result<()> {
        let path = self.path.join("cgroup.kill");
        fs::write(&path, "1").map_err(file("write", &path))?;
        self.wait_until_empty(None)
    }

    /// Waits until no process is in here or below, for as long as `patience` unless that's none.
    ///
    /// # Errors
    ///
    /// Fails when some are left then, or the kernel's files can't be used.
    pub fn wait_until_empty(&self, patience: Option<Duration>) -> Result<()> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            // Opened before it's read: a change after that wakes the poll.
            let path = self.path.join("cgroup.events");
            let mut events = File::open(&path).map_err(file("open", &path))?;
            let mut text = String::new();
            events.read_to_string(&mut text).map_err(file("read", &path))?;
            if text.lines().any(|line| line == "populated 0") {
                return Ok(());
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // One of more seconds than the kernel can count is none.
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let ready = poll(&mut [PollFd::new(&events, PollFlags::PRI)], left.as_ref())
                .map_err(|errno| file("wait for", &path)(errno.into()))?;
            if ready == 0 {
                return Err(MeterError::Left { path: self.path.clone() });
            }
        }
    }

    /// Lists the processes that are in here and below.
    ///
    /// # Errors
    ///
    /// Fails when the kernel's files can't be read.
    pub fn all_processes(&self) -> Result<Vec<u32>> {
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
        fs::read_to_string(&path).map_err(file("read", &path))
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

/// Where cgroup v2 is mounted, by `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_ours = after.split(' ').next() == Some("cgroup2");
        is_ours.then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
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
    fn the_mount_is_found_also_beside_the_old_hierarchies() {
        let mounts = "24 1 0:21 / /proc rw - proc proc rw\n\
                      30 24 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
                      31 24 0:27 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu\n";
        assert_eq!(mount_point(mounts).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("24 1 0:21 / /proc rw - proc proc rw\nnonsense\n"), None);
    }

    #[test]
    fn times_are_found_in_cpu_stat() {
        let text = "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 0\n";
        assert_eq!(parse_cpu_stat(text), Some(CpuTime { user_us: 20, system_us: 10 }));
        assert_eq!(parse_cpu_stat("usage_usec 30\n"), None);
    }
}
