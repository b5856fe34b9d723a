//! Two VMs out of one snapshot are two: their kernels take new randomness before anybody asks.

use anyhow::{Result, ensure};
use api::v1::SnapshotType;
use integration_tests::api_vm::lean;

use crate::support::Place;

/// What Linux says when the VM generation ID has changed.
const RESEEDED: &str = "crng reseeded due to virtual machine fork";

#[test]
fn clones_of_one_snapshot_have_different_random_numbers() -> Result<()> {
    let place = Place::new("identity")?;
    let mut guest = place.boot("origin", lean(1, 128))?;
    guest.run("dmesg -c >/tmp/boot; head -c 16 /dev/urandom >/tmp/warm")?;
    let pair = place.pair("full");
    pair.take_and_kill(guest, SnapshotType::Full)?;
    let mut numbers = Vec::new();
    for clone in ["one", "two"] {
        let mut guest = place.restore(clone, &pair)?;
        numbers.push(guest.run("head -c 32 /dev/urandom | sha256sum")?);
        let said = guest.run("until dmesg | grep fork; do sleep 0.1; done")?;
        ensure!(said.contains(RESEEDED), "{said}");
        guest.power_off()?;
    }
    ensure!(numbers[0] != numbers[1], "both clones drew {}", numbers[0]);
    Ok(())
}
