//! The shell's state and the clocks: nothing goes back, and the wall clock is right at once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use api::v1::{LoadSnapshotParams, SnapshotType};
use integration_tests::PATIENCE;
use integration_tests::api_vm::lean;

use crate::support::{ApiGuest, Place};

/// How long the machine is only files.
const GAP: Duration = Duration::from_secs(20);

/// How far the guest's wall clock may be off, in seconds.
const TOLERANCE: u64 = 2;

/// Reads the clock over and over and counts how often it went back.
const WATCH: &str = r#"last=0 n=0 back=0
while [ ! -e /tmp/stop ]; do
read -r now rest </proc/uptime
now=${now%.*}${now#*.}
[ "$now" -lt "$last" ] && back=$((back+1))
last=$now n=$((n+1))
done
echo "$n $back $last"
"#;

fn host_seconds() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// How long the guest has been up, in hundredths of a second.
fn uptime(guest: &mut ApiGuest) -> Result<u64> {
    let text = guest.run("cut -d ' ' -f 1 /proc/uptime")?;
    text.replace('.', "").parse().with_context(|| format!("the uptime {text:?}"))
}

/// How many seconds the guest's wall clock is ahead of the host's, on the processor `cpu`.
fn ahead(guest: &mut ApiGuest, cpu: u32) -> Result<i64> {
    let before = host_seconds()?;
    let now: u64 = guest.run(&format!("taskset {:x} date +%s", 1 << cpu))?.parse()?;
    let after = host_seconds()?;
    let off = now.checked_signed_diff(now.clamp(before, after));
    off.context("a wall clock centuries away")
}

/// Watches the clock on each processor, in the background of the guest.
fn watch(guest: &mut ApiGuest, cpus: u32) -> Result<()> {
    guest.write_file("/tmp/watch", WATCH)?;
    for cpu in 0..cpus {
        let mask = 1 << cpu;
        guest.run(&format!("taskset {mask:x} sh /tmp/watch >/tmp/watched.{cpu} & true"))?;
    }
    Ok(())
}

/// Ends the watch. The clock has moved on every processor, and never went back.
fn check_watch(guest: &mut ApiGuest, cpus: u32) -> Result<()> {
    guest.run("touch /tmp/stop; wait")?;
    for cpu in 0..cpus {
        let text = guest.run(&format!("cat /tmp/watched.{cpu}"))?;
        let numbers: Vec<u64> = text.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [readings, back, last] = numbers[..] else { anyhow::bail!("{text:?}") };
        ensure!(readings > 0 && last > 0, "processor {cpu} read no clock: {text}");
        ensure!(back == 0, "processor {cpu} saw the clock go back {back} times");
    }
    Ok(())
}

/// After a gap the shell is as it was, and the clocks on every processor are those of now; or, if
/// the client wants that, those of the snapshot.
#[test]
fn clocks_are_right_on_every_vcpu_after_a_gap() -> Result<()> {
    const CPUS: u32 = 2;
    let place = Place::new("clock_gap")?;
    let mut guest = place.boot("origin", lean(CPUS.into(), 128))?;
    guest.run("kept=what-the-shell-knew; cd /proc; echo on-tmpfs >/tmp/kept")?;
    watch(&mut guest, CPUS)?;
    let before = uptime(&mut guest)?;
    let pair = place.pair("full");
    pair.take_and_kill(guest, SnapshotType::Full)?;
    // The gap is what is tested.
    std::thread::sleep(GAP);

    let gap = u64::try_from(GAP.as_millis() / 10)?;
    let mut guest = place.restore("advanced", &pair)?;
    ensure!(guest.run("echo $kept $PWD $(cat /tmp/kept)")? == "what-the-shell-knew /proc on-tmpfs");
    let after = uptime(&mut guest)?;
    ensure!(after >= before + gap, "up for {before}, and for {after} after {gap}");
    for cpu in (0..CPUS).chain(0..CPUS) {
        let ahead = ahead(&mut guest, cpu)?;
        ensure!(ahead.unsigned_abs() <= TOLERANCE, "processor {cpu} is {ahead} s ahead");
    }
    check_watch(&mut guest, CPUS)?;
    guest.power_off()?;

    let continued = LoadSnapshotParams { clock_realtime: Some(false), ..pair.load() };
    let mut guest = place.vmm("continued")?.restore(continued)?;
    let after = uptime(&mut guest)?;
    ensure!(after >= before, "up for {before}, then for {after}");
    for cpu in 0..CPUS {
        let behind = -ahead(&mut guest, cpu)?;
        ensure!(behind >= i64::try_from(GAP.as_secs())? - 2, "processor {cpu}: {behind} s behind");
    }
    check_watch(&mut guest, CPUS)?;
    guest.power_off()
}

/// Pausing and saving again and again, while each processor watches its clock.
#[test]
fn clock_never_goes_back_over_several_restores() -> Result<()> {
    const CPUS: u32 = 2;
    let place = Place::new("clock_rounds")?;
    let mut guest = place.boot("origin", lean(CPUS.into(), 128))?;
    watch(&mut guest, CPUS)?;
    for round in 0..3 {
        let pair = place.pair(&format!("round{round}"));
        pair.take_and_kill(guest, SnapshotType::Full)?;
        guest = place.restore(&format!("round{round}"), &pair)?;
        guest.try_run_within("sleep 0.2", PATIENCE)?;
    }
    check_watch(&mut guest, CPUS)?;
    guest.power_off()
}
