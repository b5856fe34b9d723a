//! What can be said to the engine's methods, and what they answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::record::{State, Status};

/// A container that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The name, made up if none was given.
    pub name: String,
    /// What was asked for and won't be done, or is unwise.
    pub warnings: Vec<String>,
}

/// How a client is attached to a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Whether it writes to the process's standard input.
    pub stdin: bool,
    /// Whether it gets the standard output (of a terminal: all output).
    pub stdout: bool,
    /// Whether it gets the standard error.
    pub stderr: bool,
    /// The size of its terminal, in rows and columns.
    pub size: Option<(u16, u16)>,
}

/// Which containers are listed.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Those that don't run, too.
    pub all: bool,
    /// What they have to match: alternatives by Docker's names (`id`, `name`, `label`, `status`,
    /// `exited`, `ancestor`, `before`, `since`, `volume`, `network`, `publish`, `expose`,
    /// `health`).
    pub filters: BTreeMap<String, Vec<String>>,
    /// The newest ones of all only.
    pub last: Option<usize>,
}

/// A container in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What's known of it; the truth, even after a crash of its supervisor.
    pub state: State,
}

/// Which part of a container's log is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Whether to wait for more until the container ends.
    pub follow: bool,
    /// From when on.
    pub since: Option<SystemTime>,
    /// Until when.
    pub until: Option<SystemTime>,
    /// The last lines of what's there only.
    pub tail: Option<usize>,
    /// The standard output.
    pub stdout: bool,
    /// The standard error.
    pub stderr: bool,
}

/// A line of a container's log, as it was written: a long one comes in several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub time: SystemTime,
    /// Where it was written to.
    pub stream: OutputStream,
    /// The text, with its newline if it has one.
    pub text: String,
}

/// An output of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// The standard output, or a terminal's.
    Stdout,
    /// The standard error.
    Stderr,
}

/// A process to run in a container beside its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecConfig {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is connected.
    pub stdin: bool,
    /// `USER[:GROUP]`; the container's unless said.
    pub user: Option<String>,
    /// `NAME=VALUE`, over the container's.
    pub env: Vec<String>,
    /// The working directory; the container's unless said.
    pub working_dir: Option<String>,
    /// All capabilities.
    pub privileged: bool,
    /// The size of the terminal, in rows and columns.
    pub size: Option<(u16, u16)>,
    /// Nobody reads its output or waits for it.
    pub detach: bool,
}

/// How a session with a process came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The process has ended with this code: its own, or 128 and the signal's number.
    Exited(i32),
    /// The VM is gone, and the process with it: its kernel panicked, say.
    Lost {
        /// The code that stands for it: that of a process that was killed.
        code: i32,
        /// What is known of it.
        reason: String,
    },
    /// The client left by its escape sequence; the process runs on.
    Detached,
}

/// What a container uses at the moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// The container's identifier.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// When it was measured.
    pub read: Option<SystemTime>,
    /// CPU time that its processes have used, in nanoseconds.
    pub cpu_total_ns: u64,
    /// CPU time that the VM has used on the host, guest, devices and VMM together, in nanoseconds.
    pub host_cpu_ns: u64,
    /// vCPUs.
    pub cpus: u32,
    /// Memory that its processes use, page cache left out, in bytes.
    pub memory_bytes: u64,
    /// The limit of that.
    pub memory_limit_bytes: u64,
    /// Memory of the host's that the VMM has resident, in bytes.
    pub host_memory_bytes: u64,
    /// Bytes received over networks.
    pub net_rx_bytes: u64,
    /// Bytes sent over networks.
    pub net_tx_bytes: u64,
    /// Bytes read from disks.
    pub block_read_bytes: u64,
    /// Bytes written to disks.
    pub block_write_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// The processes of a container, as `top` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// Columns' titles.
    pub titles: Vec<String>,
    /// A row for each process, a field per title.
    pub rows: Vec<Vec<String>>,
}

/// A file that differs from the image's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// How.
    pub kind: ChangeKind,
    /// The path in the container.
    pub path: String,
}

/// How a file differs from the image's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It's there in both, and isn't the same.
    Modified,
    /// The image doesn't have it.
    Added,
    /// The container doesn't have it.
    Deleted,
}

/// How an image is made of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// The image's name.
    pub reference: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// What for.
    pub message: Option<String>,
    /// Dockerfile instructions that change the configuration (`CMD`, `ENTRYPOINT`, `ENV`,
    /// `EXPOSE`, `LABEL`, `USER`, `VOLUME`, `WORKDIR`, `STOPSIGNAL`).
    pub changes: Vec<String>,
    /// Whether the container goes on meanwhile; it's paused otherwise.
    pub no_pause: bool,
}

/// Something that happened, as `events` shows it: a line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineEvent {
    /// When.
    pub time: SystemTime,
    /// `container`, `volume`, `network` or `image`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What: Docker's names (`create`, `start`, `die`, `health_status: healthy`, …).
    pub action: String,
    /// The identifier of what it happened to.
    pub id: String,
    /// Further facts, as `name`, `image`, `exitCode`.
    pub attributes: BTreeMap<String, String>,
}

/// Which events are read.
#[derive(Clone, Debug, Default)]
pub struct EventOptions {
    /// From when on; only what happens from now on unless said.
    pub since: Option<SystemTime>,
    /// Until when; for ever unless said.
    pub until: Option<SystemTime>,
    /// Alternatives by Docker's names (`container`, `event`, `type`, `image`, `label`, `volume`,
    /// `network`).
    pub filters: BTreeMap<String, Vec<String>>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its directory on the host.
    pub mountpoint: PathBuf,
    /// When it was created.
    pub created: SystemTime,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it was made for a container without a name.
    #[serde(default)]
    pub anonymous: bool,
}

/// What `system df` shows of one sort of thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many there are.
    pub total: usize,
    /// How many of them are used.
    pub active: usize,
    /// How large they are, in bytes on disk.
    pub size_bytes: u64,
    /// What removing the unused ones would free, in bytes.
    pub reclaimable_bytes: u64,
}

/// What `system df` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Images.
    pub images: Usage,
    /// Containers' own files.
    pub containers: Usage,
    /// Volumes.
    pub volumes: Usage,
    /// Warm templates.
    pub templates: Usage,
}

/// What a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Identifiers or names.
    pub removed: Vec<String>,
    /// Bytes that were freed.
    pub freed_bytes: u64,
}

/// What `info` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Containers that run.
    pub running: usize,
    /// Containers that are paused.
    pub paused: usize,
    /// Containers that don't run.
    pub stopped: usize,
    /// Images.
    pub images: usize,
    /// Volumes.
    pub volumes: usize,
    /// The data root.
    pub data_root: PathBuf,
    /// The run-time root.
    pub runtime_root: PathBuf,
    /// The guest's kernel.
    pub kernel: Option<PathBuf>,
    /// The agent's initramfs.
    pub agent: Option<PathBuf>,
    /// The VMM.
    pub vmm: Option<PathBuf>,
    /// Warm templates.
    pub templates: usize,
    /// Whether it works without root.
    pub rootless: bool,
}

impl Listed {
    /// Whether its process runs, or stands still.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self.state.status, Status::Running | Status::Paused | Status::Restarting)
    }
}
