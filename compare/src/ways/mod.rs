//! The ways to run an image: what is measured, seen from outside.

mod bundle;
mod container;
mod docker;
mod full_vm;
mod meter;
mod microvm;
mod networks;
mod process;
mod runtimes;
mod scratch;
mod seccomp;
mod spawned;
mod subject;

use std::io::PipeReader;
use std::net::SocketAddr;
use std::time::Instant;

pub use self::container::Containers;
pub use self::full_vm::{FullVms, LOGIN_MARK};
pub use self::microvm::MicroVms;
pub(crate) use self::process::{Stopped, last, read_some, wait_for};
pub use self::runtimes::RUNTIMES;
pub use self::scratch::Scratch;
pub use self::subject::{Subject, SubjectOptions};
use crate::model::{Step, WayId};

/// Runs instances in one way. What takes time once (mounting, unpacking, a template) was done when
/// it was made.
pub trait Runner: Send + Sync {
    /// Which way.
    fn id(&self) -> WayId;

    /// By what: `crun 1.8.1`.
    fn detail(&self) -> String;

    /// Starts an instance, and returns while it's coming up.
    ///
    /// # Errors
    /// It can't be started.
    fn start(&self, spec: &Spec) -> Result<Box<dyn Instance>, WayError>;
}

/// What to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// A name that no other instance has now: letters, digits, `-`.
    pub name: String,
    /// The command in place of the image's, or empty.
    pub command: Vec<String>,
    /// Whether it's on a network.
    pub network: bool,
    /// Whether the program of our own is in it, at [`PROBE_PATH`].
    pub probe: bool,
    /// Whether it has all rights that its way can give without giving away the host.
    pub privileged: bool,
}

impl Spec {
    /// What's started of it in a way, to be looked at: a full VM just boots its disk.
    pub(crate) fn to_look_at(&self, way: WayId) -> Self {
        match way {
            WayId::FullVm => Self { name: self.name.clone(), ..Self::default() },
            _ => self.clone(),
        }
    }
}

/// How the names of our instances begin, as others see them.
pub(crate) const NAME_PREFIX: &str = "vmctl-compare-";

/// Where the program of our own is in an instance.
pub const PROBE_PATH: &str = "/.vmctl-probe";

/// An instance: removed when it's dropped, with all that belongs to it.
pub trait Instance: Send {
    /// When its command was started.
    fn started(&self) -> Instant;

    /// Its output: a container's standard output and error, a full VM's console. Once.
    fn output(&mut self) -> Option<PipeReader>;

    /// Where it answers, from the host; waits until that's known.
    ///
    /// # Errors
    /// It has no network, or has ended.
    fn address(&mut self, port: u16) -> Result<SocketAddr, WayError>;

    /// What its way has reported of its start so far: VMM processes, kernels.
    fn steps(&mut self) -> Vec<Step>;

    /// What all its processes on the host have used.
    ///
    /// # Errors
    /// The host has no way to count it.
    fn usage(&self) -> Result<Usage, WayError>;

    /// CPU time of all its processes on the host so far, in microseconds, if it can be counted.
    fn cpu_us(&self) -> Option<u64> {
        self.usage().ok().map(|usage| usage.cpu_us)
    }

    /// Its processes on the host, by number.
    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Runs another command in it, to its end.
    ///
    /// # Errors
    /// It can't be run.
    fn exec(&self, command: &[&str]) -> Result<Output, WayError>;

    /// Its exit code, if it has ended by itself by now.
    ///
    /// # Errors
    /// It can't be found out.
    fn try_wait(&mut self) -> Result<Option<i32>, WayError>;

    /// Waits until it has ended by itself; returns its exit code.
    ///
    /// # Errors
    /// It doesn't within its way's patience.
    fn wait(&mut self) -> Result<i32, WayError>;

    /// Asks it to stop, and waits until nothing of it is left.
    ///
    /// # Errors
    /// Something of it is left.
    fn stop(&mut self) -> Result<(), WayError>;
}

/// What an instance has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, in user space, guests and the host's kernel, in microseconds.
    pub cpu_us: u64,
    /// The proportional set size of its processes, in bytes.
    pub pss_bytes: u64,
    /// Its processes on the host.
    pub processes: u32,
}

/// What a command has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// Why something can't be done in a way.
#[derive(Debug, thiserror::Error)]
pub enum WayError {
    /// The host lacks something.
    #[error("{0}")]
    Unavailable(String),
    /// A program failed.
    #[error("{program} failed ({status}): {message}")]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        message: String,
    },
    /// The system refused.
    #[error("cannot {what}")]
    System {
        /// What couldn't be done.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// It's time to end.
    #[error("interrupted")]
    Interrupted,
    /// It didn't come about in time.
    #[error("{what} took more than {seconds} s")]
    Late {
        /// What.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
}
