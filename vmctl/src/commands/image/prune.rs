//! `vmctl image prune`.

use std::time::SystemTime;

use clap::Args;
use image::{Image, Removal};
use runtime::Engine;

use super::inspect::labels;
use super::rm::removed_text;
use crate::commands::container::values::times;
use crate::commands::{confirm, stores};
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::filters::{FilterError, Filters};
use crate::format::human;
use crate::output;

/// The filters that there are.
pub(crate) const FILTERS: [&str; 3] = ["until", "label", "label!"];

/// Remove unused images.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct PruneArgs {
    /// Remove all unused images, not just those without a name.
    #[arg(long, short)]
    all: bool,

    /// Do not prompt for confirmation.
    #[arg(long, short)]
    force: bool,

    /// Provide filter values: until=TIME, label=NAME[=VALUE], label!=NAME[=VALUE].
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

pub(super) fn run(engine: &Engine, args: &PruneArgs) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(ContainerError::from)?;
    let warning = if args.all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    if !args.force && !confirm(warning)? {
        return Ok(api::exit::STOPPED);
    }
    let removal = remove_unused(engine, args.all, &filters)?;
    output::print(&text(&removal))?;
    let freed = human::size(removal.freed_bytes);
    output::print(&format!("Total reclaimed space: {freed}\n"))?;
    Ok(api::exit::STOPPED)
}

/// What a prune has removed.
pub(crate) fn text(removal: &Removal) -> String {
    match removed_text(removal, "u", "d") {
        text if text.is_empty() => text,
        text => format!("Deleted Images:\n{text}\n"),
    }
}

/// Removes images that no container uses: those without a name, with `all` every one, as far as
/// the filters `until` and `label` let them.
pub(crate) fn remove_unused(
    engine: &Engine,
    all: bool,
    filters: &Filters,
) -> Result<Removal, ContainerError> {
    let until = until(filters)?;
    let users = stores::users(engine)?;
    let is_wanted = |image: &Image| {
        until.is_none_or(|until| image.created.is_none_or(|created| created < until))
            && filters.fits_labels(&labels(image))
    };
    let user = |id: &str| users.get(id).cloned();
    let removal = stores::images(engine)?.prune(all, &is_wanted, &user)?;
    super::rm::note(engine, &removal);
    Ok(removal)
}

/// The moment of `until=`.
pub(super) fn until(filters: &Filters) -> Result<Option<SystemTime>, FilterError> {
    let Some(text) = filters.get("until").last() else { return Ok(None) };
    times::moment(text).map(Some).map_err(|problem| FilterError::BadValue {
        name: "until",
        value: text.clone(),
        problem,
    })
}
