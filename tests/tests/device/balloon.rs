//! What the guest tells of its memory, and what it gives back.

use anyhow::{Context, Result, ensure};
use api::action::VmmAction;
use api::config::{BalloonSpec, VmSpec};
use api::v1::{BalloonHintingStatus, BalloonStatsUpdate, BalloonUpdate, StartHinting};
use integration_tests::api_vm::lean;

use crate::support::{ApiGuest, MIB, Place, eventually};

const MEM_MIB: u64 = 256;

/// How much the guest fills and frees, in MiB.
const FILLED_MIB: u64 = 96;

/// How much of that the host must have back, in MiB: the guest keeps some at hand.
const BACK_MIB: u64 = 48;

/// Returns how much memory the `vmm` has on the host, in MiB.
fn resident_mib(guest: &ApiGuest) -> Result<u64> {
    let path = format!("/proc/{}/smaps_rollup", guest.vm.pid());
    let text = std::fs::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024)
}

/// Has the guest touch memory and free it; returns what the host has given for it by then.
fn fill_and_free(guest: &mut ApiGuest) -> Result<u64> {
    let before = resident_mib(guest)?;
    guest.run(&format!(
        "mount -t tmpfs -o size=90% fill /mnt 2>/dev/null || \
         {{ mkdir -p /mnt && mount -t tmpfs -o size=90% fill /mnt; }}; \
         dd if=/dev/zero of=/mnt/fill bs=1048576 count={FILLED_MIB} 2>/dev/null"
    ))?;
    let filled = resident_mib(guest)?;
    ensure!(filled > before + BACK_MIB, "from {before} to {filled} MiB: was it free before?");
    guest.run("rm /mnt/fill; umount /mnt")?;
    Ok(filled)
}

fn expect_fallen(guest: &ApiGuest, from_mib: u64) -> Result<()> {
    eventually("the host has memory back", || Ok(resident_mib(guest)? + BACK_MIB <= from_mib))
}

fn inflate(guest: &mut ApiGuest, amount_mib: u64) -> Result<()> {
    guest.vm.api.act(&VmmAction::UpdateBalloon(BalloonUpdate { amount_mib }))?;
    eventually(&format!("the balloon has {amount_mib} MiB"), || {
        let stats = guest.vm.api.balloon_statistics()?;
        ensure!(stats.target_mib == amount_mib && stats.target_pages == amount_mib * MIB / 4096);
        Ok(stats.actual_mib == amount_mib)
    })
}

fn free_mib(guest: &mut ApiGuest) -> Result<u64> {
    Ok(guest.run("awk '/MemFree/ { print int($2 / 1024) }' /proc/meminfo")?.parse()?)
}

#[test]
fn statistics_come_and_inflating_and_hinting_give_memory_to_the_host() -> Result<()> {
    let place = Place::new("balloon")?;
    let balloon = BalloonSpec {
        stats_polling_interval_s: Some(1),
        free_page_hinting: Some(true),
        ..BalloonSpec::default()
    };
    let mut guest = place.boot(VmSpec { balloon: Some(balloon), ..lean(1, MEM_MIB) })?;
    eventually("statistics are there", || {
        let stats = guest.vm.api.balloon_statistics()?;
        let total = stats.total_memory.unwrap_or_default();
        Ok(stats.free_memory.is_some_and(|free| 0 < free && free < total)
            && stats.available_memory.is_some()
            && stats.minor_faults.is_some_and(|faults| faults > 0)
            && total <= MEM_MIB * MIB)
    })?;

    let filled = fill_and_free(&mut guest)?;
    // Statistics are asked for again: they follow what the guest does.
    let update = BalloonStatsUpdate { stats_polling_interval_s: 2 };
    guest.vm.api.act(&VmmAction::UpdateBalloonStats(update))?;
    guest.vm.api.act(&VmmAction::StartHinting(StartHinting::default()))?;
    eventually("hinting is done", || {
        let status: BalloonHintingStatus = guest.vm.api.ask(&VmmAction::GetHintingStatus)?;
        Ok(status == BalloonHintingStatus { host_cmd: 1, guest_cmd: Some(0) })
    })?;
    expect_fallen(&guest, filled)?;
    // The guest has its pages back and can use all of them.
    let filled = fill_and_free(&mut guest)?;

    let before = free_mib(&mut guest)?;
    inflate(&mut guest, FILLED_MIB)?;
    let left = free_mib(&mut guest)?;
    ensure!(left + FILLED_MIB - 16 <= before, "from {before} to {left} MiB free");
    expect_fallen(&guest, filled)?;
    inflate(&mut guest, 0)?;
    // Its kernel keeps some of what it gets back on lists of its own.
    eventually("memory comes back", || Ok(free_mib(&mut guest)? + 32 >= before))?;
    guest.power_off()
}

#[test]
fn reported_pages_are_the_hosts_without_anybody_asking() -> Result<()> {
    let place = Place::new("reporting")?;
    let balloon = BalloonSpec { free_page_reporting: Some(true), ..BalloonSpec::default() };
    let mut guest = place.boot(VmSpec { balloon: Some(balloon), ..lean(1, MEM_MIB) })?;
    let filled = fill_and_free(&mut guest)?;
    expect_fallen(&guest, filled)?;
    fill_and_free(&mut guest)?;
    guest.power_off()
}
