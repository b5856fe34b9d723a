//! What the agent tells of processes, files and use.

use serde::{Deserialize, Serialize};

use crate::ProtocolError;
use crate::limits::{self, MAX_COMMAND_BYTES, MAX_NAME_BYTES};

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitStatus {
    /// The exit code, 0 to 255; 128 and the signal's number after a signal.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed something of the container since its start, for lack of memory.
    pub out_of_memory: bool,
}

impl ExitStatus {
    pub(crate) fn checked(self) -> Result<Self, ProtocolError> {
        let signal_fits = self.signal.is_none_or(|signal| (1..=64).contains(&signal));
        if (0..=255).contains(&self.code) && signal_fits {
            return Ok(self);
        }
        Err(ProtocolError::Violation(format!("an impossible exit status: {self:?}")))
    }
}

/// A process in the container, as `ps -ef` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessInfo {
    /// The user's name in the image, or its number.
    pub user: String,
    /// The process's number, in the container.
    pub pid: u32,
    /// Its parent's number, in the container; 0 for the first one.
    pub parent: u32,
    /// CPU use since its start, in percent.
    pub cpu_percent: u32,
    /// When it was started, in seconds since the Unix epoch.
    pub started_at_s: u64,
    /// Its terminal: `pts/0`, or `?`.
    pub terminal: String,
    /// CPU time that it used, in milliseconds.
    pub cpu_time_ms: u64,
    /// Its command line; in brackets if it has none.
    pub command: String,
}

impl ProcessInfo {
    pub(crate) fn clean(&mut self) {
        self.user = limits::clean(&self.user, MAX_NAME_BYTES);
        self.terminal = limits::clean(&self.terminal, MAX_NAME_BYTES);
        self.command = limits::clean(&self.command, MAX_COMMAND_BYTES);
    }
}

/// What a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// CPU time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// Network interfaces, without the loopback.
    pub networks: Vec<NetworkStats>,
    /// Drives, all together.
    pub block: BlockStats,
}

/// CPU time that was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    /// In all, in microseconds.
    pub total_us: u64,
    /// In user mode, in microseconds.
    pub user_us: u64,
    /// In the kernel, in microseconds.
    pub system_us: u64,
    /// Periods in which the quota ran out.
    pub throttled_periods: u64,
    /// CPUs that are online in the guest.
    pub online: u32,
    /// The guest's time since its boot, in microseconds.
    pub uptime_us: u64,
}

/// Memory that is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// Bytes in use, page cache included.
    pub current_bytes: u64,
    /// Of these, page cache that isn't in active use (which Docker's figure leaves out).
    pub inactive_file_bytes: u64,
    /// The limit: the cgroup's, or else the guest's memory.
    pub limit_bytes: u64,
    /// Kills for lack of memory.
    pub kills: u64,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be.
    pub limit: Option<u64>,
}

/// An interface's traffic since it came up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStats {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
}

/// Drives' traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockStats {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// What is at a path in the container. The path's own last symbolic link isn't followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathStat {
    /// The last part of the path.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
    /// The mode, as `st_mode`.
    pub mode: u32,
    /// When it was modified, in seconds since the Unix epoch.
    pub modified_at_s: i64,
    /// Where it points, if it's a symbolic link.
    pub link_target: String,
}

impl PathStat {
    /// Tells whether it's a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Tells whether it's a symbolic link.
    #[must_use]
    pub fn is_symbolic_link(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }
}

/// A difference between the container's root file system and its image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// The absolute path; bytes that aren't UTF-8 are replaced.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was there, and is different now; or something below it is.
    Modified,
    /// It's new.
    Added,
    /// It's gone.
    Deleted,
}

/// A change that someone made to a shared file on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// The share's top-level entry.
    pub share: u32,
    /// The path below it; empty for the entry itself.
    pub path: String,
    /// What happened.
    pub kind: FileChangeKind,
}

/// What happened to a shared file on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChangeKind {
    /// It was made, or moved here.
    Created,
    /// Its content changed.
    Modified,
    /// Its mode, owner or times changed.
    Attributes,
    /// It was removed, or moved away.
    Deleted,
}
