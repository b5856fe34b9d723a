//! Files that the guest sees as persistent memory.

use std::fs::{create_dir_all, read, write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use api::config::{BootSourceSpec, PmemSpec, VmSpec};
use integration_tests::api_vm::lean;
use integration_tests::artifacts;
use integration_tests::transfer::sha256;

use crate::support::{ApiGuest, MIB, Place, head};

/// How much is compared, in bytes.
const COUNT: usize = 65536;

fn pmem(place: &Place, id: &str, mib: u64) -> Result<PmemSpec> {
    let path_on_host = place.image(&format!("{id}.pmem"), mib * MIB)?;
    Ok(PmemSpec { id: id.to_owned(), path_on_host, ..PmemSpec::default() })
}

/// Requires the guest to have the file as it is, under that name.
fn expect_same(guest: &mut ApiGuest, name: &str, spec: &PmemSpec) -> Result<()> {
    guest.run(&format!(
        "for i in $(seq 300); do [ -b /dev/{name} ] && break; sleep 0.1; done; \
         [ -b /dev/{name} ] || {{ dmesg | tail -n 40; false; }}"
    ))?;
    let sectors: u64 = guest.run(&format!("cat /sys/block/{name}/size"))?.parse()?;
    let bytes = spec.path_on_host.metadata()?.len();
    ensure!(sectors * 512 == bytes, "{sectors} sectors of {bytes} bytes");
    let hash = guest.run(&format!("head -c {COUNT} /dev/{name} | sha256sum"))?;
    let expected = sha256(&head(&spec.path_on_host, COUNT)?)?;
    ensure!(hash.starts_with(&expected), "{name} has {hash} instead of {expected}");
    Ok(())
}

/// Has the guest write and flush, and requires the file to have it.
fn expect_written(guest: &mut ApiGuest, name: &str, spec: &PmemSpec) -> Result<()> {
    let hash = guest.run(&format!(
        "head -c {COUNT} /dev/urandom >/tmp/{name} && \
         dd if=/tmp/{name} of=/dev/{name} bs=4096 conv=fsync 2>/dev/null && sha256sum </tmp/{name}"
    ))?;
    let written = sha256(&head(&spec.path_on_host, COUNT)?)?;
    ensure!(hash.starts_with(&written), "the file has {written} instead of {hash}");
    Ok(())
}

#[test]
fn flushed_writes_are_in_the_file_and_a_read_only_one_refuses_them() -> Result<()> {
    let place = Place::new("pmem")?;
    let (data, fixed) = (pmem(&place, "data", 8)?, pmem(&place, "fixed", 4)?);
    let fixed = PmemSpec { read_only: true, ..fixed };
    let spec = VmSpec { pmem: vec![data.clone(), fixed.clone()], ..lean(1, 128) };
    let mut guest = place.boot(spec)?;
    expect_same(&mut guest, "pmem0", &data)?;
    expect_written(&mut guest, "pmem0", &data)?;
    expect_same(&mut guest, "pmem1", &fixed)?;

    // Linux's driver knows no read-only memory, and a flush of it has nothing to do, here as with
    // other VMMs: what was written is lost, and the file stays as it was.
    let before = read(&fixed.path_on_host)?;
    guest.run("dd if=/dev/zero of=/dev/pmem1 bs=4096 count=1 conv=fsync 2>/dev/null")?;
    ensure!(read(&fixed.path_on_host)? == before, "the read-only file has changed");
    guest.run("echo 3 >/proc/sys/vm/drop_caches")?;
    expect_same(&mut guest, "pmem1", &fixed)?;

    let late = pmem(&place, "late", 2)?;
    guest.vm.api.hotplug_pmem(late.clone())?;
    expect_same(&mut guest, "pmem2", &late)?;
    expect_written(&mut guest, "pmem2", &late)?;
    guest.vm.api.hotunplug_pmem("late".to_owned())?;
    guest.run("while [ -b /dev/pmem2 ]; do sleep 0.1; done")?;
    expect_written(&mut guest, "pmem0", &data)?;
    guest.power_off()
}

/// Makes an ext4 file system with busybox and the tests' init.
fn root_image(place: &Place) -> Result<PmemSpec> {
    let tree = place.file("tree");
    for directory in ["bin", "dev", "proc", "sys", "tmp", "run"] {
        create_dir_all(tree.join(directory))?;
    }
    std::fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    for applet in ["sh", "mount", "mkdir", "stty", "cat", "grep", "dd", "sync", "poweroff"] {
        symlink("busybox", tree.join("bin").join(applet))?;
    }
    let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/init");
    std::fs::copy(init, tree.join("init"))?;
    write(tree.join("which"), "the root on persistent memory\n")?;
    let path_on_host = place.image("root.ext4", 16 * MIB)?;
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-d"])
        .arg(&tree)
        .arg(&path_on_host)
        .output()
        .context("run mkfs.ext4")?;
    ensure!(made.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
    let id = "root".to_owned();
    Ok(PmemSpec { id, path_on_host, root_device: true, ..PmemSpec::default() })
}

#[test]
fn guest_boots_from_a_root_on_persistent_memory_without_a_page_cache() -> Result<()> {
    let place = Place::new("pmem_root")?;
    let root = root_image(&place)?;
    let boot_args = "console=ttyS0 quiet reboot=k panic=-1 init=/init rootflags=dax";
    let boot_source = BootSourceSpec {
        kernel_image_path: Some(artifacts::lean_kernel()),
        boot_args: Some(boot_args.to_owned()),
        ..BootSourceSpec::default()
    };
    let spec = VmSpec { boot_source: Some(boot_source), pmem: vec![root], ..lean(1, 128) };
    let mut guest = place.boot(spec)?;
    ensure!(guest.run("cat /which")? == "the root on persistent memory");
    let mounts = guest.run("grep ' / ' /proc/mounts")?;
    ensure!(mounts.contains("/dev/root") || mounts.contains("/dev/pmem0"), "{mounts}");
    ensure!(mounts.contains("dax"), "not mapped directly: {mounts}");
    guest.run("echo kept >/kept && sync")?;
    guest.power_off()
}
