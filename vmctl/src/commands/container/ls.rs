//! `vmctl ps`.

mod ports;
mod status;

use std::time::SystemTime;

use clap::Args;
use runtime::{Engine, ListOptions, State};
use serde_json::json;

use super::values::times;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::filters::Filters;
use crate::format::{self, Columns, Row, human};
use crate::output;

/// How much of a command is shown.
const COMMAND_CHARS: usize = 20;

/// The filters that there are.
const FILTERS: [&str; 13] = [
    "id", "name", "label", "exited", "status", "ancestor", "before", "since", "volume", "network",
    "publish", "expose", "health",
];

const COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    titles: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("State", "STATE"),
        ("Status", "STATUS"),
        ("Ports", "PORTS"),
        ("Names", "NAMES"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Networks", "NETWORKS"),
    ],
};

/// List containers.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct LsArgs {
    /// Show all containers (default shows just running).
    #[arg(long, short)]
    all: bool,

    /// Filter output: id, name, label, exited, status, ancestor, before, since, volume, network,
    /// publish, expose, health, each =VALUE.
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,

    /// Format output: table, table TEMPLATE, json, or a Go template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Show n last created containers (includes all states).
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = -1,
        allow_negative_numbers = true)]
    last: i64,

    /// Show the latest created container (includes all states).
    #[arg(long, short)]
    latest: bool,

    /// Don't truncate output.
    #[arg(long)]
    no_trunc: bool,

    /// Only display container IDs.
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(engine: &Engine, args: &LsArgs) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(ContainerError::from)?;
    let last = if args.latest { Some(1) } else { usize::try_from(args.last).ok() };
    let options = ListOptions { all: args.all, filters: filters.values().clone(), last };
    let listed = engine.list(&options).map_err(ContainerError::from)?;
    if args.quiet && args.format.is_none() {
        let ids = listed.iter().map(|listed| format!("{}\n", id(&listed.state, args.no_trunc)));
        output::print(&ids.collect::<String>())?;
        return Ok(api::exit::STOPPED);
    }
    let now = SystemTime::now();
    let rows: Vec<_> = listed.iter().map(|listed| row(&listed.state, args.no_trunc, now)).collect();
    let text = COLUMNS.render(&rows, args.format.as_deref()).map_err(ContainerError::from)?;
    output::print(&text)?;
    Ok(api::exit::STOPPED)
}

fn id(state: &State, whole: bool) -> &str {
    if whole { &state.summary.id } else { human::short_id(&state.summary.id) }
}

fn row(state: &State, whole: bool, now: SystemTime) -> Row {
    let summary = &state.summary;
    let cut =
        |text: &str| if whole { text.to_owned() } else { human::ellipsis(text, COMMAND_CHARS) };
    let volumes = summary.mounts.iter().filter(|source| !source.starts_with('/')).count();
    let mounts: Vec<_> = summary.mounts.iter().map(|source| cut(source)).collect();
    let mut row = json!({
        "ID": id(state, whole),
        "Image": image(summary, whole),
        "Command": format!("{:?}", cut(&summary.command.join(" "))),
        "CreatedAt": times::stamp(summary.created),
        "RunningFor": human::ago(summary.created, now),
        "State": state.status.as_str(),
        "Status": status::in_words(state, now),
        // Those of a container that doesn't run lead nowhere.
        "Ports": if state.status.is_active() { ports::in_words(&summary.ports) } else { String::new() },
        "Names": summary.name,
        "Mounts": mounts.join(","),
        "LocalVolumes": volumes.to_string(),
        "Networks": summary.networks.join(","),
    });
    format::add_labels(&mut row, summary.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    row
}

/// The image as it was named, an identifier shortened.
fn image(summary: &runtime::Summary, whole: bool) -> &str {
    let is_id = summary.image_id == summary.image
        || summary.image_id.strip_prefix("sha256:") == Some(summary.image.as_str());
    if is_id && !whole { human::short_id(&summary.image) } else { &summary.image }
}

#[cfg(test)]
mod tests;
