//! `cargo xtask test`: formatting, lints, unit tests, then guests booted for real.
//!
//! A test that finds that it can't run prints a line `SKIPPED: REASON` and returns: it is counted
//! as skipped, not as passed. Two reasons of `#[ignore = "REASON"]` have a meaning: `needs root: …`
//! has the test run as root where the guests run; `…: run alone by TEST` makes it a part of another.

mod libtest;
mod programs;
mod suites;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result};

use self::libtest::{Results, Sink};
use crate::packages::{self, Consent, Purpose};
use crate::progress::step;
use crate::{artifacts, dirs, process};

/// The crate of the suites that boot guests; they don't run by themselves.
const SUITES_CRATE: &str = "integration-tests";

/// How the reason begins for which a test is ignored that is run as root later.
const NEEDS_ROOT: &str = "needs root";

/// Command line of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only what boots no guest: formatting, lints, unit tests.
    #[arg(long, conflicts_with_all = ["suites", "filter", "native", "lab"])]
    unit: bool,

    /// Only this suite, one of the files in tests/tests, or `sys`: that crate's tests that need
    /// root. May be given more than once.
    #[arg(long = "suite", value_name = "NAME")]
    suites: Vec<String>,

    /// Only those tests of the suites whose names contain this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,

    /// Boot guests on this machine, whatever the probe says.
    #[arg(long, conflicts_with = "lab")]
    native: bool,

    /// Boot guests in the lab, whatever the probe says.
    #[arg(long)]
    lab: bool,

    /// Suites to run at once [default: one for each processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

/// Runs `cargo xtask test`.
///
/// # Errors
///
/// Fails when the tests can't be run; tests that fail become the exit code.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let logs = dirs::target().join("xtask/test-logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let mut results = Results::default();

    let purposes = if args.unit { &[Purpose::Tests] } else { packages::ALL };
    packages::install(purposes, Consent::Ask)?;
    let only_some_suites = !args.suites.is_empty() || args.filter.is_some();
    if !only_some_suites {
        check_sources(&logs, &mut results)?;
    }
    if !args.unit {
        let artifacts = artifacts::obtain_all()?;
        // They run now, as root.
        results.skipped.retain(|(_, reason)| !reason.starts_with(NEEDS_ROOT));
        suites::run(args, &artifacts, &logs, &mut results)?;
    }
    report(&results);
    Ok(if results.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Formatting, lints and unit tests.
fn check_sources(logs: &Path, results: &mut Results) -> Result<()> {
    let mut fmt = Command::new("cargo");
    fmt.args(["fmt", "--all", "--check"]);
    check("Formatting", fmt, &logs.join("fmt.log"), results)?;

    let mut clippy = Command::new("cargo");
    clippy.args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
    check("Lints", clippy, &logs.join("clippy.log"), results)?;

    unit_tests(&logs.join("unit.log"), results)
}

/// Runs a command that counts as one test.
fn check(title: &str, command: Command, log: &Path, results: &mut Results) -> Result<()> {
    let outcome = step(title, || run_logged(command, log));
    match outcome {
        Ok(()) => results.passed += 1,
        Err(error) => {
            let text = fs::read_to_string(log).unwrap_or_default();
            eprintln!("{error:#}{}", process::last_lines(&text, 60));
            results.fail(title, log);
        }
    }
    Ok(())
}

fn run_logged(mut command: Command, log: &Path) -> Result<()> {
    let file = fs::File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let errors = file.try_clone().context("cannot share a log file")?;
    command.current_dir(dirs::workspace()).stdout(file).stderr(errors);
    process::run_shown(&mut command)
}

fn unit_tests(log: &Path, results: &mut Results) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["test", "--workspace", "--exclude", SUITES_CRATE, "--locked", "--no-fail-fast"]);
    command.args(["--", "--show-output"]).current_dir(dirs::workspace());
    let sink = Sink::new("unit tests", log, false)?;
    let code = step("Unit tests", || run_parsed(command, &sink))?;
    results.add(sink.finish("unit tests", code, log));
    Ok(())
}

/// Runs a command whose output, standard output and error together, goes to `sink`.
fn run_parsed(mut command: Command, sink: &Sink) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| process::spawn_error(&command, error))?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    let stderr = child.stderr.take().context("standard error is piped")?;
    let mut errors = sink.for_errors();
    let mut out = sink.clone();
    thread::scope(|scope| {
        scope.spawn(move || copy(stderr, &mut errors));
        copy(stdout, &mut out);
    });
    let status = child.wait().context("cannot wait for the tests' end")?;
    Ok(if status.success() { String::new() } else { status.to_string() })
}

fn copy(mut from: impl io::Read, to: &mut impl Write) {
    // A log that can't be written shows in the results, which then lack a summary.
    let _ = io::copy(&mut from, to);
}

fn report(results: &Results) {
    for (name, reason) in &results.skipped {
        println!("skipped: {name}: {reason}");
    }
    for failure in results.failed.iter().filter(|failure| !failure.said.is_empty()) {
        println!("---- {} ----", failure.name);
        failure.said.iter().for_each(|line| println!("{line}"));
    }
    for failure in &results.failed {
        println!("failed: {} (see {})", failure.name, failure.log.display());
    }
    println!("{}", closing_line(results));
}

fn closing_line(results: &Results) -> String {
    let mut line = format!("{} passed, {} failed", results.passed, results.failed.len());
    if !results.skipped.is_empty() {
        line += &format!(", {} skipped", results.skipped.len());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_line_mentions_skipped_tests_only_if_there_are_any() {
        let mut results = Results { passed: 3, ..Results::default() };
        assert_eq!(closing_line(&results), "3 passed, 0 failed");
        results.skipped.push(("a".to_owned(), "b".to_owned()));
        assert_eq!(closing_line(&results), "3 passed, 0 failed, 1 skipped");
    }
}
