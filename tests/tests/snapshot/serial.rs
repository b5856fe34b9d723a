//! The serial port in the middle of its work.

use anyhow::{Context, Result, ensure};
use api::v1::SnapshotType;
use integration_tests::PATIENCE;
use integration_tests::guest::Machine;

use crate::support::Place;
use integration_tests::api_vm::lean;

/// Tens of thousands of bytes, each of which waits for its transmit interrupt.
const LINES: u32 = 6000;

/// Returns what the guest prints between the two words around its numbers.
fn numbers(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// What the port had taken before the snapshot is what its reader had got by then; what it takes
/// afterwards follows without a gap.
#[test]
fn output_goes_on_where_the_snapshot_interrupted_it() -> Result<()> {
    let place = Place::new("serial")?;
    let mut guest = place.boot("origin", lean(1, 128))?;
    guest.start(&format!("echo beg\"\"in; seq 1 {LINES}; echo e\"\"nd"))?;
    guest.vm.console.wait_for("begin\n", PATIENCE)?;
    guest.vm.console.wait_for("\n1000\n", PATIENCE)?;
    guest.vm.api.pause()?;
    let pair = place.pair("full");
    pair.create(&mut guest, SnapshotType::Full)?;
    // What the guest has printed reaches the reader, and nothing more.
    guest.vm.api.kill()?;
    guest.vm.console.wait_end(PATIENCE)?;
    let text = guest.vm.console.text();
    let (_, printed) = text.split_once("begin\n").context("the beginning is gone")?;
    let mut seen = printed.to_owned();
    guest.vm.expect_exit(1)?;

    let mut vm = place.vmm("restored")?;
    let mut params = pair.load();
    params.resume_vm = true;
    vm.api.load_snapshot(params)?;
    seen += &vm.console.wait_for("end\n", PATIENCE)?;
    let expected: Vec<String> = (1..=LINES).map(|number| number.to_string()).collect();
    let lost = numbers(&seen).into_iter().zip(&expected).find(|(is, expected)| is != expected);
    ensure!(lost.is_none(), "{lost:?} around the snapshot at {:?}", tail(printed));
    ensure!(numbers(&seen).len() == expected.len(), "{} numbers", numbers(&seen).len());
    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)
}

fn tail(text: &str) -> &str {
    &text[text.len().saturating_sub(60)..]
}
