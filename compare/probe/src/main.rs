//! `compare-probe`: does one thing, and prints what came of it as one line of JSON.

mod arguments;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use compare_probe::results::Listening;
use compare_probe::{ProbeError, attempts, facts, http, measure, network, remote};
use serde::Serialize;

use crate::arguments::{Command, Try};

fn main() -> ExitCode {
    let command = match arguments::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("compare-probe: {error}");
            return ExitCode::from(2);
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare-probe: {}", with_causes(&error));
            // What was asked for made no sense, as with a flag that isn't known.
            let usage = matches!(error, ProbeError::Range { .. } | ProbeError::Argument(_));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn run(command: Command) -> Result<(), ProbeError> {
    match command {
        Command::Idle => compare_probe::idle(io::stdout()),
        Command::FirstByte => write(b"!\n"),
        Command::Sleep => compare_probe::sleep_until_end_of_input(),
        Command::Facts => print(&facts::facts()?),
        Command::ProcSys { path, value } => print(&attempts::proc_sys(&path, &value)?),
        Command::Try(what) => print(&attempt(what)?),
        Command::Cpu { iterations } => print(&measure::cpu(iterations)?),
        Command::Syscall { kind, count } => print(&measure::syscall(kind, count)?),
        Command::Memory { bytes, rounds } => print(&measure::memory(bytes, rounds)?),
        Command::Disk(job) => print(&measure::disk(&job)?),
        Command::NetServer { port } => serve(port, network::net_server),
        Command::WebServer { port } => serve(port, http::web_server),
        Command::VsockServer { port } => remote::serve(port, "/proc/self/exe".as_ref()),
        Command::RoundTrips { address, count } => print(&network::round_trips(address, count)?),
        Command::Send { address, bytes } => print(&network::send(address, bytes)?),
        Command::Receive { address, bytes } => print(&network::receive(address, bytes)?),
        Command::WebClient { address, path, requests, connections } => {
            print(&http::web_client(address, &path, requests, connections)?)
        }
        Command::Connect { address, path, timeout_ms } => {
            print(&http::connect(address, &path, timeout_ms)?)
        }
    }
}

fn attempt(what: Try) -> Result<compare_probe::results::AttemptResult, ProbeError> {
    Ok(match what {
        Try::Hostname(name) => attempts::hostname(&name)?,
        Try::Clock => attempts::clock(),
        Try::Module => attempts::module(),
        Try::Memory => attempts::memory(),
        Try::Fork { limit } => attempts::fork("/proc/self/exe".as_ref(), limit)?,
        Try::Panic { host_boot_id } => attempts::panic(&host_boot_id)?,
        Try::Mount => attempts::mount(),
        Try::Dmesg => attempts::dmesg(),
        Try::RawDisk => attempts::raw_disk(),
    })
}

fn serve(
    port: u16,
    server: fn(&std::net::TcpListener) -> Result<(), ProbeError>,
) -> Result<(), ProbeError> {
    compare_probe::exit_on_signals()?;
    let (listener, listening) = network::listen(port)?;
    print(&Listening { listening })?;
    server(&listener)
}

fn print(result: &impl Serialize) -> Result<(), ProbeError> {
    let mut line = serde_json::to_vec(result)
        .map_err(|error| ProbeError::System { what: "print the result", source: error.into() })?;
    line.push(b'\n');
    write(&line)
}

fn write(bytes: &[u8]) -> Result<(), ProbeError> {
    let mut output = io::stdout().lock();
    output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .map_err(|source| ProbeError::System { what: "write to the standard output", source })
}
