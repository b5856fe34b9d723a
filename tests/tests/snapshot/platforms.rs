//! Transports, numbers of vCPUs and kernels: every device works on after a restore.

use anyhow::{Context, Result, ensure};
use api::config::{EntropySpec, Transport};
use api::v1::SnapshotType;
use integration_tests::api_vm::{boot_of, debian_shell, over};
use integration_tests::artifacts;

use crate::support::{Devices, Place};

fn devices_work_after_a_restore(transport: Transport, cpus: u64) -> Result<()> {
    let name = format!("platform_{transport:?}_{cpus}").to_lowercase();
    let place = Place::new(&name)?;
    let spec = over(transport, place.with_devices(debian_shell(cpus, 256))?);
    let mut guest = place.boot("origin", spec)?;
    guest.start_echo()?;
    guest.check_devices(&place.file("vsock"))?;
    let pair = place.pair("full");
    pair.take_and_kill(guest, SnapshotType::Full)?;
    let mut guest = place.vmm("restored")?.restore(pair.load_with_socket(place.file("v2")))?;
    ensure!(guest.run("nproc")? == cpus.to_string());
    guest.check_devices(&place.file("v2"))?;
    guest.power_off()
}

#[test]
fn devices_work_after_a_restore_over_pci() -> Result<()> {
    devices_work_after_a_restore(Transport::Pci, 1)
}

#[test]
fn devices_work_after_a_restore_over_mmio() -> Result<()> {
    devices_work_after_a_restore(Transport::Mmio, 1)
}

#[test]
fn devices_work_after_a_restore_over_pci_with_two_vcpus() -> Result<()> {
    devices_work_after_a_restore(Transport::Pci, 2)
}

#[test]
fn devices_work_after_a_restore_over_mmio_with_two_vcpus() -> Result<()> {
    devices_work_after_a_restore(Transport::Mmio, 2)
}

#[test]
fn stock_6_12_kernel_comes_back() -> Result<()> {
    let (_, kernel, initrd) = artifacts::stock_kernels()
        .into_iter()
        .find(|(version, ..)| *version == "6.12")
        .context("no such kernel")?;
    let place = Place::new("stock")?;
    let mut spec = boot_of(kernel, initrd, 2, 512);
    spec.entropy = Some(EntropySpec::default());
    spec.drives.push(place.scratch()?);
    let mut guest = place.boot("origin", spec)?;
    let pair = place.pair("full");
    pair.take_and_kill(guest, SnapshotType::Full)?;
    guest = place.restore("restored", &pair)?;
    ensure!(guest.run("uname -r")?.starts_with("6.12"));
    ensure!(guest.run("nproc")? == "2");
    ensure!(guest.run("head -c 64 /dev/hwrng | wc -c")? == "64");
    guest.run(
        "head -c 262144 /dev/urandom >/tmp/data && \
         dd if=/tmp/data of=/dev/vda bs=64k conv=fsync 2>/dev/null && \
         echo 3 >/proc/sys/vm/drop_caches && head -c 262144 /dev/vda | cmp - /tmp/data",
    )?;
    guest.power_off()
}
