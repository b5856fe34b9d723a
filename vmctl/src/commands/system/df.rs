//! `vmctl system df`.

use clap::Args;
use runtime::{DiskUsage, Engine, Usage};
use serde_json::json;

use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::{Columns, Row, human};
use crate::output;

const COLUMNS: Columns = Columns {
    table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    titles: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
};

/// Show disk usage of images, containers, volumes and warm templates.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(super) struct DfArgs {
    /// Format output: table, table TEMPLATE, json, or a Go template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(super) fn run(engine: &Engine, args: &DfArgs) -> Result<u8, CliError> {
    let usage = engine.disk_usage().map_err(ContainerError::from)?;
    let text = COLUMNS.render(&rows(&usage), args.format.as_deref());
    output::print(&text.map_err(ContainerError::from)?)?;
    Ok(api::exit::STOPPED)
}

fn rows(usage: &DiskUsage) -> Vec<Row> {
    let sorts = [
        ("Images", usage.images),
        ("Containers", usage.containers),
        ("Local Volumes", usage.volumes),
        ("Templates", usage.templates),
    ];
    sorts.iter().map(|(name, usage)| row(name, usage)).collect()
}

fn row(name: &str, usage: &Usage) -> Row {
    json!({
        "Type": name,
        "TotalCount": usage.total.to_string(),
        "Active": usage.active.to_string(),
        "Size": human::size(usage.size_bytes),
        "Reclaimable": reclaimable(usage),
    })
}

/// How much that is, and of what share.
fn reclaimable(usage: &Usage) -> String {
    let size = human::size(usage.reclaimable_bytes);
    let percent = u128::from(usage.reclaimable_bytes) * 100;
    match percent.checked_div(u128::from(usage.size_bytes)) {
        Some(percent) => format!("{size} ({percent}%)"),
        None => size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_dockers() {
        let images =
            Usage { total: 3, active: 1, size_bytes: 2_000_000, reclaimable_bytes: 1_500_000 };
        let usage = DiskUsage { images, ..DiskUsage::default() };
        let expected = "\
            TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE\n\
            Images          3         1         2MB       1.5MB (75%)\n\
            Containers      0         0         0B        0B\n\
            Local Volumes   0         0         0B        0B\n\
            Templates       0         0         0B        0B\n";
        assert_eq!(COLUMNS.render(&rows(&usage), None).unwrap(), expected);
    }
}
