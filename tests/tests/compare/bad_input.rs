//! What's known before the first run.

use std::fs;

use anyhow::{Result, ensure};

use crate::support::{compare, host, median};

#[test]
fn images_commands_and_files_that_are_not_there_are_said_at_once() -> Result<()> {
    let host = host()?;
    let error = host.fails("compare no-such-image", 1)?;
    ensure!(error.contains("no-such-image") && !error.contains("Measuring"), "{error}");
    host.ok("pull busybox")?;
    let error = host.fails("compare busybox -- no-such-command", 1)?;
    ensure!(error.contains("no command \"no-such-command\""), "{error}");
    ensure!(!error.contains("Measuring"), "{error}");
    let error = host.fails("compare --html /no/such/directory/page.html busybox", 1)?;
    ensure!(error.contains("/no/such/directory/page.html can't be written"), "{error}");
    ensure!(!error.contains("Measuring"), "{error}");
    // Nothing was left by the trial of a file that can be written.
    let page = host.path("never.html");
    host.fails(&format!("compare --html {} no-such-image", page.display()), 1)?;
    ensure!(!page.exists());
    Ok(())
}

#[test]
fn a_runtime_that_is_not_there_is_said_and_the_rest_goes_on() -> Result<()> {
    let host = host()?;
    let report = compare(
        &host,
        "--runtime no-such-runtime --only container,microvm-warm --workload start --runs 1 \
         --warm-ups 0 busybox",
    )?;
    let failure = report["ways"][0]["failure"].as_str().unwrap_or_default();
    ensure!(failure.contains("apt install no-such-runtime"), "{failure}");
    ensure!(median(&report, "start.first-byte", "microvm-warm")? > 0.0);
    host.fails("compare --runtime no-such-runtime --only container busybox", 1)?;
    Ok(())
}

#[test]
fn a_command_that_fails_is_a_failure_of_its_ways_and_not_of_the_comparison() -> Result<()> {
    let host = host()?;
    let line =
        "--only container,microvm-warm --workload start --runs 1 --warm-ups 0 busybox -- false";
    let report = compare(&host, line)?;
    for way in ["container", "microvm-warm"] {
        let cell = crate::support::cell(&report, "start.first-byte", way)?;
        ensure!(cell["outcome"] == "failed", "{cell}");
        ensure!(cell["reason"].as_str().is_some_and(|it| it.contains("exit code 1")), "{cell}");
    }
    Ok(())
}

#[test]
fn reports_that_are_none_are_refused() -> Result<()> {
    let host = host()?;
    for (name, text) in [
        ("empty.json", ""),
        ("other.json", "{\"format\": \"vmctl-compare/999\"}"),
        ("wrong.json", "{\"format\": \"vmctl-compare/1\", \"rows\": 5}"),
        ("deep.json", &"[".repeat(100_000)),
    ] {
        let file = host.path(name);
        fs::write(&file, text)?;
        let error = host.fails(&format!("compare --from {}", file.display()), 1)?;
        ensure!(error.contains("is no report of vmctl compare"), "{error}");
    }
    host.fails("compare --from /no/such/report.json", 1)?;
    host.fails("compare", 2)?;
    host.fails("compare --diff one.json", 2)?;
    host.fails("compare --workload everything busybox", 2)?;
    host.fails("compare --runs 0 busybox", 2)?;
    Ok(())
}
