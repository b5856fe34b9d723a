//! Snapshots by `vmctl vm snapshot` and `vmctl snapshot`, and VMs out of them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;

use anyhow::{Result, ensure};
use integration_tests::artifacts;
use serde_json::{Value, json};

use crate::support::{CMDLINE, Host};

/// Writes the configuration of a VM whose pages are tracked, which no flag asks for.
fn write_config(host: &Host) -> Result<()> {
    let config = json!({
        "boot-source": {
            "kernel_image_path": artifacts::lean_kernel(), "initrd_path": artifacts::lean_initrd(),
            "boot_args": CMDLINE,
        },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 128, "track_dirty_pages": true },
    });
    Ok(fs::write(host.file("origin.json"), config.to_string())?)
}

#[test]
fn base_and_difference_are_merged_and_each_is_restored_as_it_was() -> Result<()> {
    let host = Host::new("snapshots")?;
    write_config(&host)?;
    host.vmctl("boot --detach --name origin --config origin.json")?;
    let mut guest = host.booted("origin")?;
    guest.run("echo first >/tmp/word; head -c 1048576 /dev/urandom >/tmp/block")?;
    let hash = guest.run("sha256sum /tmp/block")?;
    let saved = host.json("vm snapshot origin full --json")?;
    ensure!(saved["resumed"] == true && saved["dir"] == json!(host.file("full")), "{saved}");
    host.expect_status("origin", "running")?;
    guest.run("echo second >/tmp/word")?;
    ensure!(host.vmctl("vm snapshot origin diff --diff --resume false")?.ends_with("/diff\n"));
    host.expect_status("origin", "paused")?;
    host.vmctl("vm resume origin")?;
    ensure!(guest.run("cat /tmp/word")? == "second");

    host.vmctl("snapshot verify full")?;
    host.vmctl("snapshot merge full diff merged --verify")?;
    let bytes = |name: &str| -> Result<u64> {
        Ok(fs::metadata(host.file(name).join("vm.mem"))?.blocks() * 512)
    };
    ensure!(bytes("diff")? < bytes("full")? / 2, "the difference is everything");
    ensure!(host.json("vm kill origin --json")?["status"] == "killed");
    ensure!(host.vmctl("vm rm origin")? == "origin\n");
    expect_restored(&host, &hash)?;
    expect_damage_to_be_told(&host)?;
    host.finish()
}

/// Restores both the base and what it became, and ends them in two ways.
fn expect_restored(host: &Host, hash: &str) -> Result<()> {
    host.vmctl("vm restore merged --name late")?;
    host.vmctl("vm restore full --name early --paused")?;
    host.expect_status("early", "paused")?;
    host.vmctl("vm resume early")?;
    let (mut late, mut early) = (host.resumed("late")?, host.resumed("early")?);
    ensure!(late.run("cat /tmp/word")? == "second");
    ensure!(early.run("cat /tmp/word")? == "first");
    for guest in [&mut late, &mut early] {
        ensure!(guest.run("sha256sum /tmp/block")? == hash, "the guest's file is another");
    }
    // Its console hangs up at its end.
    late.power_off()?;
    let row = host.row("late")?;
    ensure!(row["status"] == "stopped" && row["reason"] == "power_off", "{row}");
    let events = host.vmctl("vm events late")?;
    let events: Vec<Value> = events.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(events.last().is_some_and(|last| last["event"] == "stopped"), "{events:?}");
    ensure!(events.iter().any(|event| event["event"] == "snapshot_loaded"), "{events:?}");

    // Nothing in this guest listens to its power button.
    host.vmctl("vm stop early --timeout 1")?;
    let row = host.row("early")?;
    ensure!(row["status"] == "stopped" && row["reason"] == "deadline", "{row}");
    let mut removed: Vec<String> = host.vmctl("vm prune")?.lines().map(str::to_owned).collect();
    removed.sort();
    ensure!(removed == ["early", "late"], "{removed:?}");
    Ok(())
}

/// A snapshot that isn't whole is refused, and no VM stays.
fn expect_damage_to_be_told(host: &Host) -> Result<()> {
    let memory = host.file("merged/vm.mem");
    let length = fs::metadata(&memory)?.len();
    OpenOptions::new().write(true).open(&memory)?.set_len(length - 4096)?;
    host.refuses("vm restore merged --name broken", "vm.mem")?;
    host.refuses("vm restore nowhere", "nowhere: can't be read")?;
    Ok(())
}
