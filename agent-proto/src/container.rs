//! What a container is made of: its root, its mounts, its limits, its processes.

use serde::{Deserialize, Serialize};

/// A container, as [`crate::Request::Create`] asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The root file system.
    pub root: Root,
    /// Mounts, in their order.
    pub mounts: Vec<Mount>,
    /// The size of `/dev/shm`, in bytes; 64 MiB unless said.
    pub shm_bytes: Option<u64>,
    /// Limits of all processes together.
    pub limits: Limits,
    /// Whether a small init is the first process, which starts the container's, forwards signals to
    /// it and reaps orphans.
    pub init: bool,
    /// Whether the container has all capabilities and nothing masked or read-only.
    pub privileged: bool,
    /// The main process.
    pub process: ProcessSpec,
}

/// A root file system: an EROFS drive below, something writable above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// The serial of the drive with the image.
    pub image_serial: String,
    /// Where changes go.
    pub upper: Upper,
    /// Whether the container sees it read-only.
    pub read_only: bool,
}

impl Default for Root {
    fn default() -> Self {
        Self { image_serial: "image".into(), upper: Upper::default(), read_only: false }
    }
}

/// Where changes of the root file system go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upper {
    /// An ext4 drive, by its serial.
    Drive {
        /// The drive's serial.
        serial: String,
    },
    /// Memory.
    Tmpfs {
        /// Its size, in bytes; half of the guest's memory unless said.
        #[serde(default)]
        size_bytes: Option<u64>,
    },
}

impl Default for Upper {
    fn default() -> Self {
        Self::Drive { serial: "upper".into() }
    }
}

/// A mount in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where: an absolute path in the container, made if it's missing. Symbolic links in it are
    /// followed within the container's root.
    pub target: String,
    /// What.
    pub source: MountSource,
    /// Whether it's read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A directory or a file of the virtio-fs device [`crate::SHARES_TAG`].
    Share {
        /// The top-level entry's name, a number.
        index: u32,
        /// A path below it, if not the entry itself. It can't lead out of it.
        #[serde(default)]
        path: Option<String>,
        /// Whether what the image has at the target is copied there first, if it's an empty
        /// directory (named volumes).
        #[serde(default)]
        copy_up: bool,
    },
    /// Memory.
    Tmpfs {
        /// Its size, in bytes; half of the guest's memory unless said.
        #[serde(default)]
        size_bytes: Option<u64>,
        /// The mode of its root directory; 1777 (octal) unless said.
        #[serde(default)]
        mode: Option<u32>,
        /// `noexec`, `exec`, `suid`, `dev`, …, over Docker's defaults (`nosuid,nodev,noexec`).
        #[serde(default)]
        options: Vec<String>,
    },
}

/// Limits of all of a container's processes together, by the guest's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory, in bytes. The VM's own size is the outer bound.
    pub memory_bytes: Option<u64>,
    /// CPU time.
    pub cpu: Option<CpuQuota>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// CPU time that may be used: `quota_us` in each `period_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuQuota {
    /// Microseconds of CPU time.
    pub quota_us: u64,
    /// Microseconds of the period.
    pub period_us: u64,
}

/// A process.
///
/// For [`crate::Request::Exec`] what is left empty comes from the container's main process: the
/// user, the working directory, the capabilities; `env` is set over the main process's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessSpec {
    /// The command and its arguments; the command is looked up in the environment's `PATH` if it
    /// has no slash.
    pub args: Vec<String>,
    /// `NAME=VALUE`. `PATH`, `HOME`, `HOSTNAME` and (with a terminal) `TERM` have defaults.
    pub env: Vec<String>,
    /// The working directory, made if it's missing; `/` unless said.
    pub cwd: String,
    /// `USER[:GROUP]`, names of the image's or numbers; root unless said.
    pub user: String,
    /// Supplementary groups beside those of `/etc/group`, names or numbers.
    pub groups: Vec<String>,
    /// Its terminal, if it has one.
    pub terminal: Option<TerminalSize>,
    /// Which of its streams the host connects to before the start.
    pub stdio: Stdio,
    /// Capabilities; Docker's default ones (or the container's, for an exec) unless said.
    pub capabilities: Option<CapabilitySpec>,
    /// Whether it and its children can't gain privileges by executing (`no_new_privs`).
    pub no_new_privileges: bool,
    /// Limits of the process (`setrlimit(2)`).
    pub rlimits: Vec<Rlimit>,
    /// The mask of modes of files that it makes; 022 (octal) unless said.
    pub umask: Option<u32>,
    /// How much rather the kernel kills it when memory runs out (`oom_score_adj`).
    pub oom_score_adj: Option<i32>,
}

/// Which streams of a process the host connects to before it starts. The others are `/dev/null`.
///
/// With a terminal, only `tty` is connected, in both directions, if any of these is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Default for Stdio {
    fn default() -> Self {
        Self { stdin: false, stdout: true, stderr: true }
    }
}

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}

/// Capabilities, over Docker's default set. Names are without or with `CAP_`, or `ALL`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CapabilitySpec {
    /// Added.
    pub add: Vec<String>,
    /// Taken away, before `add` is added when it's `ALL`.
    pub drop: Vec<String>,
}

/// A limit of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// What of: `nofile`, `nproc`, `core`, …
    pub resource: String,
    /// The limit that holds; `u64::MAX` is none.
    pub soft: u64,
    /// The bound that the process may raise it to; `u64::MAX` is none.
    pub hard: u64,
}
