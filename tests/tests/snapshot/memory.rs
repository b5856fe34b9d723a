//! A base and what changed since, merged, are the memory of the machine as it stands.

use anyhow::{Result, ensure};
use api::v1::SnapshotType;
use integration_tests::api_vm::{debian_shell, tracked};
use snapshot::memory::{MemoryFile, PAGE_BYTES};
use snapshot::merge::SnapshotPaths;

use crate::support::{ApiGuest, Devices, Pair, Place, echo};

/// More than fits below the gap under 4 GiB: two regions.
const MEM_MIB: u64 = 4096;

fn paths(pair: &Pair) -> SnapshotPaths<'_> {
    SnapshotPaths { state: &pair.state, memory: &pair.memory }
}

/// Finds every page of `one` in `other`, at the same place.
fn expect_pages(one: &MemoryFile, other: &MemoryFile) -> Result<()> {
    let mut page_there = vec![0; PAGE_BYTES];
    let mut problem = None;
    one.for_each_page(|offset, page| {
        let read = other.read_at(offset, &mut page_there);
        if problem.is_none() && (read.is_err() || page != page_there) {
            problem = Some(offset);
        }
    })?;
    let names = (one.path(), other.path());
    ensure!(problem.is_none(), "{names:?} differ at {:#x}", problem.unwrap_or_default());
    Ok(())
}

fn expect_same_content(one: &Pair, other: &Pair) -> Result<()> {
    let (one, other) = (MemoryFile::open(&one.memory)?, MemoryFile::open(&other.memory)?);
    ensure!(one.regions() == other.regions());
    expect_pages(&one, &other)?;
    expect_pages(&other, &one)?;
    ensure!(one.info().hash == other.info().hash, "the same pages have different hashes");
    Ok(())
}

/// Has pages written by the guest's processors here and there, and by its devices.
fn write_all_over(guest: &mut ApiGuest, place: &Place) -> Result<()> {
    guest.run(
        "for page in 3 700 41 1999 2 1500 1024 77; do dd if=/dev/urandom of=/tmp/pages bs=4096 \
         seek=$page count=1 conv=notrunc 2>/dev/null || exit; done",
    )?;
    // By the disk: what was never read before, into the page cache.
    guest.run("cat /usr/bin/fio >/dev/null && dd if=/dev/vdb of=/dev/null bs=64k count=64")?;
    guest.run("head -c 4096 /dev/hwrng >/tmp/random")?;
    echo(&place.file("vsock"))?;
    // Pages that became zeros.
    guest.run("dd if=/dev/zero of=/tmp/pages bs=4096 seek=10 count=20 conv=notrunc 2>/dev/null")?;
    Ok(())
}

#[test]
fn base_with_differences_is_the_live_memory_at_4_gib() -> Result<()> {
    let place = Place::new("merge")?;
    let spec = tracked(place.with_devices(debian_shell(1, MEM_MIB))?);
    let mut guest = place.boot("origin", spec)?;
    guest.run("head -c 8388608 /dev/urandom >/tmp/pages")?;
    guest.start_echo()?;
    let (base, merged) = (place.pair("base"), place.pair("merged"));
    base.take(&mut guest, SnapshotType::Full)?;
    ensure!(MemoryFile::open(&base.memory)?.regions().len() >= 2, "one region");

    let mut parent = base;
    for round in ["first", "second"] {
        write_all_over(&mut guest, &place)?;
        let (diff, live) = (place.pair(round), place.pair(&format!("live-{round}")));
        guest.vm.api.pause()?;
        diff.create(&mut guest, SnapshotType::Diff)?;
        // Nothing has run since: this is the live memory.
        live.create(&mut guest, SnapshotType::Full)?;
        let pages = MemoryFile::open(&diff.memory)?.info().data_pages;
        let all = MemoryFile::open(&live.memory)?.info().data_pages;
        ensure!(pages < all / 2, "{pages} pages of {all} in the differential one");
        snapshot::merge(paths(&parent), paths(&diff), paths(&merged), true)?;
        expect_same_content(&merged, &live)?;
        merged.verify()?;
        // The next difference is to the snapshot just taken.
        parent = live;
        guest.vm.api.resume()?;
    }
    let hash = guest.run("sha256sum /tmp/pages")?;
    guest.vm.kill()?;
    let mut guest = place.vmm("merged")?.restore(merged.load_with_socket(place.file("v2")))?;
    ensure!(guest.run("sha256sum /tmp/pages")? == hash, "the guest's file is another");
    guest.check_devices(&place.file("v2"))?;
    guest.power_off()
}
