//! `vmctl boot`: from flags to a running VM, and to its end.

mod args;
mod configure;
mod console;
mod devices;
mod escape;
mod shutdown;
mod status;
mod supervise;
mod timeline;

use api::config::ConsoleOutput;
use api::event::Event;
use log::LevelFilter;

pub(crate) use self::args::BootArgs;
use self::args::KernelCache;
use self::configure::configure;
use self::supervise::Supervisor;
use self::timeline::Timeline;
use crate::errors::CliError;
use crate::vmm_process::{Launch, VmmProcess};
use crate::{kernel_cache, output};

/// Boots the VM and stays with it; returns the exit code of a VM that ended in order.
pub(crate) fn run(args: &BootArgs, level: LevelFilter, started_ns: u64) -> Result<u8, CliError> {
    let (mut config, origins) = configure(args)?;
    if args.dry_run {
        output::print_json(&config)?;
        return Ok(api::exit::STOPPED);
    }
    let mut timeline = Timeline::create(args.timeline.as_deref())?;
    timeline.record(&Event::CommandStarted { monotonic_ns: started_ns });
    if args.kernel_cache == KernelCache::Auto {
        config.boot.kernel = kernel_cache::unpacked(&config.boot.kernel);
    }
    let has_input = config.console.output == ConsoleOutput::Stdio;
    // Signals are taken over first: none may end this process and leave the other's terminal raw.
    let signals = supervise::take_signals()?;
    let vmm = VmmProcess::start(&Launch {
        config: &config,
        has_input,
        shutdown_timeout_s: args.shutdown_timeout,
        level,
    })?;
    let ended = Supervisor::new(vmm, signals, timeline, args.shutdown_timeout)?.run()?;
    ended.into_result(&origins)
}
