//! `vmctl vm pause|resume|stop|kill`.

use std::time::Duration;

use clap::Args;
use rustix::process::Signal;
use serde_json::json;

use super::{connect, not_running, refused};
use crate::errors::CliError;
use crate::output;
use crate::registry::{Entry, Registry};

/// How much longer than the guest a VMM may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// What the commands take that change a VM's state.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// The VMs.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// Prints what became of each as a line of JSON.
    #[arg(long)]
    json: bool,
}

/// Presses a guest's power button, and ends the VM if it hasn't powered off in time.
#[derive(Debug, Args)]
pub(super) struct StopArgs {
    #[command(flatten)]
    change: ChangeArgs,

    /// How long the guest has, in seconds.
    #[arg(long, short, value_name = "SECONDS", default_value_t = 30)]
    timeout: u32,
}

pub(super) fn pause(registry: &Registry, args: &ChangeArgs) -> Result<u8, CliError> {
    each(registry, args, |entry| connect(entry)?.pause().map_err(refused(entry)))
}

pub(super) fn resume(registry: &Registry, args: &ChangeArgs) -> Result<u8, CliError> {
    each(registry, args, |entry| connect(entry)?.resume().map_err(refused(entry)))
}

pub(super) fn stop(registry: &Registry, args: &StopArgs) -> Result<u8, CliError> {
    let timeout = Duration::from_secs(args.timeout.into());
    each(registry, &args.change, |entry| stop_one(entry, timeout))
}

pub(super) fn kill(registry: &Registry, args: &ChangeArgs) -> Result<u8, CliError> {
    each(registry, args, |entry| {
        if entry.process().is_none() {
            return Err(not_running(entry));
        }
        end(entry)
    })
}

/// Does something with each VM, and says what became of it.
fn each(
    registry: &Registry,
    args: &ChangeArgs,
    mut change: impl FnMut(&mut Entry) -> Result<(), CliError>,
) -> Result<u8, CliError> {
    for name in &args.names {
        let mut entry = registry.find(name)?;
        change(&mut entry)?;
        let record = &entry.record;
        if args.json {
            let line = json!({ "id": record.id, "name": record.name });
            output::print_line(&line, &entry.status())?;
        } else {
            output::print(&format!("{}\n", record.name))?;
        }
    }
    Ok(api::exit::STOPPED)
}

fn stop_one(entry: &mut Entry, timeout: Duration) -> Result<(), CliError> {
    let Some(process) = entry.process() else { return Err(not_running(entry)) };
    // A VMM that doesn't answer is told by a signal, and given the same time.
    let asked = connect(entry).and_then(|mut api| api.shutdown(timeout).map_err(refused(entry)));
    if let Err(error) = asked {
        log::info!("{error}; sending SIGTERM");
        process.signal(Signal::TERM).map_err(system)?;
    }
    if !process.wait(Some(timeout + GRACE)).map_err(system)? {
        return end(entry);
    }
    Ok(())
}

/// Ends a VM's process.
pub(super) fn end(entry: &mut Entry) -> Result<(), CliError> {
    let Some(process) = entry.process() else { return Ok(()) };
    entry.set_killed()?;
    process.signal(Signal::KILL).map_err(system)?;
    process.wait(None).map_err(system)?;
    entry.remove_sockets();
    Ok(())
}

fn system(source: std::io::Error) -> CliError {
    CliError::System { what: "the vmm process can't be ended", source }
}
