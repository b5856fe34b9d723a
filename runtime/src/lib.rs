//! Containers as virtual machines: their life, state on disk, logs and processes.

mod config;
mod engine;
mod error;
mod options;
pub mod process;
mod record;
mod session;

pub use config::{
    ContainerConfig, ExtraHost, HealthConfig, LogConfig, LogDriver, MountKind, MountSpec,
    NetworkAttachment, PortSpec, Protocol, RestartPolicy, Ulimit,
};
pub use engine::{Engine, EngineOptions, EventReader, LogReader};
pub use error::{ErrorKind, Failure, Object, RuntimeError};
pub use options::{
    AttachOptions, Change, ChangeKind, CommitOptions, Created, DiskUsage, EngineEvent,
    EventOptions, ExecConfig, Info, ListOptions, Listed, LogLine, LogOptions, OutputStream,
    Processes, Pruned, SessionEnd, Stats, Usage, Volume,
};
pub use record::{
    ContainerRecord, Endpoint, Health, HealthResult, HealthStatus, MountPoint, PublishedPort,
    Resolved, State, Status, Summary,
};
pub use session::{Session, SessionControl, SessionIo};

/// Stays with one container from its start to its end: what `vmctl`'s hidden subcommand calls,
/// in a process of its own, as [`Engine::start`] starts it. Returns the process's exit code.
///
/// # Errors
/// The container couldn't be started; whoever started the process has been told, too.
pub fn supervise(options: EngineOptions, id: &str) -> Result<i32, RuntimeError> {
    let _ = (options, id);
    Err(RuntimeError::invalid("not built yet"))
}
