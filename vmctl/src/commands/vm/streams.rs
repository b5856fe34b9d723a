//! `vmctl vm metrics|events|logs`.

use std::fs::File;
use std::io::{self, Read, Write};

use api::http::StreamItem;
use clap::Args;
use serde_json::json;

use super::{connect, refused};
use crate::errors::CliError;
use crate::output;
use crate::registry::{Registry, open_file};

/// Prints a VM's metrics in Prometheus' text format.
#[derive(Debug, Args)]
pub(super) struct MetricsArgs {
    /// The VM.
    name: String,

    /// Prints an object of each metric's samples instead.
    #[arg(long)]
    json: bool,
}

/// Prints what happened to a VM, as lines of JSON; of one that has ended, too.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// The VM.
    name: String,

    /// Goes on with what happens, until the VM's end.
    #[arg(long, short)]
    follow: bool,

    /// JSON is what's printed anyway.
    #[arg(long)]
    json: bool,
}

/// Prints what a VM's VMM has logged. `vmctl vm console` shows what the guest printed.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The VM.
    name: String,

    /// Prints an object of JSON for each line.
    #[arg(long)]
    json: bool,
}

pub(super) fn metrics(registry: &Registry, args: &MetricsArgs) -> Result<u8, CliError> {
    let entry = registry.find(&args.name)?;
    let text = connect(&entry)?.metrics().map_err(refused(&entry))?;
    if args.json {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples: serde_json::Map<_, _> = samples
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), json!(value.parse::<f64>().ok()?))))
            .collect();
        output::print_json(&samples)?;
    } else {
        output::print(&text)?;
    }
    Ok(api::exit::STOPPED)
}

pub(super) fn events(registry: &Registry, args: &EventsArgs) -> Result<u8, CliError> {
    let entry = registry.find(&args.name)?;
    if entry.process().is_none() {
        copy(open_file(&entry.record.events)?)?;
        return Ok(api::exit::STOPPED);
    }
    for item in connect(&entry)?.events(args.follow).map_err(refused(&entry))? {
        let mut line = match item.map_err(refused(&entry))? {
            StreamItem::Event(event) => serde_json::to_string(&event).unwrap_or_default(),
            StreamItem::Missed(count) => json!({ "event": "missed", "count": count }).to_string(),
            StreamItem::Unknown(line) => line,
        };
        line.push('\n');
        output::print(&line)?;
    }
    Ok(api::exit::STOPPED)
}

pub(super) fn logs(registry: &Registry, args: &LogsArgs) -> Result<u8, CliError> {
    let entry = registry.find(&args.name)?;
    if entry.record.foreground {
        return Err(CliError::LogIsElsewhere { name: entry.record.name });
    }
    let mut file = open_file(&entry.record.log)?;
    if !args.json {
        copy(file)?;
        return Ok(api::exit::STOPPED);
    }
    let mut text = Vec::new();
    let failed = |source| CliError::System { what: "the log can't be read", source };
    file.read_to_end(&mut text).map_err(failed)?;
    for line in String::from_utf8_lossy(&text).lines() {
        output::print_line(&json!({ "line": line }), &json!({}))?;
    }
    Ok(api::exit::STOPPED)
}

/// Copies a file to standard output.
fn copy(mut file: File) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match io::copy(&mut file, &mut stdout).and_then(|_| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}
