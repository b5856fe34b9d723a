//! `vmctl vm ls|inspect|rm|prune`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::control;
use crate::errors::CliError;
use crate::output;
use crate::registry::status::{Status, look_at_all};
use crate::registry::{Entry, Registry, VmRecord};
use crate::vm::Connection;

/// Lists VMs: those that run, and those that have ended and weren't removed.
#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Prints an array of JSON objects.
    #[arg(long)]
    json: bool,

    /// Prints identifiers only.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

/// Shows all that's known of VMs, as JSON.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The VMs.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// JSON is what's printed anyway.
    #[arg(long)]
    json: bool,
}

/// Forgets VMs that have ended.
#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// The VMs.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    /// Kills those that run first.
    #[arg(long, short)]
    force: bool,

    /// Prints what was removed as lines of JSON.
    #[arg(long)]
    json: bool,
}

/// Forgets all VMs that have ended, and removes what they left.
#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Prints what was removed as lines of JSON.
    #[arg(long)]
    json: bool,
}

/// A line of `vmctl vm ls --json`.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(flatten)]
    status: &'a Status,
    vcpus: u64,
    mem_mib: u64,
    created_unix_ms: u64,
    /// How long ago it was entered, for one that lives.
    uptime_ms: Option<u64>,
    pid: Option<i32>,
    foreground: bool,
    api_socket: String,
}

/// What `vmctl vm inspect` shows: what's on file, how it fares, and what its VMM says.
#[derive(Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    record: &'a VmRecord,
    #[serde(flatten)]
    status: Status,
    details: Option<api::ext::VmDetails>,
}

pub(super) fn ls(registry: &Registry, args: &LsArgs) -> Result<u8, CliError> {
    registry.sweep()?;
    let (entries, broken) = registry.scan()?;
    for broken in broken {
        log::warn!(
            "{}: no VM: {} (vmctl vm prune removes it)",
            broken.dir.display(),
            broken.source
        );
    }
    if args.quiet {
        let ids: String = entries.iter().map(|entry| format!("{}\n", entry.record.id)).collect();
        output::print(&ids)?;
        return Ok(api::exit::STOPPED);
    }
    let statuses = look_at_all(&entries);
    let rows: Vec<_> =
        entries.iter().zip(&statuses).map(|(entry, status)| row(entry, status)).collect();
    if args.json {
        output::print_json(&rows)?;
    } else {
        output::print(&table(&rows))?;
    }
    Ok(api::exit::STOPPED)
}

fn row<'a>(entry: &'a Entry, status: &'a Status) -> Row<'a> {
    let record = &entry.record;
    let age_ms = u64::try_from(entry.age().as_millis()).unwrap_or(u64::MAX);
    Row {
        id: &record.id,
        name: &record.name,
        status,
        vcpus: record.vcpus(),
        mem_mib: record.mem_mib(),
        created_unix_ms: record.created_unix_ms,
        uptime_ms: status.is_alive().then_some(age_ms),
        pid: record.process.as_ref().filter(|_| status.is_alive()).map(|process| process.pid),
        foreground: record.foreground,
        api_socket: record.api_socket.display().to_string(),
    }
}

fn table(rows: &[Row<'_>]) -> String {
    let mut lines = vec![["ID", "NAME", "STATUS", "CPUS", "MEMORY", "UPTIME"].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let uptime =
            row.uptime_ms.map_or_else(|| "-".to_owned(), |ms| in_words(Duration::from_millis(ms)));
        [
            row.id.to_owned(),
            row.name.to_owned(),
            row.status.describe(),
            row.vcpus.to_string(),
            format!("{} MiB", row.mem_mib),
            uptime,
        ]
    }));
    let widths: Vec<_> = (0..6)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<_> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}", cells.join("   ").trim_end());
    }
    text
}

/// A time as people say it: its largest unit, and the next below.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

pub(super) fn inspect(registry: &Registry, args: &InspectArgs) -> Result<u8, CliError> {
    let entries: Vec<_> =
        args.names.iter().map(|name| registry.find(name)).collect::<Result<_, _>>()?;
    let shown: Vec<_> = entries
        .iter()
        .map(|entry| Inspected {
            record: &entry.record,
            status: entry.status(),
            details: details(entry),
        })
        .collect();
    output::print_json(&shown)?;
    Ok(api::exit::STOPPED)
}

/// What the VMM says, if it lives and answers.
fn details(entry: &Entry) -> Option<api::ext::VmDetails> {
    entry.process()?;
    Connection::open(&entry.record.api_socket, super::ANSWER_LIMIT).ok()?.details().ok()
}

pub(super) fn rm(registry: &Registry, args: &RmArgs) -> Result<u8, CliError> {
    for name in &args.names {
        let mut entry = registry.find(name)?;
        if args.force {
            control::end(&mut entry)?;
        }
        registry.remove(&entry)?;
        removed(&entry, args.json)?;
    }
    Ok(api::exit::STOPPED)
}

pub(super) fn prune(registry: &Registry, args: &PruneArgs) -> Result<u8, CliError> {
    registry.sweep()?;
    let (entries, broken) = registry.scan()?;
    for entry in entries.iter().filter(|entry| !entry.is_alive()) {
        registry.remove(entry)?;
        removed(entry, args.json)?;
    }
    for broken in broken {
        broken.remove()?;
    }
    Ok(api::exit::STOPPED)
}

fn removed(entry: &Entry, as_json: bool) -> Result<(), CliError> {
    let (id, name) = (&entry.record.id, &entry.record.name);
    if as_json {
        output::print_line(&json!({ "id": id, "name": name }), &json!({ "removed": true }))
    } else {
        output::print(&format!("{name}\n"))
    }
}
