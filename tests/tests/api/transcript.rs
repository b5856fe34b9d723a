//! Every path from the start to the end, by `curl`: one boot, a snapshot, and a VM out of it.

use anyhow::Result;
use integration_tests::PATIENCE;
use integration_tests::guest::{Guest, Machine};
use integration_tests::network::Tap;
use integration_tests::transcript::{check_all_routes_are_in, parse, play};

use crate::workshop::Workshop;

const START: &str = include_str!("start.txt");
const RUNNING: &str = include_str!("running.txt");
const PAUSED: &str = include_str!("paused.txt");
const RESTORED: &str = include_str!("restored.txt");

const SHUT_DOWN: &str = r#"
POST /ext/v1/shutdown {"timeout_ms":600000}
  204
"#;

/// Has the guest power off at its power button, as a service manager would.
const HEED_THE_BUTTON: &str =
    "exec 3</dev/input/event0; echo wait\"\"ing; head -c 1 <&3 >/dev/null; poweroff -f";

#[test]
fn every_path_after_the_start_is_answered_as_the_transcripts_say() -> Result<()> {
    let all = [START, RUNNING, PAUSED, SHUT_DOWN, RESTORED].concat();
    check_all_routes_are_in(&parse(&all)?, &[])?;

    let workshop = Workshop::new()?;
    let _taps = [Tap::new("vmctl-api0", &[])?, Tap::new("vmctl-api1", &[])?];
    let vmm = workshop.vmm("first")?;
    let socket = vmm.socket().to_owned();
    play(&socket, &parse(START)?)?;
    let mut guest = Guest::wait_ready(vmm)?;
    play(&socket, &parse(RUNNING)?)?;
    guest.run("true")?;
    play(&socket, &parse(PAUSED)?)?;
    guest.start(HEED_THE_BUTTON)?;
    guest.vm.console.wait_for("waiting", PATIENCE)?;
    play(&socket, &parse(SHUT_DOWN)?)?;
    guest.vm.expect_exit(0)?;

    let vmm = workshop.vmm("second")?;
    let (restored, kill) = RESTORED.split_at(RESTORED.rfind("POST").unwrap_or_default());
    play(vmm.socket(), &parse(restored)?)?;
    let mut guest = Guest::resumed(vmm)?;
    play(guest.vm.socket(), &parse(kill)?)?;
    guest.vm.expect_exit(i32::from(api::exit::FAILURE))
}
