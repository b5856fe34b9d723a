//! Containers that come out of a snapshot of the first one's machine.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::support::{Lease, host};

/// A machine of this size has a template that no other test makes.
const RUN: &str = "run -d -m 200m";

const ADDRESSES: &str = "cat /sys/class/net/eth0/address; ip -4 -o addr show eth0";

fn is_warm(host: &Lease, name: &str) -> Result<bool> {
    let warm = host.ok(&format!("inspect --format {{{{.Vm.Warm}}}} {name}"))?;
    warm.trim().parse().with_context(|| format!("{name}: {warm:?}"))
}

/// What each template holds as the guest's memory.
fn memories(host: &Lease) -> Result<Vec<PathBuf>> {
    let templates = fs::read_dir(host.path("data/templates"))?;
    let memories = templates.map(|entry| Ok(entry?.path().join("memory")));
    let memories: Result<Vec<_>> = memories.collect();
    Ok(memories?.into_iter().filter(|path| path.exists()).collect())
}

#[test]
fn second_container_comes_out_of_the_first_ones_template() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    host.ok(&format!("{RUN} --name booted busybox sleep 1000"))?;
    ensure!(!is_warm(&host, "booted")?);
    let others = memories(&host)?;
    host.ok(&format!("{RUN} --name warm --hostname warm busybox sleep 1000"))?;
    ensure!(is_warm(&host, "warm")?);
    ensure!(memories(&host)? == others);

    // Nobody's is anybody else's.
    let mut seen = Vec::new();
    for name in ["booted", "warm"] {
        host.shell(name, &format!("hostname > /own; echo {name} >> /own"))?;
        seen.push(host.shell(name, ADDRESSES)?);
        seen.push(host.shell(name, "cat /proc/sys/kernel/random/uuid")?);
    }
    ensure!(seen[0] != seen[2] && seen[1] != seen[3], "{seen:#?}");
    ensure!(host.shell("warm", "cat /own")? == "warm\nwarm\n");
    host.shell("warm", "ping -c 1 -W 30 booted")?;
    host.shell("booted", "ping -c 1 -W 30 warm")?;

    // Its disk is its own, and lasts.
    host.ok("restart warm")?;
    ensure!(is_warm(&host, "warm")?);
    ensure!(host.shell("warm", "cat /own")? == "warm\nwarm\n");

    host.ok(&format!("{RUN} --name cold --no-template busybox sleep 1000"))?;
    ensure!(!is_warm(&host, "cold")?);
    host.ok("run -d --name larger -m 201m busybox sleep 1000")?;
    ensure!(!is_warm(&host, "larger")?);
    Ok(())
}

#[test]
fn damaged_template_is_replaced() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    let run = "run -d -m 210m";
    host.ok(&format!("{run} --name one busybox sleep 1000"))?;
    for memory in memories(&host)? {
        // Its containers map it: it mustn't get shorter beneath them.
        let state = memory.with_file_name("state");
        OpenOptions::new().write(true).open(&state)?.set_len(100)?;
    }
    host.ok(&format!("{run} --name two busybox sleep 1000"))?;
    ensure!(!is_warm(&host, "two")?);
    host.ok(&format!("{run} --name three busybox sleep 1000"))?;
    ensure!(is_warm(&host, "three")?);
    host.ok("system prune --force")?;
    ensure!(memories(&host)?.is_empty());
    host.shell("three", "true")?;
    Ok(())
}
