//! Containers as virtual machines: their life, state on disk, logs and processes.

mod agent;
mod assets;
mod check;
mod config;
mod engine;
mod error;
mod events;
mod files;
mod inspect;
mod logs;
mod names;
mod options;
mod paths;
pub mod process;
mod record;
mod resolve;
mod session;
mod signals;
mod store;
mod supervisor;
mod usage;
mod vmm;
mod volumes;
mod watch;
mod wire;

pub use config::{
    ContainerConfig, ExtraHost, HealthConfig, LogConfig, LogDriver, MountKind, MountSpec,
    NetworkAttachment, PortSpec, Protocol, RestartPolicy, Ulimit,
};
pub use engine::{Engine, EngineOptions, Files};
pub use error::{ErrorKind, Failure, Object, RuntimeError};
pub use events::EventReader;
pub use logs::LogReader;
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
pub use signals::parse_signal;

use image::ImageError;

/// The network that containers are on unless said.
pub(crate) use network::DEFAULT_NETWORK;

/// The exit code of a container whose supervisor or host went away under it: as if killed.
pub(crate) const EXIT_LOST: i32 = 137;

/// Stays with one container from its start to its end: what `vmctl`'s hidden subcommand calls,
/// in a process of its own, as [`Engine::start`] starts it. Returns the process's exit code.
///
/// # Errors
/// The container couldn't be started; whoever started the process has been told, too.
pub fn supervise(options: EngineOptions, id: &str) -> Result<i32, RuntimeError> {
    supervisor::run(options, id)
}
