//! Forks of a VM that runs on: memory, devices and disks are of one instant.

use anyhow::{Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::api_vm::lean;

use crate::support::{ApiGuest, Place};

/// Writes a counter all over its memory, and finds out if any of it is of another moment than the
/// counter itself. Says how far it is on a file in memory.
const WRITER: &str = r#"BEGIN {
for (i = 1; ; i++) {
for (k = 0; k < 20000; k++) {
if (i > 1 && a[k] != i - 1) { print "torn: " a[k] " in round " i >"/tmp/torn"; exit }
a[k] = i
}
print i >"/tmp/progress"
close("/tmp/progress")
if ((getline line <"/tmp/stop") >= 0) exit
}
}
"#;

fn start_writer(guest: &mut ApiGuest) -> Result<()> {
    guest.write_file("/tmp/writer.awk", WRITER)?;
    guest.run("echo 0 >/tmp/progress; awk -f /tmp/writer.awk & true")?;
    await_progress(guest)
}

/// Waits until the writer has written all of its memory again.
fn await_progress(guest: &mut ApiGuest) -> Result<()> {
    guest.run(
        "p=$(cat /tmp/progress); until n=$(cat /tmp/progress); [ \"${n:-0}\" -gt \"$((p+1))\" ] || \
         [ -e /tmp/torn ]; do sleep 0.1; done; ! cat /tmp/torn 2>/dev/null",
    )?;
    Ok(())
}

fn progress(guest: &mut ApiGuest) -> Result<u64> {
    let text = guest.run("until n=$(cat /tmp/progress); [ \"$n\" ]; do :; done; echo $n")?;
    Ok(text.parse()?)
}

fn stop_writer(guest: &mut ApiGuest) -> Result<()> {
    let output = guest.try_run_within("touch /tmp/stop; wait; cat /tmp/torn", PATIENCE)?;
    ensure!(output.status != 0, "{}", output.text);
    Ok(())
}

#[test]
fn fork_of_a_guest_that_writes_all_over_its_memory_is_of_one_instant() -> Result<()> {
    let place = Place::new("live")?;
    let mut origin = place.boot("origin", lean(2, 256))?;
    start_writer(&mut origin)?;
    let before = progress(&mut origin)?;
    let mut pairs = Vec::new();
    for fork in ["one", "two"] {
        let pair = place.pair(fork);
        let report = pair.fork(&mut origin)?;
        ensure!(report.paused_ns > 0 && report.paused_ns < report.total_ns, "{report:?}");
        pair.verify()?;
        pairs.push(pair);
        await_progress(&mut origin)?;
    }
    let after = progress(&mut origin)?;
    stop_writer(&mut origin)?;
    origin.power_off()?;
    for (index, pair) in pairs.iter().enumerate() {
        let mut fork = place.restore(&format!("fork{index}"), pair)?;
        let at = progress(&mut fork)?;
        ensure!((before..=after).contains(&at), "forked at {at}, between {before} and {after}");
        await_progress(&mut fork)?;
        stop_writer(&mut fork)?;
        fork.power_off()?;
    }
    Ok(())
}
