//! Disks: what a guest writes is what the host reads, on every engine, format and transport.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::guest::Guest;
use integration_tests::vm::{Boot, signal_process, wait_process};
use rustix::process::Signal;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Makes a sparse raw image.
fn image(directory: &TempDir, name: &str, size: u64) -> Result<PathBuf> {
    let path = directory.path().join(name);
    File::create(&path)?.set_len(size)?;
    Ok(path)
}

fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(path).output()?;
    ensure!(output.status.success(), "sha256sum of {path:?}");
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().context("no hash")?.to_owned())
}

/// Boots a guest with one extra disk, which is /dev/vda.
fn guest_with_disk(test: &str, disk: &Path, options: &str, transport: &str) -> Result<Guest> {
    Boot::lean(test)
        .flag("--disk", format!("{}{options}", disk.display()))
        .flag("--transport", transport)
        .guest()
}

/// Fills the whole disk with random bytes in the guest and returns their hash as the guest saw it.
fn fill_in_guest(guest: &mut Guest) -> Result<String> {
    guest.run("cat /dev/urandom | head -c 16777216 >/tmp/random")?;
    guest.run("dd if=/tmp/random of=/dev/vda bs=64k conv=fsync 2>/dev/null")?;
    let hash = guest.run("sha256sum </tmp/random")?;
    Ok(hash.split_whitespace().next().context("no hash")?.to_owned())
}

fn guest_writes_reach_the_image(engine: &str, transport: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = image(&directory, "disk.img", 16 * MIB)?;
    let name = format!("write_{engine}_{transport}");
    let mut guest = guest_with_disk(&name, &disk, &format!(",engine={engine}"), transport)?;
    let written = fill_in_guest(&mut guest)?;
    guest.power_off()?;
    ensure!(sha256(&disk)? == written, "the host reads something else");

    let mut guest = guest_with_disk(&name, &disk, &format!(",ro,engine={engine}"), transport)?;
    let read = guest.run("sha256sum </dev/vda")?;
    ensure!(read.starts_with(&written), "the next guest reads {read}");
    ensure!(guest.run("cat /sys/block/vda/ro")? == "1");
    let refused = guest.try_run("dd if=/dev/zero of=/dev/vda bs=512 count=1")?;
    ensure!(refused.status != 0, "a read-only disk was written");
    guest.power_off()?;
    ensure!(sha256(&disk)? == written, "a read-only disk changed");
    Ok(())
}

#[test]
fn sync_engine_over_pci_keeps_what_the_guest_writes() -> Result<()> {
    guest_writes_reach_the_image("sync", "pci")
}

#[test]
fn uring_engine_over_pci_keeps_what_the_guest_writes() -> Result<()> {
    guest_writes_reach_the_image("uring", "pci")
}

#[test]
fn uring_engine_over_mmio_keeps_what_the_guest_writes() -> Result<()> {
    guest_writes_reach_the_image("uring", "mmio")
}

/// Runs fio in a Debian guest, with verification of everything that it reads back.
fn fio_verifies(engine: &str, queues: u16) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = image(&directory, "fio.img", 64 * MIB)?;
    let mut guest = Boot::debian_shell(&format!("fio_{engine}_{queues}"))
        .flag("--disk", format!("{},engine={engine},queues={queues}", disk.display()))
        .flag("--memory", "512M")
        .flag("--cpus", queues.to_string())
        .guest()?;
    let queues_seen = guest.run("ls /sys/block/vdb/mq | wc -l")?;
    ensure!(queues_seen == queues.to_string(), "{queues_seen} queues");
    let output = guest.run(
        "fio --name=verify --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=16 \
         --rw=randwrite --bsrange=512-64k --size=24m --verify=crc32c --verify_fatal=1 \
         --do_verify=1 --output-format=terse",
    )?;
    ensure!(!output.contains("verify failed"), "{output}");
    // The block size that fio saw, and that discarded blocks read as zeros.
    guest.run("blkdiscard -o 0 -l 1048576 /dev/vdb")?;
    let zeros = guest.run("head -c 1048576 /dev/vdb | tr -d '\\0' | wc -c")?;
    ensure!(zeros == "0", "{zeros} bytes survived a discard");
    guest.run("blkdiscard -z -o 1048576 -l 1048576 /dev/vdb")?;
    let after = guest.run("sha256sum </dev/vdb")?;
    guest.power_off()?;
    ensure!(after.starts_with(&sha256(&disk)?), "the host reads something else than fio's guest");
    Ok(())
}

#[test]
fn fio_verifies_on_the_sync_engine() -> Result<()> {
    fio_verifies("sync", 1)
}

#[test]
fn fio_verifies_on_the_uring_engine_with_two_queues() -> Result<()> {
    fio_verifies("uring", 2)
}

#[test]
fn qcow2_image_holds_what_the_guest_writes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk.qcow2");
    let qemu_img = |arguments: &[&str]| -> Result<()> {
        let status = Command::new("qemu-img").args(arguments).status().context("run qemu-img")?;
        ensure!(status.success(), "qemu-img {arguments:?}");
        Ok(())
    };
    let path = disk.to_str().context("a path in UTF-8")?;
    qemu_img(&["create", "-q", "-f", "qcow2", path, "16M"])?;
    let mut guest = guest_with_disk("qcow2", &disk, ",format=qcow2", "pci")?;
    let written = fill_in_guest(&mut guest)?;
    guest.power_off()?;
    qemu_img(&["check", "-q", path])?;
    let raw = directory.path().join("disk.raw");
    qemu_img(&["convert", "-O", "raw", path, raw.to_str().context("UTF-8")?])?;
    ensure!(sha256(&raw)? == written, "qemu-img reads something else");
    Ok(())
}

/// The advisory of a guest that turns its raw disk into a qcow2 image which names a host's file.
#[test]
fn raw_disk_stays_raw_when_the_guest_writes_a_qcow2_header() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = image(&directory, "disk.img", MIB)?;
    let mut guest = guest_with_disk("stays_raw", &disk, "", "pci")?;
    guest.run("printf 'QFI\\373\\0\\0\\0\\3' | dd of=/dev/vda conv=fsync 2>/dev/null")?;
    guest.power_off()?;
    let mut guest = guest_with_disk("stays_raw", &disk, "", "pci")?;
    ensure!(guest.run("cat /sys/block/vda/size")? == (MIB / 512).to_string());
    ensure!(guest.run("head -c 3 /dev/vda")? == "QFI");
    guest.power_off()
}

#[test]
fn serial_number_reaches_the_guest() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = image(&directory, "disk.img", MIB)?;
    let mut guest = guest_with_disk("serial", &disk, ",serial=vmctl-0123456789", "pci")?;
    ensure!(guest.run("cat /sys/block/vda/serial")? == "vmctl-0123456789");
    guest.power_off()
}

/// What `sync` returned for is on the image, whatever happens to the VMM.
#[test]
fn synced_writes_survive_kill_9_of_the_vmm() -> Result<()> {
    for engine in ["sync", "uring"] {
        let directory = tempfile::tempdir()?;
        let disk = image(&directory, "disk.img", 32 * MIB)?;
        let status = Command::new("mkfs.ext4").arg("-q").arg(&disk).status()?;
        ensure!(status.success(), "mkfs.ext4");
        let options = format!(",engine={engine}");
        let mut guest = guest_with_disk(&format!("kill_{engine}"), &disk, &options, "pci")?;
        guest.run("mkdir -p /mnt && mount -t ext4 /dev/vda /mnt")?;
        guest.run("head -c 4194304 /dev/urandom >/mnt/data && sync")?;
        let hash = guest.run("sha256sum </mnt/data")?;
        let vmm = guest.vm.vmm_pid()?;
        signal_process(vmm, Signal::KILL)?;
        ensure!(wait_process(vmm, PATIENCE)?, "the vmm survived SIGKILL");
        guest.vm.expect_exit(1)?;

        let mut guest = guest_with_disk(&format!("after_kill_{engine}"), &disk, &options, "pci")?;
        guest.run("mkdir -p /mnt && mount -t ext4 /dev/vda /mnt")?;
        let found = guest.run("sha256sum </mnt/data")?;
        ensure!(found == hash, "{engine}: {found} instead of {hash}");
        guest.power_off()?;
    }
    Ok(())
}

/// A limit must not lose or change anything; what rate it gives is a benchmark's business.
#[test]
fn limited_disk_is_slow_and_right() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = image(&directory, "disk.img", 4 * MIB)?;
    let mut file = File::options().write(true).open(&disk)?;
    file.seek(SeekFrom::Start(MIB))?;
    file.write_all(&vec![7; usize::try_from(MIB)?])?;
    drop(file);
    let mut guest = guest_with_disk("limited", &disk, ",iops=200,bw=4M", "pci")?;
    let hash = guest.run("sha256sum </dev/vda")?;
    guest.power_off()?;
    ensure!(hash.starts_with(&sha256(&disk)?), "{hash}");
    Ok(())
}

#[test]
fn guest_on_huge_pages_sees_its_disk() -> Result<()> {
    let pool = "/proc/sys/vm/nr_hugepages";
    let before = std::fs::read_to_string(pool)?;
    std::fs::write(pool, "80")?;
    let directory = tempfile::tempdir()?;
    let disk = image(&directory, "disk.img", 16 * MIB)?;
    let result = (|| {
        let mut guest = Boot::lean("huge_pages")
            .flag("--memory", "128M")
            .switch("--hugepages")
            .flag("--disk", disk.display().to_string())
            .guest()?;
        let mut pages = String::new();
        File::open("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")?
            .read_to_string(&mut pages)?;
        ensure!(pages.trim().parse::<u32>()? < 80, "no huge page is in use");
        guest.run("head -c 1048576 /dev/zero >/dev/vda")?;
        guest.power_off()
    })();
    std::fs::write(pool, before)?;
    result
}
