//! What rows say, of real instances.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration_tests::artifacts;
use serde_json::Value;

use crate::support::{cell, compare, host, median, observation, read};

const VM: &str = "microvm-warm";
const LIGHT: [&str; 3] = ["container", "microvm-cold", "microvm-warm"];

/// What the host's kernel calls itself.
fn host_release() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

#[test]
fn a_full_vm_boots_to_its_prompt_and_is_turned_off() -> Result<()> {
    let host = host()?;
    let line = format!(
        "--only full-vm --workload start --runs 1 --warm-ups 0 --full-vm-kernel {} \
         --full-vm-disk {} busybox",
        artifacts::lean_kernel().display(),
        artifacts::debian_disk().display(),
    );
    let report = compare(&host, &line)?;
    ensure!(median(&report, "start.ready.cpu", "full-vm")? > 0.0);
    ensure!(median(&report, "stop", "full-vm")? > 0.0);
    ensure!(cell(&report, "start.first-byte", "full-vm")?["outcome"] == "not-applicable");
    let steps = report["timelines"][0]["steps"].as_array().context("steps")?;
    for name in ["kernel entered", "console speaks", "ready", "stopped"] {
        ensure!(steps.iter().any(|step| step["name"] == name), "{name}: {steps:#?}");
    }
    Ok(())
}

#[test]
fn a_full_vm_does_the_same_work_and_has_a_kernel_of_its_own() -> Result<()> {
    let host = host()?;
    let line = format!(
        "--only full-vm --workload cpu,disk,net,isolation --runs 1 --warm-ups 0 --scale 0.05 \
         --full-vm-kernel {} --full-vm-disk {} busybox",
        artifacts::lean_kernel().display(),
        artifacts::debian_disk().display(),
    );
    let report = compare(&host, &line)?;
    let rows = ["cpu.loop", "cpu.loop.cpu", "disk.random-write", "disk.fsync"];
    for row in rows.into_iter().chain(["net.latency", "net.up", "net.down"]) {
        ensure!(median(&report, row, "full-vm")? > 0.0, "{row}");
    }
    let (kernel, verdict) = observation(&report, "kernel-release", "full-vm")?;
    ensure!(verdict == "own" && kernel != host_release()?, "{kernel}: {verdict}");
    let (what, verdict) = observation(&report, "all-panic", "full-vm")?;
    ensure!(verdict == "contained", "{what}");
    Ok(())
}

#[test]
fn a_server_starts_answers_and_stops_in_three_ways() -> Result<()> {
    let host = host()?;
    let line = format!(
        "--workload start,web --runs 1 --warm-ups 1 --scale 0.2 --html {} \
         --only container,microvm-cold,microvm-warm nginx",
        host.path("page.html").display(),
    );
    let report = compare(&host, &line)?;
    ensure!(report["host"]["kernel"] == host_release()?, "{}", report["host"]);
    for way in LIGHT {
        ensure!(median(&report, "start.ready", way)? > 0.0);
        ensure!(median(&report, "start.ready.cpu", way)? > 0.0);
        ensure!(median(&report, "stop", way)? > 0.0);
        ensure!(median(&report, "web.requests", way)? > 0.0);
        ensure!(median(&report, "memory.pss", way)? > 1e6, "{way} needs more than 1 MB");
        ensure!(
            median(&report, "image.disk", way)? > median(&report, "image.wire", way)?,
            "{way}: what's compressed is smaller"
        );
    }

    // A start has its steps in order, from both sides.
    let timelines = report["timelines"].as_array().context("timelines")?;
    ensure!(timelines.len() == 3, "{timelines:#?}");
    for timeline in timelines {
        let steps = timeline["steps"].as_array().context("steps")?;
        let at: Vec<_> = steps.iter().filter_map(|step| step["at_us"].as_f64()).collect();
        ensure!(at.is_sorted() && at.len() >= 3, "{timeline}");
        let has = |name: &str| steps.iter().any(|step| step["name"] == name);
        ensure!(has("ready") && has("stopped"), "{timeline}");
        let way = timeline["way"].as_str().unwrap_or_default();
        ensure!(has("kernel entered") == (way == "microvm-cold"), "{timeline}");
        ensure!(has("snapshot loaded") == (way == "microvm-warm"), "{timeline}");
    }
    let page = fs::read_to_string(host.path("page.html"))?;
    ensure!(page.contains("<svg") && page.contains("nginx"), "{} bytes", page.len());

    // It's the same as itself; and worse if it's worse.
    let saved = host.path("report.json");
    let same = host.ok(&format!("compare --diff {0} {0}", saved.display()))?;
    println!("{same}");
    let (base, worse) = (host.path("base.json"), host.path("worse.json"));
    for (file, factor) in [(&base, 1.0), (&worse, 10.0)] {
        let mut changed = read(&saved)?;
        worse_by(&mut changed, factor)?;
        fs::write(file, changed.to_string())?;
    }
    host.fails(&format!("compare --diff {} {}", base.display(), worse.display()), 1)?;
    host.ok(&format!("compare --diff {} {}", worse.display(), base.display()))?;
    Ok(())
}

/// Makes every start take longer, by several samples that agree.
fn worse_by(report: &mut serde_json::Value, factor: f64) -> Result<()> {
    for row in report["rows"].as_array_mut().context("rows")? {
        if row["id"] != "start.ready.cpu" {
            continue;
        }
        for cell in row["cells"].as_array_mut().context("cells")? {
            if let Some(median) = cell["median"].as_f64() {
                let worse = median * factor;
                cell["samples"] = vec![worse; 5].into();
                for name in ["median", "low", "high"] {
                    cell[name] = worse.into();
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_server_that_speaks_no_http_is_ready_when_it_answers_anything() -> Result<()> {
    let host = host()?;
    let line = "--workload start,web --runs 1 --warm-ups 1 --only container,microvm-warm redis";
    let report = compare(&host, line)?;
    for way in ["container", VM] {
        ensure!(median(&report, "start.ready", way)? > 0.0);
        ensure!(median(&report, "stop", way)? > 0.0);
        ensure!(cell(&report, "web.requests", way)?["outcome"] == "not-applicable");
    }
    let notes = report["notes"].as_array().context("notes")?;
    let told = |note: &Value| note.as_str().is_some_and(|note| note.contains("doesn't speak HTTP"));
    ensure!(notes.iter().any(told), "{notes:?}");
    Ok(())
}

#[test]
fn heavier_work_costs_more_in_every_way() -> Result<()> {
    let host = host()?;
    let at = |scale: &str| {
        compare(&host, &format!("--workload cpu --runs 1 --warm-ups 0 --scale {scale} busybox"))
    };
    let (light, heavy) = (at("0.02")?, at("5")?);
    for way in LIGHT {
        let cpu = |report| median(report, "cpu.loop.cpu", way);
        ensure!(cpu(&heavy)? > 2.0 * cpu(&light)?, "{way}: {} {}", cpu(&heavy)?, cpu(&light)?);
    }
    // There's no disk for a full VM here: said, and the rest went on.
    let ways = light["ways"].as_array().context("ways")?;
    let full = ways.iter().find(|way| way["id"] == "full-vm").context("the full VM")?;
    let failure = full["failure"].as_str().unwrap_or_default();
    ensure!(failure.contains("--full-vm-disk"), "{full}");
    Ok(())
}

#[test]
fn work_inside_is_measured_in_every_way() -> Result<()> {
    let host = host()?;
    let report = compare(
        &host,
        "--workload memory,syscall,disk,net --runs 1 --warm-ups 0 --scale 0.1 \
         --only container,microvm-warm busybox",
    )?;
    for way in ["container", "microvm-warm"] {
        for row in [
            "memory.bandwidth",
            "memory.latency",
            "memory.page",
            "syscall.getppid",
            "syscall.openclose",
            "syscall.pipe",
            "disk.sequential-read",
            "disk.sequential-write",
            "disk.random-read",
            "disk.random-write",
            "disk.fsync",
            "net.latency",
            "net.up",
            "net.down",
        ] {
            ensure!(median(&report, row, way)? > 0.0, "{row}, {way}");
        }
        // Opening and closing are more than doing nothing.
        let of = |row| median(&report, row, way);
        ensure!(of("syscall.openclose")? > of("syscall.getppid")?, "{way}");
    }
    Ok(())
}

#[test]
fn instances_are_added_until_the_bound() -> Result<()> {
    let host = host()?;
    let report =
        compare(&host, "--workload density --most 3 --only container,microvm-warm busybox")?;
    let curves = report["curves"].as_array().context("curves")?;
    ensure!(curves.len() == 2, "{curves:#?}");
    for curve in curves {
        let points = curve["points"].as_array().context("points")?;
        ensure!(points.len() == 3, "{curve}");
        let pss: Vec<_> = points.iter().filter_map(|point| point["pss_bytes"].as_u64()).collect();
        ensure!(pss.is_sorted() && pss[2] > pss[0], "more instances, more memory: {curve}");
        ensure!(curve["stopped_by"] == "the bound of 3 instances", "{curve}");
    }
    Ok(())
}

#[test]
fn isolation_is_demonstrated() -> Result<()> {
    let host = host()?;
    let report =
        compare(&host, "--workload isolation --only container,microvm-cold,microvm-warm debian")?;
    let see = |aspect: &str, way: &str| observation(&report, aspect, way);
    let verdict = |aspect: &str, way: &str| see(aspect, way).map(|seen| seen.1);
    let release = host_release()?;
    ensure!(see("kernel-release", "container")? == (release.clone(), "shared".to_owned()));
    let (kernel, own) = see("kernel-release", VM)?;
    ensure!(kernel != release && own == "own", "{kernel} {own}");
    ensure!(see("boot-id", VM)? != see("boot-id", "container")?);
    for way in ["container", VM] {
        // Without rights nothing is done to a kernel, whoever's it is.
        for aspect in ["try-clock", "try-module"] {
            ensure!(verdict(aspect, way)? == "refused", "{aspect} {way}: {:?}", see(aspect, way)?);
        }
        ensure!(see("operating-system", way)?.0.contains("Debian"));
        ensure!(verdict("processes-visible", way)? == "own");
        ensure!(see("cgroup", way)?.0.contains("memory 256 MiB"), "{:?}", see("cgroup", way)?);
        ensure!(verdict("cgroup", way)? == "own");
        ensure!(verdict("all-hostname", way)? == "contained", "{:?}", see("all-hostname", way)?);
    }
    // With all of them, a container's reach the host; a VM's its own kernel.
    for aspect in ["all-clock", "all-proc-sys"] {
        let (value, verdict) = see(aspect, "container")?;
        ensure!(verdict == "reached", "{aspect}: {value}");
        let (value, verdict) = see(aspect, VM)?;
        ensure!(verdict == "contained", "{aspect}, VM: {value}");
    }
    ensure!(verdict("all-panic", VM)? == "contained", "{:?}", see("all-panic", VM)?);
    ensure!(verdict("all-panic", "container")? == "shared");
    // The host's container tools have one (podman depends on the package).
    ensure!(see("seccomp", "container")? == ("a filter".to_owned(), "own".to_owned()));
    ensure!(see("seccomp", VM)? == ("none".to_owned(), "own".to_owned()));
    // Of 10,000 system calls the host's kernel serves all of a container's (or one or two fewer: the
    // program's own vary), few of a VM's.
    let calls = |way: &str| median(&report, "isolation.host-calls", way);
    ensure!(calls("container")? > 9_000.0, "{}", calls("container")?);
    ensure!(calls(VM)? < 5_000.0, "{}", calls(VM)?);
    // What was tried on the host was put back.
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    ensure!(name.trim() != "changed");
    Ok(())
}

#[test]
fn podman_runs_the_same_bytes() -> Result<()> {
    let host = host()?;
    // Where DOCKER_CONFIG says that it is.
    fs::create_dir_all(host.path("docker"))?;
    fs::write(host.path("docker/config.json"), "{}")?;
    // Its own storage, which isn't used, would be an overlay above the lab's overlay.
    let podman = host.path("podman");
    fs::write(&podman, "#!/bin/sh\nexec podman --storage-driver=vfs \"$@\"\n")?;
    fs::set_permissions(&podman, Permissions::from_mode(0o755))?;
    let report = compare(
        &host,
        &format!(
            "--runtime {} --only container --workload start --runs 1 --warm-ups 0 nginx",
            podman.display()
        ),
    )?;
    ensure!(median(&report, "start.ready", "container")? > 0.0);
    let detail = report["ways"][0]["detail"].as_str().unwrap_or_default();
    ensure!(detail.starts_with("podman "), "{detail}");
    let left = Command::new(&podman).args(["ps", "--all", "--quiet"]).output()?;
    ensure!(left.status.success() && left.stdout.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn starts_are_spread_over_many_runs() -> Result<()> {
    let host = host()?;
    let text = host.ok("bench boot --runs 4 --warm-ups 1 --only microvm-warm busybox")?;
    println!("{text}");
    ensure!(text.contains("p99") && text.contains("microVM, warm"), "{text}");
    ensure!(text.lines().any(|line| line.trim_end().ends_with(" 4")), "four runs: {text}");
    Ok(())
}
