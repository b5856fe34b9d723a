//! Ctrl-C.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use integration_tests::vm::signal_process;
use rustix::process::Signal;

use crate::support::host;

#[test]
fn an_interrupt_leaves_nothing_behind_and_prints_what_there_is() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    let mut command = host.command([
        "compare",
        "--workload",
        "start,cpu",
        "--runs",
        "1",
        "--warm-ups",
        "0",
        "--scale",
        "1000",
        "--only",
        "container,microvm-warm",
        "busybox",
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut errors = BufReader::new(child.stderr.take().context("standard error")?).lines();
    let mut said = Vec::new();
    // Then the starts have been measured, and the endless loop has begun.
    while !said.iter().any(|line: &String| line.contains("Measuring: cpu")) {
        said.push(errors.next().with_context(|| format!("it ended: {said:#?}"))??);
    }
    // Another one at the same time is refused.
    let error = host.fails("compare busybox", 1)?;
    ensure!(error.contains("another comparison runs"), "{error}");

    signal_process(child.id(), Signal::INT)?;
    let mut text = String::new();
    child.stdout.take().context("standard output")?.read_to_string(&mut text)?;
    let status = child.wait()?;
    println!("{text}");
    ensure!(status.code() == Some(130), "{status}: {text}");
    ensure!(text.contains("start, first byte"), "what there is: {text}");

    ensure!(host.ok("ps --all --quiet")?.is_empty());
    ensure!(!host.path("data/compare/work").exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains("compare/work"), "{mounts}");
    let namespaces = fs::read_dir("/run/netns").map(Iterator::count).unwrap_or(0);
    ensure!(namespaces == 0, "{namespaces} network namespaces");
    ensure!(!fs::exists("/sys/fs/cgroup/vmctl-compare")?);
    let images = host.ok("images --all --quiet")?;
    ensure!(images.lines().count() == 1, "the image with our program in it: {images}");
    Ok(())
}
