//! The `vmm` binary: one process, one virtual machine.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use api::config::{VmConfig, VmSpec};
use api::event::Event;
use clap::Parser;
use vmm::cli::Cli;
use vmm::error::VmmError;
use vmm::machine::MachineBuilder;
use vmm::status::{Status, monotonic_ns};
use vmm::stop::{StopReason, StopSignal};
use vmm::{control, host_probe};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before anything else opens a file: the number is then certainly the parent's descriptor.
    let status = match cli.status_fd.map(Status::inherit).transpose() {
        Ok(status) => status.unwrap_or_default(),
        Err(error) => return usage(&format!("can't use --status-fd: {error}")),
    };
    if let Err(error) = start_log(&cli) {
        return usage(&format!("can't log to {:?}: {error}", cli.log_path));
    }
    let Some(config_file) = &cli.config_file else {
        return probe_host();
    };
    match run(&cli, config_file, &status) {
        Ok(reason) => end(&status, &reason),
        Err(error) => {
            let failure = error.to_failure();
            // A parent that reads the status says it in its own words.
            if cli.status_fd.is_none() {
                eprintln!("vmm: {}", failure.message);
                for cause in &failure.causes {
                    eprintln!("  caused by: {cause}");
                }
            }
            let code = match &error {
                VmmError::Config(_) => api::exit::USAGE,
                _ => api::exit::FAILURE,
            };
            status.send(&Event::Failed { error: failure });
            ExitCode::from(code)
        }
    }
}

/// Builds the machine, runs it to its end, and says why it ended.
fn run(cli: &Cli, config_file: &Path, status: &Status) -> Result<StopReason, VmmError> {
    let config = read_config(config_file)?;
    host_probe::can_run_linux()?;
    // Before any thread is started: all of them inherit the blocked signals.
    let signals =
        control::block_stop_signals().map_err(|source| VmmError::os("handle signals", source))?;
    sys::signal::install_kick_handler()
        .map_err(|source| VmmError::os("install a signal handler", source))?;
    let stop = StopSignal::new().map_err(|source| VmmError::os("create an eventfd", source))?;
    let stop = Arc::new(stop);
    let mut machine = MachineBuilder::new(&config, Arc::clone(&stop)).build()?;
    status.send(&Event::VmCreated { monotonic_ns: monotonic_ns() });
    status.send(&Event::KernelEntered { monotonic_ns: monotonic_ns() });
    machine.start()?;
    machine.run(signals, cli.shutdown_timeout())
}

/// Tells the parent why the machine ended, and the shell by the exit code.
fn end(status: &Status, reason: &StopReason) -> ExitCode {
    let Some(ended) = reason.to_event() else {
        return ExitCode::from(api::exit::FAILURE);
    };
    status.send(&Event::Stopped { reason: ended, monotonic_ns: monotonic_ns() });
    ExitCode::from(ended.exit_code())
}

fn read_config(path: &Path) -> Result<VmConfig, VmmError> {
    let text = std::fs::read(path)
        .map_err(|source| VmmError::os("read the configuration file", source))?;
    Ok(VmSpec::from_json(&text)?.validate()?)
}

fn probe_host() -> ExitCode {
    let report = host_probe::probe();
    let written = serde_json::to_writer(io::stdout().lock(), &report)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(io::stdout()));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmm: can't print the report: {error}");
            ExitCode::from(api::exit::FAILURE)
        }
    }
}

fn start_log(cli: &Cli) -> io::Result<()> {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(cli.level);
    if let Some(path) = &cli.log_path {
        let file: File = OpenOptions::new().create(true).append(true).open(path)?;
        builder.target(env_logger::Target::Pipe(Box::new(file)));
    }
    builder.init();
    Ok(())
}

fn usage(message: &str) -> ExitCode {
    eprintln!("vmm: {message}");
    ExitCode::from(api::exit::USAGE)
}
