//! Drives whose image changes while the guest runs.

use std::fs::OpenOptions;

use anyhow::{Result, ensure};
use api::action::VmmAction;
use api::config::VmSpec;
use api::v1::PatchDrive;
use integration_tests::api_vm::lean;
use integration_tests::transfer::sha256;

use crate::support::{MIB, Place, head};

const COUNT: usize = 65536;

#[test]
fn grown_and_other_images_are_seen_by_the_running_guest() -> Result<()> {
    let place = Place::new("drives")?;
    let drive = place.drive("data", 4 * MIB)?;
    let path = drive.path_on_host.clone().unwrap_or_default();
    let mut guest = place.boot(VmSpec { drives: vec![drive], ..lean(1, 128) })?;
    let patch = |path| {
        VmmAction::UpdateDrive(PatchDrive {
            drive_id: "data".to_owned(),
            path_on_host: Some(path),
            rate_limiter: None,
        })
    };
    let sectors = |mib: u64| mib * MIB / 512;
    ensure!(guest.run("cat /sys/block/vda/size")? == sectors(4).to_string());
    // What the guest has written and not flushed is no less there afterwards.
    guest.run("echo early | dd of=/dev/vda bs=512 seek=1000 conv=fsync 2>/dev/null")?;

    OpenOptions::new().write(true).open(&path)?.set_len(8 * MIB)?;
    guest.vm.api.act(&patch(path))?;
    let wait = |mib| {
        format!("until [ $(cat /sys/block/vda/size) = {} ]; do sleep 0.1; done", sectors(mib))
    };
    guest.run(&wait(8))?;
    let last = sectors(8) - 1;
    guest.run(&format!("echo late | dd of=/dev/vda bs=512 seek={last} conv=fsync 2>/dev/null"))?;
    let read =
        |sector| format!("dd if=/dev/vda bs=512 skip={sector} count=1 2>/dev/null | head -n 1");
    guest.run("echo 3 >/proc/sys/vm/drop_caches")?;
    ensure!(guest.run(&read(1000))? == "early" && guest.run(&read(last))? == "late");

    let other = place.image("other.img", 16 * MIB)?;
    guest.vm.api.act(&patch(other.clone()))?;
    guest.run(&wait(16))?;
    guest.run("echo 3 >/proc/sys/vm/drop_caches")?;
    let hash = guest.run(&format!("head -c {COUNT} /dev/vda | sha256sum"))?;
    let expected = sha256(&head(&other, COUNT)?)?;
    ensure!(hash.starts_with(&expected), "read {hash} instead of {expected}");
    guest.power_off()
}
