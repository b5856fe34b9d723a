//! Requests, answers, events.

use serde::{Deserialize, Serialize};

use crate::{
    AgentError, Configuration, ContainerSpec, ExitStatus, FileChange, PathStat, ProcessId,
    ProcessInfo, ProcessSpec, Stats, TerminalSize, TransferId,
};

/// All that can be asked of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", content = "args", rename_all = "snake_case")]
pub enum Request {
    /// Nothing: is it there? Answered with [`Response::Done`].
    Ping,
    /// Makes the VM this container's. [`Response::Done`].
    Configure(Box<Configuration>),
    /// Makes the container, whose main process is then prepared as [`ProcessId::MAIN`].
    /// [`Response::Done`], once per VM.
    Create(Box<ContainerSpec>),
    /// Prepares another process in the container. [`Response::Prepared`]. If the connection ends
    /// before the process was started, it's forgotten.
    Exec(Box<ProcessSpec>),
    /// Starts a prepared process, whose streams are connected by now. [`Response::Started`], or
    /// [`crate::ErrorKind::NotFound`] and [`crate::ErrorKind::NotExecutable`].
    Start {
        /// Which.
        process: ProcessId,
    },
    /// Sends a signal. [`Response::Done`].
    Signal {
        /// To which.
        process: ProcessId,
        /// The signal's number.
        signal: i32,
        /// Whether every process of the container gets it.
        #[serde(default)]
        all: bool,
    },
    /// Sets a terminal's size. [`Response::Done`].
    Resize {
        /// Whose.
        process: ProcessId,
        /// The size.
        size: TerminalSize,
    },
    /// Ends a process's standard input after what came before. [`Response::Done`]. The host may as
    /// well close its direction of the stream.
    CloseStdin {
        /// Whose.
        process: ProcessId,
    },
    /// Waits for a process's end and for its output to be read. [`Response::Exited`].
    Wait {
        /// For which.
        process: ProcessId,
    },
    /// Lists the container's processes. [`Response::Processes`].
    Processes,
    /// Tells what the container uses. [`Response::Stats`].
    Stats,
    /// Tells what is at a path in the container. [`Response::Stat`].
    Stat {
        /// An absolute path. What it names is looked up within the container's root, mounts
        /// included.
        path: String,
        /// Whether a symbolic link at its end is followed.
        #[serde(default)]
        follow: bool,
    },
    /// Unpacks a tar archive that the host writes to the transfer's stream. [`Response::Transfer`].
    CopyIn {
        /// The directory to unpack in.
        path: String,
        /// Whether owners are taken from the archive, rather than all being root's.
        #[serde(default)]
        keep_owners: bool,
        /// Whether a directory may replace a file, or a file a directory.
        #[serde(default)]
        replace: bool,
    },
    /// Packs a path as a tar archive that the host reads from the transfer's stream: one top-level
    /// entry, by the path's last part. [`Response::Transfer`].
    CopyOut {
        /// What to pack.
        path: String,
    },
    /// Lists how the root file system differs from the image, on the transfer's stream
    /// ([`crate::ChangeReader`]). [`Response::Transfer`].
    Changes,
    /// Packs what the container changed, as a layer of an image (whiteouts as `.wh.` files), on the
    /// transfer's stream. [`Response::Transfer`].
    CopyLayer {
        /// Whether the container's processes stand still meanwhile.
        #[serde(default)]
        freeze: bool,
    },
    /// Waits for a transfer's end. [`Response::Done`], or why it failed. Forgets it.
    Finish {
        /// Which.
        transfer: TransferId,
    },
    /// Tells of changes that someone made to shared files on the host, so that watchers in the
    /// container see them. [`Response::Done`].
    Notify {
        /// What changed.
        changes: Vec<FileChange>,
    },
    /// Has events sent on this connection from now on. [`Response::Done`].
    Subscribe,
    /// Ends all processes, `SIGTERM` first, writes everything to the drives, powers the machine
    /// off. [`Response::Done`] comes before the last step.
    Shutdown {
        /// How long processes have until `SIGKILL`, in milliseconds.
        grace_ms: u64,
    },
}

/// The agent's answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "value", rename_all = "snake_case")]
pub enum Response {
    /// It's done.
    Done,
    /// A process is prepared.
    Prepared {
        /// The name that it goes by.
        process: ProcessId,
    },
    /// A process is started.
    Started {
        /// Its number in the container; not one to signal by.
        pid: u32,
    },
    /// A process has ended.
    Exited(ExitStatus),
    /// The container's processes.
    Processes(Vec<ProcessInfo>),
    /// What the container uses.
    Stats(Box<Stats>),
    /// What is at a path.
    Stat(PathStat),
    /// A transfer's stream may be opened.
    Transfer {
        /// The name that it goes by.
        transfer: TransferId,
    },
}

/// What the agent tells unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "value", rename_all = "snake_case")]
pub enum Event {
    /// A process has ended, and its output was read.
    Exited {
        /// Which.
        process: ProcessId,
        /// How.
        status: ExitStatus,
    },
    /// The kernel killed a process of the container, for lack of memory.
    OutOfMemory {
        /// How many it killed since the start.
        kills: u64,
    },
}

/// A frame from the host, its request not decoded yet: an unknown one is answered, not fatal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClientFrame<R> {
    pub(crate) id: u64,
    pub(crate) request: R,
}

/// A frame from the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServerFrame {
    Answer { id: u64, result: Result<Response, AgentError> },
    Event(Event),
}
