//! Ctrl-C.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::containers::Host;
use integration_tests::vm::signal_process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::Signal;

use crate::support::{compare, host, median};

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
    let errors = child.stderr.take().context("standard error")?;
    // Then the starts have been measured, and the endless loop has begun.
    wait_for(errors, "Measuring: cpu")?;
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

    nothing_is_left(&host)
}

#[test]
fn what_a_killed_comparison_has_left_goes_with_the_next_one() -> Result<()> {
    let host = host()?;
    host.ok("pull nginx")?;
    let mut command = host.command(["compare", "--workload", "web", "--scale", "1000"]);
    command.args(["--runs", "1", "--warm-ups", "0", "--only", "container", "nginx"]);
    let states = Path::new("/run/crun");
    fs::create_dir_all(states)?;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, states, inotify::WatchFlags::CREATE)?;
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let container = states.join(next_name(&watch)?);
    // Written once there is a container.
    inotify::add_watch(&watch, &container, inotify::WatchFlags::ALL_EVENTS)?;
    while !container.join("status").exists() {
        next_name(&watch)?;
    }
    child.kill()?;
    child.wait()?;
    ensure!(fs::exists("/sys/fs/cgroup/vmctl-compare")?, "nothing was left to be removed");

    let line = "--workload start --runs 1 --warm-ups 0 --only container nginx";
    let report = compare(&host, line)?;
    ensure!(median(&report, "start.ready.cpu", "container")? > 0.0);
    nothing_is_left(&host)
}

/// Waits for the next event; returns the name that it's about.
fn next_name(watch: &OwnedFd) -> Result<String> {
    let left = Timespec { tv_sec: PATIENCE.as_secs().try_into()?, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&left))?;
    ensure!(ready == 1, "nothing happened within {PATIENCE:?}");
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let event = reader.next()?;
    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(name.unwrap_or_default())
}

/// Reads on until a line contains these words; the rest is read and dropped.
fn wait_for(output: impl Read + Send + 'static, words: &str) -> Result<()> {
    let mut lines = BufReader::new(output).lines();
    let mut said = Vec::new();
    while !said.iter().any(|line: &String| line.contains(words)) {
        said.push(lines.next().with_context(|| format!("it ended: {said:#?}"))??);
    }
    std::thread::spawn(move || lines.for_each(drop));
    Ok(())
}

fn nothing_is_left(host: &Host) -> Result<()> {
    ensure!(host.ok("ps --all --quiet")?.is_empty());
    ensure!(!host.path("data/compare/work").exists());
    ensure!(!host.path("data/compare/disks").exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains("compare/work"), "{mounts}");
    let namespaces = fs::read_dir("/run/netns").map(Iterator::count).unwrap_or(0);
    ensure!(namespaces == 0, "{namespaces} network namespaces");
    ensure!(!fs::exists("/sys/fs/cgroup/vmctl-compare")?);
    for state in ["/run/crun", "/run/runc", "/run/youki"] {
        let left: Vec<_> = fs::read_dir(state).into_iter().flatten().flatten().collect();
        ensure!(left.is_empty(), "{left:?}");
    }
    let routes = fs::read_to_string("/proc/net/route")?;
    // 198.18.64.0, as the kernel writes it.
    ensure!(!routes.contains("004012C6"), "{routes}");
    let images = host.ok("images --all --format {{.Repository}}")?;
    ensure!(!images.contains("<none>"), "the image with our program in it: {images}");
    // Warm templates stay, but not those of that image.
    for template in fs::read_dir(host.path("data/templates")).into_iter().flatten().flatten() {
        if let Ok(image) = fs::read_to_string(template.path().join("image")) {
            host.ok(&format!("image inspect {image}"))?;
        }
    }
    Ok(())
}
