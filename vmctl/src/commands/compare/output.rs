//! Where a report goes. That it can go there is known before anything is measured.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use compare::model::Report;
use compare::report::terminal::{self, TableOptions};
use compare::report::{csv, html};

use super::CompareArgs;
use crate::errors::CliError;
use crate::errors::compare::CompareError;
use crate::output;

/// The width of whatever is no terminal.
const WIDTH: usize = 80;

/// Where a report goes.
#[derive(Debug)]
pub(super) struct Outputs {
    html: Option<PathBuf>,
    save: Option<PathBuf>,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Table,
    Json,
    Csv,
}

impl Outputs {
    /// Sees that all of it can be written.
    pub(super) fn new(args: &CompareArgs) -> Result<Self, CliError> {
        for path in [&args.html, &args.save].into_iter().flatten() {
            check(path)?;
        }
        let format = match (args.json, args.csv) {
            (true, _) => Format::Json,
            (_, true) => Format::Csv,
            _ => Format::Table,
        };
        Ok(Self { html: args.html.clone(), save: args.save.clone(), format })
    }

    pub(super) fn write(&self, report: &Report) -> Result<(), CliError> {
        if let Some(path) = &self.save {
            let mut text = serde_json::to_string_pretty(report)
                .map_err(|error| CliError::Output(io::Error::from(error)))?;
            text.push('\n');
            fs::write(path, text).map_err(unwritable(path))?;
        }
        if let Some(path) = &self.html {
            fs::write(path, html::page(report)).map_err(unwritable(path))?;
        }
        match self.format {
            Format::Json => output::print_json(report),
            Format::Csv => {
                let mut text = Vec::new();
                csv::write(report, &mut text)
                    .map_err(|error| CliError::Output(io::Error::other(error)))?;
                output::print(&String::from_utf8_lossy(&text))
            }
            Format::Table => output::print(&terminal::table(report, &options())),
        }
    }
}

/// Opens it for writing, without changing what's there.
fn check(path: &Path) -> Result<(), CliError> {
    let existed = path.exists();
    let opened: io::Result<File> =
        OpenOptions::new().write(true).create(true).truncate(false).open(path);
    opened.map_err(unwritable(path))?;
    if !existed {
        // Made for the trial only: a comparison may be ended before there's a report.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CompareError::Unwritable { path, source }.into()
}

fn options() -> TableOptions {
    let stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    let columns = rustix::termios::tcgetwinsize(&stdout)
        .map_or(WIDTH, |size| usize::from(size.ws_col).max(WIDTH));
    TableOptions {
        width: if is_terminal { columns } else { WIDTH },
        color: is_terminal && variable("NO_COLOR").is_empty(),
        unicode: is_unicode(),
    }
}

/// Whether whoever reads has more than ASCII.
pub(crate) fn is_unicode() -> bool {
    // POSIX's order of what says how text is written.
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].map(variable);
    let locale = locale.iter().find(|value| !value.is_empty());
    locale.is_none_or(|value| value.to_ascii_uppercase().replace('-', "").contains("UTF8"))
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}
