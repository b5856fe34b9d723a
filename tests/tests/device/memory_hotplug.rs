//! Memory that's plugged into a running guest and unplugged from it.

use anyhow::{Result, ensure};
use api::config::{MemoryHotplugSpec, VmSpec};
use api::v1::{
    CreateSnapshotParams, LoadSnapshotParams, MemoryBackend, MemoryBackendType,
    MemoryHotplugUpdate, SnapshotType,
};
use integration_tests::api_vm::{ApiVm, lean};

use crate::support::{ApiGuest, Place, eventually};

/// How much there may be, in MiB.
const TOTAL_MIB: u64 = 256;

/// Prints how much memory the guest's kernel has, in MiB.
const TOTAL: &str = "awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo";

/// Prints how many free pages the guest has where only what can be moved goes: in what is plugged.
const MOVABLE: &str =
    "awk '/zone +Movable/ { found = 1 } found && /pages free/ { print $3; exit }' /proc/zoneinfo";

/// Has so much plugged and waits until the guest has done it.
fn plug(guest: &mut ApiGuest, mib: u64) -> Result<()> {
    guest.vm.api.update_memory_hotplug(MemoryHotplugUpdate { requested_size_mib: mib })?;
    eventually(&format!("{mib} MiB are plugged"), || {
        let status = guest.vm.api.memory_hotplug()?;
        ensure!(status.requested_size_mib == mib && status.total_size_mib == TOTAL_MIB);
        Ok(status.plugged_size_mib == mib)
    })
}

fn total_mib(guest: &mut ApiGuest) -> Result<u64> {
    Ok(guest.run(TOTAL)?.parse()?)
}

#[test]
fn plugged_memory_is_used_saved_restored_and_given_back() -> Result<()> {
    let place = Place::new("memory_hotplug")?;
    let hotplug = MemoryHotplugSpec {
        total_size_mib: TOTAL_MIB,
        block_size_mib: Some(2),
        slot_size_mib: Some(128),
    };
    let mut spec = VmSpec { memory_hotplug: Some(hotplug), ..lean(1, 192) };
    // Our kernel leaves new memory alone unless told.
    if let Some(arguments) = spec.boot_source.as_mut().and_then(|boot| boot.boot_args.as_mut()) {
        arguments.push_str(" memhp_default_state=online_movable");
    }
    let mut guest = place.boot(spec)?;
    let before = total_mib(&mut guest)?;
    ensure!(guest.vm.api.memory_hotplug()?.plugged_size_mib == 0);
    plug(&mut guest, 128)?;
    // The guest's kernel takes it into use in its own time.
    eventually("plugged memory is online", || Ok(total_mib(&mut guest)? >= before + 120))?;
    let grown = total_mib(&mut guest)?;

    let free: u64 = guest.run(MOVABLE)?.parse()?;
    let hash = guest.run("head -c 16777216 /dev/urandom >/tmp/file && sha256sum /tmp/file")?;
    let left: u64 = guest.run(MOVABLE)?.parse()?;
    ensure!(left + 2048 < free, "the file isn't in plugged memory: {free}, {left} pages free");

    let (state, memory) = (place.file("vm.state"), place.file("vm.memory"));
    guest.vm.api.pause()?;
    guest.vm.api.create_snapshot(CreateSnapshotParams {
        snapshot_type: SnapshotType::Full,
        snapshot_path: state.clone(),
        mem_file_path: memory.clone(),
    })?;
    guest.vm.kill()?;
    let backend = MemoryBackend { backend_type: MemoryBackendType::File, backend_path: memory };
    let vmm = ApiVm::spawn("memory_hotplug_restored", place.path())?;
    let mut guest = vmm.restore(LoadSnapshotParams::new(state, backend))?;
    ensure!(guest.vm.api.memory_hotplug()?.plugged_size_mib == 128);
    ensure!(guest.run("sha256sum /tmp/file")? == hash, "the file is another");
    ensure!(total_mib(&mut guest)? == grown);

    plug(&mut guest, TOTAL_MIB)?;
    eventually("all of it is online", || Ok(total_mib(&mut guest)? >= before + 245))?;
    ensure!(guest.run("sha256sum /tmp/file")? == hash, "the file has changed");
    guest.run("rm /tmp/file; sync; echo 3 >/proc/sys/vm/drop_caches")?;
    plug(&mut guest, 0)?;
    eventually("all of it is gone", || Ok(total_mib(&mut guest)? < before + 8))?;
    plug(&mut guest, 2)?;
    guest.power_off()
}
