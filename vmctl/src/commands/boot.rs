//! `vmctl boot`: from flags to a running VM, and to its end.

mod args;
mod configure;
pub(crate) mod console;
pub(crate) mod detached;
pub(crate) mod devices;
pub(crate) mod escape;
mod paths;
mod shutdown;
mod status;
pub(crate) mod supervise;
mod timeline;

use api::config::{ConsoleOutput, VmConfig};
use api::event::Event;
use log::LevelFilter;

pub(crate) use self::args::BootArgs;
use self::args::KernelCache;
use self::configure::{Origins, configure};
use self::detached::Started;
use self::supervise::Supervisor;
use self::timeline::Timeline;
use crate::errors::CliError;
use crate::registry::{Draft, Entry, Origin, Registry};
use crate::vmm_process::{Launch, Tie, VmmProcess};
use crate::{kernel_cache, output};

/// Boots the VM and stays with it; returns the exit code of a VM that ended in order.
pub(crate) fn run(args: &BootArgs, level: LevelFilter, started_ns: u64) -> Result<u8, CliError> {
    let (mut config, origins) = configure(args)?;
    if args.dry_run {
        output::print_json(&config)?;
        return Ok(api::exit::STOPPED);
    }
    paths::make_absolute(&mut config);
    let mut timeline = Timeline::create(args.timeline.as_deref())?;
    timeline.record(&Event::CommandStarted { monotonic_ns: started_ns });
    if args.kernel_cache == KernelCache::Auto {
        config.boot.kernel = kernel_cache::unpacked(&config.boot.kernel);
    }
    let mut reservation = Registry::open()?.reserve(Draft {
        name: args.name.clone(),
        origin: Origin::Boot,
        foreground: !args.detach,
        api_socket: args.api_socket.as_deref().map(paths::absolute_socket),
    })?;
    match start(args, level, &mut config, &mut reservation.entry, timeline, &origins) {
        Ok(Outcome::LeftRunning) => {
            let entry = reservation.publish();
            output::print(&format!("{}\n", entry.record.id))?;
            Ok(api::exit::STOPPED)
        }
        Ok(Outcome::Ended(code)) => {
            reservation.withdraw();
            Ok(code)
        }
        Err(error) => {
            reservation.withdraw();
            Err(error)
        }
    }
}

/// What has become of a VM when this command is through with it.
enum Outcome {
    LeftRunning,
    Ended(u8),
}

/// Starts the VM, and stays with it to its end unless it's to be left to itself.
fn start(
    args: &BootArgs,
    level: LevelFilter,
    config: &mut VmConfig,
    entry: &mut Entry,
    mut timeline: Timeline,
    origins: &Origins,
) -> Result<Outcome, CliError> {
    detached::connect_console(config, &entry.dir, args.detach);
    let console = match &config.console.output {
        ConsoleOutput::Socket(path) => Some(path.clone()),
        _ => None,
    };
    entry.set_config(config.clone().into(), console.as_deref())?;
    let has_input = config.console.output == ConsoleOutput::Stdio;
    // Signals are taken over first: none may end this process and leave the other's terminal raw.
    let mut signals = supervise::take_signals()?;
    let mut vmm = VmmProcess::start(&Launch {
        entry,
        config: Some(config),
        tie: if args.detach { Tie::Detached } else { Tie::Foreground { has_input } },
        shutdown_timeout_s: args.shutdown_timeout,
        level,
    })?;
    entry.set_process(vmm.pid())?;
    if !args.detach {
        let name = entry.record.name.clone();
        let ended = Supervisor::new(name, vmm, signals, timeline, args.shutdown_timeout)?.run()?;
        return Ok(Outcome::Ended(ended.into_result(origins, entry.was_killed())?));
    }
    let started = detached::wait_until_up(&mut vmm, &mut signals, |event| {
        timeline.record(event);
        matches!(event, Event::KernelEntered { .. })
    })?;
    match started {
        Started::Yes => {
            vmm.release();
            Ok(Outcome::LeftRunning)
        }
        Started::Failed(failure) => Err(supervise::explain(failure, origins)),
    }
}
