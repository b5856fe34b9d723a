//! `vmctl doctor`: what this host can do, and what to do about what it can't.

mod checks;

use api::host::HostReport;
use clap::Args;

use self::checks::{Check, Level, checks};
use crate::errors::CliError;
use crate::{output, vmm_process};

/// Shows what this host can do, and what to do about what it can't.
///
/// The exit code is 0 if it can run Linux guests, else 1.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Prints the facts as JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// Probes the host and prints what was found.
pub(crate) fn run(args: &DoctorArgs) -> Result<u8, CliError> {
    let report = vmm_process::probe_host()?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&table(&report))?;
    }
    Ok(if report.linux_guests.can_run { api::exit::STOPPED } else { api::exit::FAILURE })
}

fn table(report: &HostReport) -> String {
    let checks = checks(report);
    let name_width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Check { name, level, found, advice } in &checks {
        let mark = match level {
            Level::Ok => "ok  ",
            Level::Note => "note",
            Level::Missing => "MISS",
        };
        text.push_str(&format!("{mark}  {name:name_width$}  {found}\n"));
        if let Some(advice) = advice {
            text.push_str(&format!("      {:name_width$}  -> {advice}\n", ""));
        }
    }
    let answer = if report.linux_guests.can_run { "yes" } else { "no" };
    text.push_str(&format!(
        "\ncan run Linux guests: {answer}, because {}\n",
        report.linux_guests.because
    ));
    text
}
