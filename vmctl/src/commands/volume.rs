//! `vmctl volume`.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use log::LevelFilter;
use runtime::{Engine, RuntimeError, Volume};
use serde_json::{Value, json};

use super::container::values::{env, names, times};
use super::container::{engine, for_each, pruned_text};
use super::inspect::{Shown, show};
use super::{confirm, stores};
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::filters::Filters;
use crate::format::{self, Columns, Row};
use crate::output;

/// The driver of all volumes.
const DRIVER: &str = "local";

/// The filters of `ls`.
const FILTERS: [&str; 5] = ["dangling", "driver", "label", "label!", "name"];

const COLUMNS: Columns = Columns {
    table: "{{.Driver}}\t{{.Name}}",
    titles: &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
    ],
};

/// Manage volumes.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    Create(CreateArgs),
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    Inspect(InspectArgs),
    Prune(PruneArgs),
}

/// Create a volume.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
struct CreateArgs {
    /// Specify volume driver name: there's only this one.
    #[arg(long, short, value_name = "DRIVER", default_value = DRIVER, value_parser = [DRIVER])]
    driver: String,

    /// Set metadata for a volume.
    #[arg(long, value_name = "LABEL", value_parser = env::label)]
    label: Vec<(String, String)>,

    /// The name; made up unless given.
    #[arg(value_name = "VOLUME", value_parser = names::name)]
    name: Option<String>,
}

/// List volumes.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
struct LsArgs {
    /// Provide filter values: dangling, driver, label, name, each =VALUE.
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,

    /// Format output: table, table TEMPLATE, json, or a Go template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Only display volume names.
    #[arg(long, short)]
    quiet: bool,
}

/// Remove one or more volumes.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
struct RmArgs {
    /// Do not fail if a volume does not exist.
    #[arg(long, short)]
    force: bool,

    /// The volumes.
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// Display detailed information on one or more volumes.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
struct InspectArgs {
    /// Format output: json, or a Go template.
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<String>,

    /// The volumes.
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// Remove unused local volumes.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
struct PruneArgs {
    /// Remove all unused volumes, not just anonymous ones.
    #[arg(long, short)]
    all: bool,

    /// Do not prompt for confirmation.
    #[arg(long, short)]
    force: bool,
}

/// Runs a command of `vmctl volume`; returns the exit code.
pub(crate) fn run(args: &VolumeArgs, level: LevelFilter) -> Result<u8, CliError> {
    let engine = engine(level)?;
    match &args.command {
        VolumeCommand::Create(args) => create(&engine, args),
        VolumeCommand::Ls(args) => ls(&engine, args),
        VolumeCommand::Rm(args) => rm(&engine, args),
        VolumeCommand::Inspect(args) => {
            show("volume", &args.volumes, args.format.as_deref(), |name| {
                volume_value(&engine, name)
            })
        }
        VolumeCommand::Prune(args) => prune(&engine, args),
    }
}

fn create(engine: &Engine, args: &CreateArgs) -> Result<u8, CliError> {
    let labels = args.label.iter().cloned().collect();
    let volume =
        engine.create_volume(args.name.as_deref(), &labels).map_err(ContainerError::from)?;
    output::print(&format!("{}\n", volume.name))?;
    Ok(api::exit::STOPPED)
}

fn ls(engine: &Engine, args: &LsArgs) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(ContainerError::from)?;
    let mut volumes = engine.volumes().map_err(ContainerError::from)?;
    volumes.retain(|volume| fits(volume, &filters));
    if let Some(dangling) = filters.truth("dangling").map_err(ContainerError::from)? {
        let used = used(engine)?;
        volumes.retain(|volume| used.contains(&volume.name) != dangling);
    }
    let text = if args.quiet && args.format.is_none() {
        volumes.iter().map(|volume| format!("{}\n", volume.name)).collect()
    } else {
        let rows: Vec<_> = volumes.iter().map(row).collect();
        COLUMNS.render(&rows, args.format.as_deref()).map_err(ContainerError::from)?
    };
    output::print(&text)?;
    Ok(api::exit::STOPPED)
}

/// The volumes that containers have mounted, or would have if they ran.
fn used(engine: &Engine) -> Result<BTreeSet<String>, ContainerError> {
    Ok(stores::containers(engine)?.into_iter().flat_map(|state| state.summary.mounts).collect())
}

fn fits(volume: &Volume, filters: &Filters) -> bool {
    filters.fits_name(&volume.name)
        && filters.fits("driver", |driver| driver == DRIVER)
        && filters.fits_labels(&volume.labels)
}

fn row(volume: &Volume) -> Row {
    let mut row = json!({
        "Name": volume.name,
        "Driver": DRIVER,
        "Scope": "local",
        "Mountpoint": volume.mountpoint.to_string_lossy(),
    });
    format::add_labels(&mut row, volume.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    row
}

fn rm(engine: &Engine, args: &RmArgs) -> Result<u8, CliError> {
    for_each(&args.volumes, |name| {
        engine.remove_volume(name, args.force).map_err(ContainerError::from)?;
        output::print(&format!("{name}\n"))
    })
}

/// What's known of a volume, as JSON.
pub(crate) fn volume_value(engine: &Engine, name: &str) -> Shown {
    match engine.volume(name) {
        Ok(volume) => Ok(Some(value(&volume))),
        // What's no volume's name may be something else's.
        Err(RuntimeError::NotFound { .. } | RuntimeError::Invalid { .. }) => Ok(None),
        Err(error) => Err(ContainerError::from(error).into()),
    }
}

/// Docker's shape.
fn value(volume: &Volume) -> Value {
    json!({
        "CreatedAt": times::rfc3339(volume.created),
        "Driver": DRIVER,
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint.to_string_lossy(),
        "Name": volume.name,
        "Options": null,
        "Scope": "local",
    })
}

fn prune(engine: &Engine, args: &PruneArgs) -> Result<u8, CliError> {
    let which = if args.all { "all local volumes" } else { "anonymous local volumes" };
    let warning = format!("This will remove {which} not used by at least one container.");
    if !args.force && !confirm(&warning)? {
        return Ok(api::exit::STOPPED);
    }
    let pruned = engine.prune_volumes(args.all).map_err(ContainerError::from)?;
    output::print(&pruned_text("Deleted Volumes:", &pruned))?;
    Ok(api::exit::STOPPED)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use super::*;

    fn volume() -> Volume {
        Volume {
            name: "data".to_owned(),
            mountpoint: "/v/data".into(),
            created: SystemTime::UNIX_EPOCH,
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            anonymous: false,
        }
    }

    #[test]
    fn table_is_dockers() {
        let rows = [row(&volume())];
        let expected = "DRIVER    VOLUME NAME\nlocal     data\n";
        assert_eq!(COLUMNS.render(&rows, None).unwrap(), expected);
        let text = COLUMNS.render(&rows, Some("{{.Mountpoint}} {{.Label \"a\"}}")).unwrap();
        assert_eq!(text, "/v/data b\n");
    }

    #[test]
    fn volume_is_shown_in_dockers_shape() {
        let value = value(&volume());
        assert_eq!(value["Mountpoint"], "/v/data");
        assert_eq!(value["CreatedAt"], "1970-01-01T00:00:00.000000000Z");
    }

    #[test]
    fn filters_choose_volumes() {
        for (filter, expected) in [
            ("name=at", true),
            ("name=x", false),
            ("driver=local", true),
            ("driver=nfs", false),
            ("label=a", true),
            ("label!=a", false),
        ] {
            let filters = Filters::parse(&[filter.to_owned()], &FILTERS).unwrap();
            assert_eq!(fits(&volume(), &filters), expected, "{filter}");
        }
    }
}
