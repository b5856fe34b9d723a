//! Limits: of drives while the guest runs, of randomness, and of what the serial port prints.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use api::action::VmmAction;
use api::config::{EntropySpec, RateLimiter, SerialSpec, TokenBucket, VmSpec};
use api::v1::PatchDrive;
use integration_tests::api_vm::lean;
use integration_tests::guest::Machine;

use crate::support::{ApiGuest, MIB, Place, eventually};

const fn per_second(size: u64) -> TokenBucket {
    TokenBucket { size, one_time_burst: None, refill_time: 1000 }
}

fn limit_drive(guest: &mut ApiGuest, ops: TokenBucket) -> Result<()> {
    let rate_limiter = Some(RateLimiter { ops: Some(ops), bandwidth: None });
    let drive_id = "data".to_owned();
    let patch = PatchDrive { drive_id, path_on_host: None, rate_limiter };
    guest.vm.api.act(&VmmAction::UpdateDrive(patch))?;
    Ok(())
}

/// Returns how long the guest takes for so many requests to its drive.
fn time_reads(guest: &mut ApiGuest, count: u64) -> Result<Duration> {
    let requests = "awk '{ print $1 }' /sys/block/vda/stat";
    let before: u64 = guest.run(requests)?.parse()?;
    // Without read-ahead each page is a request.
    guest.run("echo 0 >/sys/block/vda/queue/read_ahead_kb; echo 3 >/proc/sys/vm/drop_caches")?;
    let since = Instant::now();
    guest.run(&format!("dd if=/dev/vda of=/dev/null bs=4096 count={count} 2>&1"))?;
    let took = since.elapsed();
    let after: u64 = guest.run(requests)?.parse()?;
    ensure!(after - before >= count, "{} requests instead of {count}", after - before);
    Ok(took)
}

#[test]
fn limits_of_drives_and_randomness_hold_and_those_of_drives_can_be_changed() -> Result<()> {
    let place = Place::new("limits")?;
    let rate_limiter = Some(RateLimiter { bandwidth: Some(per_second(512)), ops: None });
    let spec = VmSpec {
        drives: vec![place.drive("data", 4 * MIB)?],
        entropy: Some(EntropySpec { rate_limiter }),
        ..lean(1, 128)
    };
    let mut guest = place.boot(spec)?;
    limit_drive(&mut guest, per_second(10))?;
    // The first ten are there at once.
    let limited = time_reads(&mut guest, 40)?;
    ensure!(limited >= Duration::from_millis(2900), "40 requests in {limited:?}");
    limit_drive(&mut guest, per_second(0))?;
    let free = time_reads(&mut guest, 400)?;
    ensure!(free < Duration::from_secs(30), "400 requests in {free:?}, without a limit");

    let since = Instant::now();
    // The kernel may have some at hand, and a bucket of 512 bytes is full.
    ensure!(guest.run("dd if=/dev/hwrng bs=64 count=40 2>/dev/null | wc -c")? == "2560");
    let took = since.elapsed();
    ensure!(took >= Duration::from_millis(2900), "2560 bytes in {took:?}");
    guest.power_off()
}

#[test]
fn serial_port_prints_to_its_file_no_more_than_its_limit() -> Result<()> {
    let place = Place::new("serial_file")?;
    let output = place.file("serial.log");
    let bucket = TokenBucket { size: 2000, one_time_burst: Some(8000), refill_time: 3_600_000 };
    let serial = SerialSpec { serial_out_path: Some(output.clone()), rate_limiter: Some(bucket) };
    let mut vm = place.vmm()?;
    vm.start(VmSpec { serial: Some(serial), ..lean(1, 128) })?;
    let printed = || -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&output).unwrap_or_default()).into_owned())
    };
    eventually("the guest is ready", || Ok(printed()?.contains("@@ready@@")))?;
    vm.type_line("seq 1 4000; poweroff -f")?;
    vm.expect_exit(0)?;
    let text = printed()?;
    ensure!(vm.console.text().is_empty(), "standard output has {:?}", vm.console.text());
    ensure!(text.contains("\n100\n101\n"), "the file has {text:?}");
    // The limit and a last burst from the port.
    let most = 10_100;
    ensure!((9_900..=most).contains(&text.len()), "{} bytes", text.len());
    Ok(())
}
