//! `vmctl history`.

use std::time::SystemTime;

use clap::{ArgAction, Args};
use image::{HistoryEntry, Image, Images};
use serde_json::json;

use crate::commands::container::values::times;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::{Columns, Row, human};
use crate::output;

/// How much of an instruction is shown.
const INSTRUCTION_CHARS: usize = 45;

/// What's shown in place of an intermediate image.
const MISSING: &str = "<missing>";

const COLUMNS: Columns = Columns {
    table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    titles: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
};

const PLAIN: Columns = Columns {
    table: "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    ..COLUMNS
};

/// Show the history of an image.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct HistoryArgs {
    /// Format output: table, table TEMPLATE, json, or a Go template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Print sizes and dates in human readable format.
    #[arg(long, short = 'H', value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    human: bool,

    /// Don't truncate output.
    #[arg(long)]
    no_trunc: bool,

    /// Only show image IDs.
    #[arg(long, short)]
    quiet: bool,

    /// The image.
    image: String,
}

pub(super) fn run(images: &Images, args: &HistoryArgs) -> Result<u8, CliError> {
    let image = images.find(&args.image).map_err(ContainerError::from)?.image;
    let rows = rows(&image, args, SystemTime::now());
    let text = if args.quiet && args.format.is_none() {
        rows.iter().filter_map(|row| Some(format!("{}\n", row["ID"].as_str()?))).collect()
    } else {
        let columns = if args.human { COLUMNS } else { PLAIN };
        columns.render(&rows, args.format.as_deref()).map_err(ContainerError::from)?
    };
    output::print(&text)?;
    Ok(api::exit::STOPPED)
}

/// The steps, the newest first.
fn rows(image: &Image, args: &HistoryArgs, now: SystemTime) -> Vec<Row> {
    let history = with_all_layers(image);
    let mut sizes = image.layer_bytes.iter();
    let mut rows: Vec<_> = history
        .iter()
        .map(|step| {
            let size = if step.empty_layer { 0 } else { sizes.next().copied().unwrap_or(0) };
            row(step, size, args, now)
        })
        .collect();
    rows.reverse();
    if let Some(newest) = rows.first_mut() {
        let id = if args.no_trunc { &image.id } else { human::short_id(&image.id) };
        newest["ID"] = id.into();
    }
    rows
}

/// The history; layers that it doesn't tell of came first.
fn with_all_layers(image: &Image) -> Vec<HistoryEntry> {
    let told = image.config.history.iter().filter(|step| !step.empty_layer).count();
    let untold = image.layer_bytes.len().saturating_sub(told);
    let mut history = vec![HistoryEntry::default(); untold];
    history.extend(image.config.history.iter().cloned());
    history
}

fn row(step: &HistoryEntry, size: u64, args: &HistoryArgs, now: SystemTime) -> Row {
    let by = step.created_by.as_deref().unwrap_or_default();
    let by = if args.no_trunc { by.to_owned() } else { human::ellipsis(by, INSTRUCTION_CHARS) };
    let stamp = step.created.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let created = stamp.map(SystemTime::from);
    json!({
        "ID": MISSING,
        "CreatedSince": created.map_or("N/A".to_owned(), |created| human::ago(created, now)),
        "CreatedAt": created.map_or("N/A".to_owned(), times::stamp),
        "CreatedBy": by,
        "Size": if args.human { human::size(size) } else { size.to_string() },
        "Comment": step.comment.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ls::tests::image;
    use super::*;

    fn args() -> HistoryArgs {
        HistoryArgs { format: None, human: true, no_trunc: false, quiet: false, image: "x".into() }
    }

    fn step(by: &str, empty_layer: bool) -> HistoryEntry {
        HistoryEntry {
            created: Some("2023-11-14T22:13:20Z".to_owned()),
            created_by: Some(by.to_owned()),
            comment: Some("c".to_owned()),
            empty_layer,
            ..HistoryEntry::default()
        }
    }

    #[test]
    fn table_is_dockers_the_newest_step_first() {
        let mut image = image("nginx", 5);
        image.config.history =
            vec![step("ADD file", false), step("CMD [\"sh\"]", true), step(&"x".repeat(50), false)];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_120);
        let text = COLUMNS.render(&rows(&image, &args(), now), None).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("IMAGE          CREATED         CREATED BY"), "{text}");
        assert!(lines[1].starts_with("0123456789ab   2 minutes ago   xxx"), "{text}");
        assert!(lines[1].contains("x…   654kB     c"), "{text}");
        assert!(lines[2].starts_with("<missing>      2 minutes ago   CMD [\"sh\"]"), "{text}");
        assert!(lines[2].contains("0B"), "{text}");
        assert!(lines[3].contains("ADD file") && lines[3].contains("187MB"), "{text}");
    }

    #[test]
    fn layers_without_history_and_steps_without_layers_are_shown() {
        let mut image = image("nginx", 5);
        assert_eq!(rows(&image, &args(), SystemTime::now()).len(), 2);
        image.config.history = vec![step("a", false), step("b", false), step("c", false)];
        let rows = rows(&image, &HistoryArgs { human: false, ..args() }, SystemTime::now());
        let sizes: Vec<_> = rows.iter().map(|row| row["Size"].clone()).collect();
        assert_eq!(sizes, ["0", "654321", "187000000"]);
    }

    #[test]
    fn dates_that_are_none_are_left_out() {
        let mut image = image("nginx", 5);
        image.config.history = vec![step("a", true)];
        image.config.history[0].created = Some("yesterday".to_owned());
        assert_eq!(rows(&image, &args(), SystemTime::now())[0]["CreatedSince"], "N/A");
    }
}
