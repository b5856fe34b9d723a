//! A cgroup for each instance: all its processes are counted, those that outlive a command included.

use std::process::Command;
use std::time::Duration;

use metering::{Cgroup, MeterError};

use super::{Usage, WayError};

/// The cgroup that all instances' are below.
const ROOT: &str = "vmctl-compare";

/// Where instances are counted.
#[derive(Debug)]
pub(crate) struct Meter {
    root: Result<Cgroup, String>,
}

impl Meter {
    /// Makes the cgroup; what a killed comparison has left in it is killed. That there can't be one
    /// is said by who needs it.
    pub(crate) fn new() -> Self {
        Self { root: Cgroup::create_anew(ROOT).map_err(|error| text(&error)) }
    }

    /// Why nothing can be counted, if so.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.root.as_ref().err().map(String::as_str)
    }

    /// A place for an instance's processes.
    pub(crate) fn instance(&self, name: &str) -> Result<Metered, WayError> {
        let Ok(root) = &self.root else {
            return Ok(Metered::none(
                "nothing can be counted without a writable cgroup v2".to_owned(),
            ));
        };
        let make = || -> Result<_, MeterError> {
            let all = root.create_below(name)?;
            let commands = all.create_below("commands")?;
            Ok((commands, all))
        };
        let groups = make().map_err(|error| WayError::Unavailable(text(&error)))?;
        Ok(Metered { groups: Ok(groups) })
    }
}

/// Where an instance's processes are. They're killed when it's dropped.
#[derive(Debug)]
pub(crate) struct Metered {
    // The commands' is dropped first: it's below the other one. A runtime makes the container's own
    // beside it, since a cgroup with processes can't limit those below it.
    groups: Result<(Cgroup, Cgroup), String>,
}

impl Metered {
    /// Of an instance that can't be counted, for this reason.
    pub(crate) fn none(reason: String) -> Self {
        Self { groups: Err(reason) }
    }

    /// Makes a command one that's counted.
    pub(crate) fn enter(&self, command: Command) -> Command {
        match &self.groups {
            Ok((commands, _)) => commands.enter(&command),
            Err(_) => command,
        }
    }

    /// The cgroup's path below the root, where a runtime is to make another one.
    pub(crate) fn path_for(&self, name: &str) -> Option<String> {
        let (_, all) = self.groups.as_ref().ok()?;
        let own = all.path().file_name()?.to_string_lossy().into_owned();
        Some(format!("/{ROOT}/{own}/{name}"))
    }

    pub(crate) fn usage(&self) -> Result<Usage, WayError> {
        let groups = self.groups.as_ref();
        let (_, all) = groups.map_err(|reason| WayError::Unavailable(reason.clone()))?;
        let unavailable = |error: MeterError| WayError::Unavailable(text(&error));
        let time = all.cpu_time().map_err(unavailable)?;
        let mut usage = Usage { cpu_us: time.user_us + time.system_us, pss_bytes: 0, processes: 0 };
        for process in all.all_processes().map_err(unavailable)? {
            // One that has just ended has no memory.
            let Ok(sums) = metering::sums(process) else { continue };
            usage.pss_bytes += sums.pss_kib * 1024;
            usage.processes += 1;
        }
        Ok(usage)
    }

    /// CPU time alone, which costs little to ask for.
    pub(crate) fn cpu_us(&self) -> Option<u64> {
        let time = self.groups.as_ref().ok()?.1.cpu_time().ok()?;
        Some(time.user_us + time.system_us)
    }

    /// The processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let groups = self.groups.as_ref().ok();
        groups.and_then(|(_, all)| all.all_processes().ok()).unwrap_or_default()
    }

    /// Waits until no process is left.
    pub(crate) fn wait_until_empty(&self, limit: Duration) -> Result<(), WayError> {
        match &self.groups {
            Err(_) => Ok(()),
            Ok((_, all)) => all
                .wait_until_empty(Some(limit))
                .map_err(|error| WayError::Unavailable(text(&error))),
        }
    }
}

fn text(error: &MeterError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
