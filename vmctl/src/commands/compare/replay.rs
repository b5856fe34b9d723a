//! Reports that were saved.

use std::fs;
use std::path::Path;

use compare::diff;
use compare::model::Report;
use compare::report::schema;

use crate::errors::CliError;
use crate::errors::compare::CompareError;
use crate::output;

/// The most bytes of a report: hundreds of runs in all ways are a few MiB.
const MOST_BYTES: u64 = 64 << 20;

/// The width of the differences' text.
const WIDTH: usize = 80;

pub(super) fn schema() -> Result<u8, CliError> {
    output::print(&schema::document())?;
    Ok(api::exit::STOPPED)
}

/// Reads a report: it may be somebody else's.
pub(super) fn read(path: &Path) -> Result<Report, CliError> {
    let unreadable = |source| CompareError::Unreadable { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MOST_BYTES {
        let problem = format!("{bytes} bytes are more than a report has");
        return Err(CompareError::NoReport { path: path.to_owned(), problem }.into());
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    Report::from_json(&text)
        .map_err(|problem| CompareError::NoReport { path: path.to_owned(), problem }.into())
}

/// Says what changed; 1 for a regression.
pub(super) fn diff(old: &Path, new: &Path, threshold: f64, json: bool) -> Result<u8, CliError> {
    let diff = diff::diff(&read(old)?, &read(new)?, threshold / 100.0);
    if json {
        output::print_json(&diff)?;
    } else {
        output::print(&diff.to_text(WIDTH))?;
    }
    Ok(if diff.regressed() { api::exit::FAILURE } else { api::exit::STOPPED })
}
