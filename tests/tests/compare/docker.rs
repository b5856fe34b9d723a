//! Containers by Docker's daemon.

use anyhow::{Result, ensure};
use integration_tests::docker::Docker;

use crate::support::{cell, compare, host, median, observation};

#[test]
fn dockers_containers_are_measured_and_leave_nothing_behind() -> Result<()> {
    let host = host()?;
    let directory = tempfile::tempdir()?;
    let docker = Docker::start(directory.path())?;
    let everything = || -> Result<String> {
        Ok(docker.ok("ps --all --quiet")?
            + &docker.ok("images --all --quiet")?
            + &docker.ok("network ls --format {{.Name}}")?)
    };
    let before = everything()?;
    let report = compare(
        &host,
        &format!(
            "--runtime {} --only container --workload start,syscall,web --runs 1 --warm-ups 0 \
             --scale 0.05 busybox",
            docker.client().display()
        ),
    )?;
    let detail = report["ways"][0]["detail"].as_str().unwrap_or_default();
    ensure!(detail.starts_with("docker "), "{detail}");
    for row in
        ["start.first-byte", "start.first-byte.cpu", "stop", "web.requests", "syscall.getppid"]
    {
        ensure!(median(&report, row, "container")? > 0.0, "{row}");
    }
    ensure!(median(&report, "memory.pss", "container")? > 0.0);
    let root = cell(&report, "filesystem", "container")?;
    ensure!(root["text"].as_str().unwrap_or_default().contains("vfs"), "{root}");
    let after = everything()?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");

    let report = compare(
        &host,
        &format!(
            "--runtime {} --only container --workload isolation --runs 1 --warm-ups 0 busybox",
            docker.client().display()
        ),
    )?;
    // Docker brings a filter of system calls.
    let (seccomp, _) = observation(&report, "seccomp", "container")?;
    ensure!(seccomp.contains("filter"), "{seccomp}");
    // What's run in it has its system calls counted, though Docker's processes start it.
    ensure!(median(&report, "isolation.host-calls", "container")? > 9_000.0);
    ensure!(everything()? == before);
    Ok(())
}

#[test]
fn a_client_without_its_daemon_is_told_before_anything_runs() -> Result<()> {
    let host = host()?;
    let client = integration_tests::artifacts::docker().join("usr/bin/docker");
    let mut command = host.command(["compare", "--only", "container", "--runtime"]);
    command.arg(client).args(["--workload", "start", "busybox"]);
    command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let said = integration_tests::containers::finish(&mut command, b"")?;
    ensure!(said.code != 0, "{said:#?}");
    // A table's lines are short.
    let all = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(all.contains("Cannot connect to the Docker daemon"), "{all}");
    Ok(())
}
