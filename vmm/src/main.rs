//! The `vmm` binary: one process, one virtual machine.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use api::config::VmSpec;
use api::event::Event;
use api::http::{Limits, Server, ServerHandle};
use clap::Parser;
use devices::mmds::Mmds;
use serde::Serialize;
use sys::thread_start::{self, Role};
use vmm::cli::Cli;
use vmm::error::VmmError;
use vmm::service::{Inbox, Settings, Vmm, Wakes};
use vmm::status::{Parent, Status, monotonic_ns};
use vmm::stop::{StopReason, StopSignal};
use vmm::{host_probe, logger, seccomp};

fn main() -> ExitCode {
    let started_ns = monotonic_ns();
    let cli = Cli::parse();
    let parent = if cli.outlive_parent { Parent::MayLeave } else { Parent::Binds };
    // Before anything else opens a file: the number is then certainly the parent's descriptor.
    let status = match cli.status_fd.map(|number| Status::inherit(number, parent)).transpose() {
        Ok(status) => status.unwrap_or_default(),
        Err(error) => return usage(&format!("can't use --status-fd: {error}")),
    };
    let settings = logger::LogSettings {
        level: cli.level,
        module: cli.module.clone(),
        show_origin: cli.show_log_origin,
    };
    if let Err(error) = logger::start(settings, cli.log_path.as_deref()) {
        return usage(&format!("can't log to {:?}: {error}", cli.log_path));
    }
    if cli.probe_host {
        return print(&host_probe::probe());
    }
    if let Some(answer) = describe_snapshots(&cli) {
        return answer;
    }
    if let Err(error) = prepare(&cli, &status, started_ns) {
        return usage(&error);
    }
    match run(&cli, &status, started_ns) {
        Ok(reason) => end(&status, &reason),
        Err(error) => fail(&cli, &status, &error),
    }
}

/// Answers the questions about snapshots, if one was asked.
fn describe_snapshots(cli: &Cli) -> Option<ExitCode> {
    if cli.snapshot_version {
        println!("v{}", snapshot::state::FORMAT_VERSION);
        return Some(ExitCode::SUCCESS);
    }
    let path = cli.describe_snapshot.as_ref()?;
    match snapshot::state::read(path) {
        Ok(file) => println!("v{}", file.version),
        Err(error) => {
            eprintln!("vmm: {error}");
            return Some(ExitCode::from(api::exit::FAILURE));
        }
    }
    Some(ExitCode::SUCCESS)
}

/// Opens where events go and tells that the process has started.
fn prepare(cli: &Cli, status: &Status, started_ns: u64) -> Result<(), String> {
    if let Some(path) = &cli.event_log {
        status.log_to(path).map_err(|error| format!("can't write events to {path:?}: {error}"))?;
    }
    status.started(started_ns).map_err(|error| format!("nobody reads --status-fd: {error}"))?;
    if cli.no_seccomp {
        log::warn!(
            "--no-seccomp: this process runs WITHOUT system call filters. A guest that breaks out \
             of its virtual machine can make any system call that this user may. Never use it \
             with guests that you don't trust."
        );
    }
    Ok(())
}

/// Serves the API and the machine until the machine's end, and says why it ended.
fn run(cli: &Cli, status: &Status, started_ns: u64) -> Result<StopReason, VmmError> {
    // Before any thread is started: all of them inherit filters and blocked signals.
    if !cli.no_seccomp {
        seccomp::enable()?;
    }
    let wakes = Wakes::new().map_err(|source| VmmError::os("handle signals", source))?;
    sys::signal::install_kick_handler()
        .map_err(|source| VmmError::os("install a signal handler", source))?;
    let server = cli.api_sock.as_ref().map(|path| bind(cli, path)).transpose()?;
    let spec = cli.config_file.as_ref().map(|path| read_config(path)).transpose()?;
    let stop = StopSignal::new().map_err(|source| VmmError::os("create an eventfd", source))?;
    let mmds = make_mmds(cli)?;
    let settings = Settings::of(cli, started_ns);
    let mut vmm = Vmm::new(settings, status.clone(), Arc::new(stop), Arc::new(mmds))?;
    if let Some(spec) = spec {
        vmm.boot(spec)?;
    }
    let _server = server.map(|server| serve(server, wakes.inbox(), status)).transpose()?;
    // The server goes last: whoever asked for the end is still answered.
    vmm.serve(wakes)
}

fn bind(cli: &Cli, path: &Path) -> Result<Server, VmmError> {
    let limits = Limits {
        max_body_bytes: cli.http_api_max_payload_size,
        max_mmds_body_bytes: cli.mmds_limit(),
        ..Limits::default()
    };
    Ok(Server::bind(path)?.with_limits(limits))
}

fn serve(server: Server, inbox: &Arc<Inbox>, status: &Status) -> Result<ServerHandle, VmmError> {
    server
        .on_start(|| thread_start::begin(Role::Api))
        .spawn(Arc::clone(inbox) as _, Arc::clone(status.hub()))
        .map_err(|source| VmmError::os("start the API's thread", source))
}

/// Creates the metadata service, with the metadata that the command line names.
fn make_mmds(cli: &Cli) -> Result<Mmds, VmmError> {
    let mmds = Mmds::new(cli.mmds_limit())
        .map_err(|source| VmmError::os("make the metadata service", source))?;
    if let Some(path) = &cli.metadata {
        let failed = |source| VmmError::os("read the metadata file", source);
        let text = std::fs::read(path).map_err(failed)?;
        let value = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        mmds.put(value).map_err(|error| failed(io::Error::other(error)))?;
    }
    Ok(mmds)
}

/// Tells the parent why the machine ended, and the shell by the exit code.
fn end(status: &Status, reason: &StopReason) -> ExitCode {
    let Some(ended) = reason.to_event() else {
        return ExitCode::from(api::exit::FAILURE);
    };
    status.send(&Event::Stopped { reason: ended, monotonic_ns: monotonic_ns() });
    ExitCode::from(ended.exit_code())
}

/// Tells the parent, or whoever reads standard error, what went wrong.
fn fail(cli: &Cli, status: &Status, error: &VmmError) -> ExitCode {
    let failure = error.to_failure();
    // A parent that reads the status says it in its own words.
    if cli.status_fd.is_none() {
        eprintln!("vmm: {}", failure.message);
        for cause in &failure.causes {
            eprintln!("  caused by: {cause}");
        }
    }
    let code = match error {
        VmmError::Config(_) => api::exit::USAGE,
        _ => api::exit::FAILURE,
    };
    status.send(&Event::Failed { error: failure });
    ExitCode::from(code)
}

fn read_config(path: &Path) -> Result<VmSpec, VmmError> {
    let text = std::fs::read(path)
        .map_err(|source| VmmError::os("read the configuration file", source))?;
    Ok(VmSpec::from_json(&text)?)
}

fn print(report: &impl Serialize) -> ExitCode {
    let written = serde_json::to_writer(io::stdout().lock(), report)
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

fn usage(message: &str) -> ExitCode {
    eprintln!("vmm: {message}");
    ExitCode::from(api::exit::USAGE)
}
