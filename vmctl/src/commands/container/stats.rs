//! `vmctl stats`.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::{Duration, SystemTime};

use clap::Args;
use runtime::{Engine, ListOptions, Stats};
use serde_json::json;

use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::{Columns, Row, human};
use crate::output;

/// How long CPU time is measured for.
const INTERVAL: Duration = Duration::from_secs(1);

/// Moves to the upper left corner and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[J";

const COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    titles: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
        ("HostCPUPerc", "HOST CPU %"),
        ("HostMem", "HOST MEM"),
    ],
};

/// Display a live stream of container(s) resource usage statistics.
///
/// What the container's processes use is shown as Docker shows it. What its virtual machine uses of
/// the host, kernel and devices included, is in the fields HostCPUPerc and HostMem of --format.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct StatsArgs {
    /// Show all containers (default shows just running).
    #[arg(long, short)]
    all: bool,

    /// Format output: table, table TEMPLATE, json, or a Go template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Disable streaming stats and only pull the first result.
    #[arg(long)]
    no_stream: bool,

    /// Do not truncate output.
    #[arg(long)]
    no_trunc: bool,

    /// The containers; all that run unless given.
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(super) fn run(engine: &Engine, args: &StatsArgs) -> Result<u8, CliError> {
    let clears = !args.no_stream && args.format.is_none() && io::stdout().is_terminal();
    let mut before = measure(engine, &references(engine, args)?)?;
    loop {
        // Nothing tells of use: it's the difference between two looks.
        thread::sleep(INTERVAL);
        let now = measure(engine, &references(engine, args)?)?;
        let rows: Vec<_> = now.iter().map(|stats| row(stats, &before, args.no_trunc)).collect();
        let text = COLUMNS.render(&rows, args.format.as_deref()).map_err(ContainerError::from)?;
        output::print(&if clears { format!("{CLEAR}{text}") } else { text })?;
        if args.no_stream {
            return Ok(api::exit::STOPPED);
        }
        before = now;
    }
}

/// The containers to look at.
fn references(engine: &Engine, args: &StatsArgs) -> Result<Vec<String>, ContainerError> {
    if !args.containers.is_empty() {
        return Ok(args.containers.clone());
    }
    let listed = engine.list(&ListOptions { all: args.all, ..ListOptions::default() })?;
    Ok(listed.into_iter().map(|listed| listed.state.summary.id).collect())
}

/// Looks at all of them at once: each one's agent takes its time.
fn measure(engine: &Engine, references: &[String]) -> Result<Vec<Stats>, ContainerError> {
    thread::scope(|scope| {
        let looks: Vec<_> =
            references.iter().map(|name| scope.spawn(|| engine.stats(name))).collect();
        let stats = looks.into_iter().map(|look| match look.join() {
            Ok(stats) => stats.map_err(ContainerError::from),
            Err(panic) => std::panic::resume_unwind(panic),
        });
        stats.collect()
    })
}

fn row(stats: &Stats, before: &[Stats], whole: bool) -> Row {
    let earlier = before.iter().find(|earlier| earlier.id == stats.id);
    let span = earlier.and_then(|earlier| span(earlier.read, stats.read));
    let percent = |used: fn(&Stats) -> u64| match (earlier, span) {
        (Some(earlier), Some(span)) => {
            share(used(stats).saturating_sub(used(earlier)), duration_ns(span))
        }
        _ => "0.00%".to_owned(),
    };
    let id = if whole { stats.id.as_str() } else { human::short_id(&stats.id) };
    let pair = |a, b| format!("{} / {}", human::size(a), human::size(b));
    json!({
        "Container": id,
        "ID": id,
        "Name": stats.name,
        "CPUPerc": percent(|stats| stats.cpu_total_ns),
        "MemUsage": format!(
            "{} / {}",
            human::memory(stats.memory_bytes),
            human::memory(stats.memory_limit_bytes)
        ),
        "MemPerc": share(stats.memory_bytes, stats.memory_limit_bytes),
        "NetIO": pair(stats.net_rx_bytes, stats.net_tx_bytes),
        "BlockIO": pair(stats.block_read_bytes, stats.block_write_bytes),
        "PIDs": stats.pids.to_string(),
        "HostCPUPerc": percent(|stats| stats.host_cpu_ns),
        "HostMem": human::memory(stats.host_memory_bytes),
    })
}

fn span(from: Option<SystemTime>, to: Option<SystemTime>) -> Option<Duration> {
    to?.duration_since(from?).ok().filter(|span| !span.is_zero())
}

fn duration_ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A part of a whole in percent.
#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn share(part: u64, whole: u64) -> String {
    let percent = if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
    format!("{percent:.2}%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_the_difference_between_two_looks() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let earlier =
            Stats { id: "a".repeat(64), read: at(10), cpu_total_ns: 5, ..Stats::default() };
        let later = Stats {
            read: at(12),
            cpu_total_ns: 3_000_000_005,
            memory_bytes: 64 << 20,
            memory_limit_bytes: 256 << 20,
            net_rx_bytes: 1500,
            pids: 3,
            ..earlier.clone()
        };
        let table = COLUMNS.render(&[row(&later, &[earlier], false)], None).unwrap();
        let line = table.lines().nth(1).unwrap();
        let expected =
            ["aaaaaaaaaaaa", "150.00%", "64MiB / 256MiB", "25.00%", "1.5kB / 0B", "0B / 0B", "3"];
        let cells: Vec<_> =
            line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, expected);
    }

    #[test]
    fn first_look_and_clocks_that_stand_still_show_no_use() {
        let stats = Stats { id: "b".to_owned(), cpu_total_ns: 9, ..Stats::default() };
        assert_eq!(row(&stats, &[], false)["CPUPerc"], "0.00%");
        assert_eq!(row(&stats, std::slice::from_ref(&stats), false)["CPUPerc"], "0.00%");
        assert_eq!(row(&stats, &[], false)["MemPerc"], "0.00%");
    }
}
