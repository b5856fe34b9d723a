//! Drives that come and go around a snapshot.

use anyhow::{Result, ensure};
use api::config::VmSpec;
use api::v1::SnapshotType;
use integration_tests::api_vm::lean;

use crate::support::{ApiGuest, Place};

const MIB: u64 = 1 << 20;

/// Waits until the guest has a disk of that many MiB under that name, and until it can be written.
fn expect_disk(guest: &mut ApiGuest, name: &str, mib: u64) -> Result<()> {
    guest.run(&format!("until [ -b /dev/{name} ]; do sleep 0.1; done"))?;
    let sectors: u64 = guest.run(&format!("cat /sys/block/{name}/size"))?.parse()?;
    ensure!(sectors == mib * MIB / 512, "{sectors} sectors");
    guest.run(&format!(
        "head -c 262144 /dev/urandom >/tmp/{name} && \
         dd if=/tmp/{name} of=/dev/{name} bs=64k conv=fsync 2>/dev/null && \
         echo 3 >/proc/sys/vm/drop_caches && head -c 262144 /dev/{name} | cmp - /tmp/{name}"
    ))?;
    Ok(())
}

#[test]
fn drives_are_plugged_before_and_after_a_restore() -> Result<()> {
    let place = Place::new("hotplug")?;
    let spec = VmSpec { drives: vec![place.drive("boot", 4 * MIB)?], ..lean(1, 128) };
    let mut guest = place.boot("origin", spec)?;
    expect_disk(&mut guest, "vda", 4)?;
    guest.vm.api.hotplug_drive(place.drive("early", 8 * MIB)?)?;
    expect_disk(&mut guest, "vdb", 8)?;
    let pair = place.pair("full");
    pair.take_and_kill(guest, SnapshotType::Full)?;

    let mut guest = place.restore("restored", &pair)?;
    let devices = guest.vm.api.details()?.devices;
    let plugged: Vec<_> =
        devices.iter().filter(|device| device.hotplugged).map(|device| &device.id).collect();
    ensure!(plugged == ["early"], "{devices:?}");
    // What was written before the snapshot is there, and can be written again.
    guest.run("head -c 262144 /dev/vdb | cmp - /tmp/vdb")?;
    expect_disk(&mut guest, "vda", 4)?;
    expect_disk(&mut guest, "vdb", 8)?;
    guest.vm.api.hotplug_drive(place.drive("late", 16 * MIB)?)?;
    expect_disk(&mut guest, "vdc", 16)?;

    guest.vm.api.hotunplug_drive("early".to_owned())?;
    guest.run("while [ -b /dev/vdb ]; do sleep 0.1; done")?;
    let again = place.pair("again");
    again.take_and_kill(guest, SnapshotType::Full)?;
    let mut guest = place.restore("again", &again)?;
    ensure!(guest.try_run("[ -b /dev/vdb ]")?.status != 0, "an unplugged drive came back");
    expect_disk(&mut guest, "vda", 4)?;
    expect_disk(&mut guest, "vdc", 16)?;
    guest.power_off()
}
