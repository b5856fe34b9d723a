//! Where things are on disk.
//!
//! ```text
//! DATA/containers/ID/   config.json  state.json  container.log  upper.img  supervisor.log …
//!      containers/lock  held while a container is created, renamed or removed
//!      volumes/NAME/    volume.json  data/
//!      templates/KEY/   warm templates
//!      events.jsonl
//! RUN/c/ID12/           lock  supervisor.sock  api.sock  vsock.sock …
//! ```
//!
//! What's in the run-time root is gone after the host's restart: nothing there is ever needed to
//! know what a container was.

use std::env;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::file;
use crate::{EngineOptions, RuntimeError};

/// How many digits of an identifier name its directory in the run-time root: sockets' paths are
/// limited to 107 bytes. No two containers' identifiers begin with the same ones.
pub(crate) const SHORT_ID: usize = 12;

/// The longest path of a Unix socket, in bytes.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The longest socket's name in a container's run-time directory.
const LONGEST_SOCKET: &str = "/supervisor.sock";

/// The two roots, and all that has its place below them.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    data: PathBuf,
    run: PathBuf,
}

impl Paths {
    /// Takes the roots that the options name, the environment's, or the user's own, and makes
    /// them.
    pub(crate) fn open(options: &EngineOptions) -> Result<Self, RuntimeError> {
        let data = options.data_root.clone().unwrap_or_else(default_data_root);
        let run = options.runtime_root.clone().unwrap_or_else(default_run_root);
        let paths = Self { data, run };
        paths.check_length()?;
        for dir in [paths.containers(), paths.volumes(), paths.run.join("c")] {
            make_dir(&dir)?;
        }
        own(&paths.run)?;
        Ok(paths)
    }

    fn check_length(&self) -> Result<(), RuntimeError> {
        let length = self.run.as_os_str().len() + "/c/".len() + SHORT_ID + LONGEST_SOCKET.len();
        if length > MAX_SOCKET_PATH_BYTES {
            let root = self.run.display();
            return Err(RuntimeError::invalid(format!(
                "the run-time root {root} is too long for sockets below it"
            )));
        }
        Ok(())
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    pub(crate) fn templates(&self) -> PathBuf {
        self.data.join("templates")
    }

    pub(crate) fn assets(&self) -> PathBuf {
        self.data.join("assets")
    }

    pub(crate) fn events(&self) -> PathBuf {
        self.data.join("events.jsonl")
    }

    /// A container's directory under the data root.
    pub(crate) fn container(&self, id: &str) -> ContainerPaths {
        let short = id.get(..SHORT_ID).unwrap_or(id);
        ContainerPaths {
            data: self.data.join("containers").join(id),
            run: self.run.join("c").join(short),
        }
    }
}

/// What belongs to one container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerPaths {
    /// Its directory under the data root.
    pub(crate) data: PathBuf,
    /// Its directory under the run-time root.
    pub(crate) run: PathBuf,
}

impl ContainerPaths {
    pub(crate) fn config(&self) -> PathBuf {
        self.data.join("config.json")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.data.join("state.json")
    }

    /// Held while `state.json` is read and replaced.
    pub(crate) fn state_lock(&self) -> PathBuf {
        self.data.join("state.lock")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.data.join("container.log")
    }

    /// The disk that the container writes to.
    pub(crate) fn upper(&self) -> PathBuf {
        self.data.join("upper.img")
    }

    /// What the process has changed, if that's kept.
    pub(crate) fn changes(&self) -> PathBuf {
        self.data.join("changes.tar")
    }

    pub(crate) fn supervisor_log(&self) -> PathBuf {
        self.data.join("supervisor.log")
    }

    pub(crate) fn vmm_log(&self) -> PathBuf {
        self.data.join("vmm.log")
    }

    /// What the guest's kernel printed.
    pub(crate) fn console(&self) -> PathBuf {
        self.data.join("console.log")
    }

    /// Held by the supervisor as long as it lives.
    pub(crate) fn life_lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    pub(crate) fn supervisor_socket(&self) -> PathBuf {
        self.run.join("supervisor.sock")
    }

    pub(crate) fn api_socket(&self) -> PathBuf {
        self.run.join("api.sock")
    }

    /// The socket through which the guest's ports are reached.
    pub(crate) fn vsock(&self) -> PathBuf {
        self.run.join("vsock.sock")
    }

    /// The socket on which the guest reaches a port of the host's.
    pub(crate) fn vsock_port(&self, port: u32) -> PathBuf {
        self.run.join(format!("vsock.sock_{port}"))
    }
}

/// Makes a directory that only this user may look into.
pub(crate) fn make_dir(dir: &Path) -> Result<(), RuntimeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(file("create", dir))
}

/// Refuses a directory of somebody else's: it would hand our sockets to them.
fn own(dir: &Path) -> Result<(), RuntimeError> {
    let metadata = fs::symlink_metadata(dir).map_err(file("look at", dir))?;
    let uid = rustix::process::geteuid().as_raw();
    if metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    let dir = dir.display();
    Err(RuntimeError::invalid(format!("{dir} must be a directory that only this user writes to")))
}

fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn default_data_root() -> PathBuf {
    if let Some(root) = named("VMCTL_DATA_DIR") {
        return root;
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/vmctl");
    }
    let home = || named("HOME").unwrap_or_else(|| PathBuf::from("/")).join(".local/share");
    named("XDG_DATA_HOME").unwrap_or_else(home).join("vmctl")
}

/// The run-time root, which `vmctl`'s virtual machines have, too.
fn default_run_root() -> PathBuf {
    if let Some(root) = named("VMCTL_RUNTIME_DIR") {
        return root;
    }
    if let Some(dir) = named("XDG_RUNTIME_DIR") {
        return dir.join("vmctl");
    }
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return PathBuf::from("/run/vmctl");
    }
    env::temp_dir().join(format!("vmctl-{}", uid.as_raw()))
}
