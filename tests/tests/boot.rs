//! Kernels, processors, memory, and the ways in which a machine ends.

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::artifacts;
use integration_tests::vm::Boot;
use rustix::process::Signal;

const TRANSPORTS: [&str; 2] = ["pci", "mmio"];

/// Boots a stock kernel with an entropy device, so that a virtio driver has something to find.
fn stock_kernel_boots(version: &str, transport: &str) -> Result<()> {
    let (_, kernel, initrd) = artifacts::stock_kernels()
        .into_iter()
        .find(|(name, ..)| *name == version)
        .context("no such kernel")?;
    let mut guest = Boot::new(&format!("stock_{version}_{transport}"), &kernel)
        .flag("--initrd", initrd)
        .flag("--cmdline", "console=ttyS0 quiet reboot=k panic=-1 rdinit=/init")
        .flag("--memory", "512M")
        .flag("--transport", transport)
        .switch("--rng")
        .guest()?;
    let release = guest.run("uname -r")?;
    ensure!(release.starts_with(version) && release.contains("cloud"), "{release}");
    ensure!(guest.run("cat /sys/class/misc/hw_random/rng_current")?.starts_with("virtio_rng"));
    ensure!(!guest.run("head -c 4096 /dev/hwrng | md5sum")?.is_empty());
    guest.power_off()
}

#[test]
fn stock_6_1_kernel_boots_over_pci() -> Result<()> {
    stock_kernel_boots("6.1", "pci")
}

#[test]
fn stock_6_1_kernel_boots_over_mmio() -> Result<()> {
    stock_kernel_boots("6.1", "mmio")
}

#[test]
fn stock_6_12_kernel_boots_over_pci() -> Result<()> {
    stock_kernel_boots("6.12", "pci")
}

#[test]
fn stock_6_12_kernel_boots_over_mmio() -> Result<()> {
    stock_kernel_boots("6.12", "mmio")
}

/// A stock bzImage also boots as it is, without the host's cache of unpacked kernels.
#[test]
fn stock_bzimage_boots_by_unpacking_itself() -> Result<()> {
    let (_, kernel, initrd) = artifacts::stock_kernels().pop().context("no kernel")?;
    let guest = Boot::new("stock_unpacks_itself", &kernel)
        .flag("--initrd", initrd)
        .flag("--cmdline", "console=ttyS0 quiet reboot=k panic=-1 rdinit=/init")
        .flag("--memory", "512M")
        .flag("--kernel-cache", "off")
        .guest()?;
    guest.power_off()
}

#[test]
fn lean_kernel_sees_every_processor_with_its_own_apic() -> Result<()> {
    for (cpus, transport) in [(1, TRANSPORTS[0]), (2, TRANSPORTS[1]), (4, TRANSPORTS[0])] {
        let mut guest = Boot::lean(&format!("cpus_{cpus}"))
            .flag("--cpus", cpus.to_string())
            .flag("--transport", transport)
            .guest()?;
        let processors = guest.run("nproc")?;
        ensure!(processors == cpus.to_string(), "{processors} processors of {cpus}");
        let online = guest.run("cat /sys/devices/system/cpu/online")?;
        ensure!(
            online == if cpus == 1 { "0".into() } else { format!("0-{}", cpus - 1) },
            "{online}"
        );
        let packages = guest.run(
            "cat /sys/devices/system/cpu/cpu*/topology/physical_package_id | sort -u | wc -l",
        )?;
        ensure!(packages == "1", "{packages} packages");
        let cores =
            guest.run("cat /sys/devices/system/cpu/cpu*/topology/core_id | sort -u | wc -l")?;
        ensure!(cores == cpus.to_string(), "{cores} cores of {cpus}");
        guest.power_off()?;
    }
    Ok(())
}

#[test]
fn guest_runs_on_a_hypervisor_with_its_clock() -> Result<()> {
    let mut guest = Boot::lean("clock").guest()?;
    ensure!(guest.run("grep -c hypervisor /proc/cpuinfo")? == "1");
    let clock =
        guest.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    ensure!(clock == "kvm-clock" || clock == "tsc", "{clock}");
    let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let guest_seconds: u64 = guest.run("date +%s")?.parse()?;
    ensure!(guest_seconds.abs_diff(host) < 60, "guest {guest_seconds}, host {host}");
    guest.power_off()
}

fn memory_total_mib(guest: &mut integration_tests::guest::Guest) -> Result<u64> {
    let kib: u64 = guest.run("awk '/MemTotal/ {print $2}' /proc/meminfo")?.parse()?;
    Ok(kib / 1024)
}

#[test]
fn small_guest_gets_nearly_all_of_128_mib() -> Result<()> {
    let mut guest = Boot::lean("memory_128m").flag("--memory", "128M").guest()?;
    let total = memory_total_mib(&mut guest)?;
    ensure!((80..=128).contains(&total), "{total} MiB");
    guest.power_off()
}

/// 5 GiB lie on both sides of the gap below 4 GiB. The host gives pages only as they are used, so
/// this works on a host that has less.
#[test]
fn large_guest_uses_memory_above_4_gib() -> Result<()> {
    let mut guest = Boot::lean("memory_5g").flag("--memory", "5G").guest()?;
    let total = memory_total_mib(&mut guest)?;
    ensure!((4700..=5120).contains(&total), "{total} MiB");
    let above = guest.run("grep -c '^1[0-9a-f]\\{8\\}-.*System RAM' /proc/iomem")?;
    ensure!(above == "1", "{above} ranges above 4 GiB");
    guest.power_off()
}

#[test]
fn reboot_ends_the_process_with_0() -> Result<()> {
    // By ACPI's reset register, by the keyboard controller, and by the kernel's own choice.
    for how in ["reboot=a", "reboot=k", "nokaslr"] {
        let mut guest = Boot::lean("reboot")
            .flag("--cmdline", format!("console=ttyS0 quiet panic=-1 {how} rdinit=/init"))
            .guest()?;
        guest.vm.type_line("reboot -f")?;
        guest.vm.expect_exit(0).context(how)?;
    }
    Ok(())
}

#[test]
fn panic_has_its_own_exit_code_and_message() -> Result<()> {
    let mut guest = Boot::lean("panic").guest()?;
    guest.vm.type_line("echo c >/proc/sysrq-trigger")?;
    guest.vm.expect_exit(3)?;
    ensure!(guest.vm.stderr().contains("panic"), "{}", guest.vm.stderr());
    ensure!(guest.vm.console.text().contains("Kernel panic"));
    Ok(())
}

#[test]
fn sigterm_is_the_power_button() -> Result<()> {
    let mut guest = Boot::lean("power_button").guest()?;
    // What a service manager does with the event: wait for it on the button's input device.
    guest.start(
        "exec 3</dev/input/event0; echo wait\"\"ing; head -c 1 <&3 >/dev/null; poweroff -f",
    )?;
    guest.vm.console.wait_for("waiting", PATIENCE)?;
    guest.vm.signal(Signal::TERM)?;
    guest.vm.expect_exit(0)
}

#[test]
fn guest_that_ignores_the_power_button_is_ended_at_the_deadline() -> Result<()> {
    let mut guest = Boot::lean("deadline").flag("--shutdown-timeout", "1").guest()?;
    guest.vm.signal(Signal::TERM)?;
    guest.vm.expect_exit(1)?;
    ensure!(guest.vm.stderr().contains("power off"), "{}", guest.vm.stderr());
    Ok(())
}

#[test]
fn second_sigterm_ends_the_guest_at_once() -> Result<()> {
    let mut guest = Boot::lean("two_signals").flag("--shutdown-timeout", "3600").guest()?;
    guest.vm.signal(Signal::TERM)?;
    guest.vm.signal(Signal::TERM)?;
    // Two signals that arrive together are one to Linux: a third one settles it.
    guest.run("true").ok();
    guest.vm.signal(Signal::TERM).ok();
    guest.vm.expect_exit(1)
}

#[test]
fn vmm_ends_with_the_vmctl_that_started_it() -> Result<()> {
    let guest = Boot::lean("orphan").guest()?;
    let vmm = guest.vm.vmm_pid()?;
    guest.vm.signal(Signal::KILL)?;
    ensure!(integration_tests::vm::wait_process(vmm, PATIENCE)?, "the vmm outlived its vmctl");
    Ok(())
}

/// Every byte is several exits. In the lab, which emulates them, one takes a third of a millisecond
/// and so 10 MiB an hour: it's 1 MiB there. (10 MiB byte by byte through the device alone are a unit
/// test of `devices`.)
#[test]
fn serial_flood_arrives_whole_and_leaves_the_vmm_small() -> Result<()> {
    let size: usize = if artifacts::in_lab() { 1 << 20 } else { 10 << 20 };
    let mut guest = Boot::lean("flood").guest()?;
    let vmm = guest.vm.vmm_pid()?;
    let before = resident_kib(vmm)?;
    let flood = format!("tr '\\0' x </dev/zero | head -c {size}");
    let output = guest.try_run_within(&flood, 4 * PATIENCE)?;
    ensure!(output.text.len() == size, "{} bytes of {size}", output.text.len());
    ensure!(output.text.bytes().all(|byte| byte == b'x'), "other bytes came in between");
    let after = resident_kib(vmm)?;
    // The guest's own page cache grows; what the VMM keeps for itself doesn't.
    ensure!(after < before + 1024, "{before} KiB before, {after} KiB after");
    guest.power_off()
}

/// Returns what a process keeps in memory apart from shared files and guest memory, in KiB.
fn resident_kib(pid: u32) -> Result<u64> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut total = 0;
    let mut size = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Size:"), Some(kib)) => size = kib.parse::<u64>()?,
            // Guest memory is the one mapping of 64 MiB and more.
            (Some("Rss:"), Some(kib)) if size < 64 << 10 => total += kib.parse::<u64>()?,
            _ => {}
        }
    }
    Ok(total)
}

#[test]
fn debian_disk_boots_to_multi_user_and_powers_off_by_the_button() -> Result<()> {
    let mut vm = Boot::new("debian", &artifacts::lean_kernel())
        .flag("--disk", format!("{},ro", artifacts::debian_disk().display()))
        .flag(
            "--cmdline",
            "console=ttyS0 root=/dev/vda ro systemd.volatile=overlay reboot=k panic=-1",
        )
        .flag("--memory", "1G")
        .flag("--shutdown-timeout", "300")
        .switch("--rng")
        .spawn()?;
    vm.console.wait_for("login:", 3 * PATIENCE)?;
    vm.signal(Signal::TERM)?;
    vm.expect_exit(0)
}
