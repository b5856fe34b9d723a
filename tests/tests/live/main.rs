//! The live page of `vmctl compare --serve`, used in Chromium as a person would, with fake instances
//! behind it. What each test does there is the function of its name in `browser.py`. It needs no KVM,
//! but PyPI: it runs on this machine, never in the lab.

#[path = "../../../compare/examples/live_fake/fake.rs"]
mod fake;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use compare::model::{Row, WayId, Workload};
use compare::serve::{Server, Show};
use compare::ways::Runner;
use fake::{Act, Does, FakeRunner};
use integration_tests::{artifacts, python};

/// What to install, each package with its version.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// What would be a program, an image or a link in a page that didn't take it for text.
const HOSTILE: &str = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>";

/// Serves a show, has a function of `browser.py` use it, and ends it.
fn play(scenario: &str, show: Show) -> Result<()> {
    let python = python::environment(REQUIREMENTS)?;
    let server = Server::bind(None, false)?;
    let (url, stop) = (server.url(), server.stop_handle());
    let serving = thread::spawn(move || server.run(show));
    let logs = artifacts::log_directory()?;
    let screenshot = logs.join(format!("{scenario}.png"));
    let output = Command::new(python)
        .arg("tests/live/browser.py")
        .args([scenario, &url])
        .arg(&screenshot)
        .stdin(Stdio::null())
        .output()
        .context("run the browser");
    stop.stop();
    let served = serving.join().map_err(|_| anyhow!("the server panicked"))?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{scenario}: {}; see {screenshot:?}\n{said}", output.status);
    if screenshot.exists() {
        fs::remove_file(screenshot)?;
    }
    Ok(served?)
}

fn act(millis: u64, does: Does) -> Act {
    Act { after: Duration::from_millis(millis), does }
}

/// A start of that many milliseconds.
fn boot(millis: u64, greeting: &str) -> Vec<Act> {
    vec![
        act(0, Does::Step("command started")),
        act(millis / 2, Does::Step("kernel entered")),
        act(millis, Does::Print(greeting.as_bytes().to_vec())),
        act(millis, Does::Step("ready")),
    ]
}

fn runner(way: WayId, script: Vec<Act>) -> Arc<dyn Runner> {
    Arc::new(FakeRunner::new(way, script))
}

/// All four ways, each of which greets by its name.
fn four() -> Show {
    let runners = WayId::ALL.into_iter().zip([40, 300, 80, 900]).map(|(way, millis)| {
        runner(way, boot(millis, &format!("hello from the {}\r\n", way.title())))
    });
    fake::show(runners.collect())
}

#[test]
fn container_and_vm_run_side_by_side() -> Result<()> {
    play("container_and_vm_run_side_by_side", four())
}

#[test]
fn race_runs_all_that_are_chosen() -> Result<()> {
    play("race_runs_all_that_are_chosen", four())
}

#[test]
fn workload_is_measured_again() -> Result<()> {
    play("workload_is_measured_again", four())
}

#[test]
fn keyboard_is_enough() -> Result<()> {
    play("keyboard_is_enough", four())
}

#[test]
fn page_without_its_token_is_refused() -> Result<()> {
    play("page_without_its_token_is_refused", four())
}

#[test]
fn reload_keeps_everything() -> Result<()> {
    play("reload_keeps_everything", four())
}

#[test]
fn broken_connection_is_taken_up_again() -> Result<()> {
    play("broken_connection_is_taken_up_again", four())
}

#[test]
fn other_page_can_neither_frame_nor_use_it() -> Result<()> {
    play("other_page_can_neither_frame_nor_use_it", four())
}

#[test]
fn instances_of_a_way_can_be_chosen_from() -> Result<()> {
    play("instances_of_a_way_can_be_chosen_from", four())
}

#[test]
fn motion_is_reduced_when_asked() -> Result<()> {
    play("motion_is_reduced_when_asked", four())
}

#[test]
fn everything_has_a_name_and_contrast() -> Result<()> {
    play("everything_has_a_name_and_contrast", four())
}

#[test]
fn page_fits_wide_and_narrow_windows() -> Result<()> {
    play("page_fits_wide_and_narrow_windows", four())
}

#[test]
fn console_knows_a_little_of_a_terminals_language() -> Result<()> {
    play("console_knows_a_little_of_a_terminals_language", four())
}

#[test]
fn instance_that_ends_says_how() -> Result<()> {
    let exits = vec![act(0, Does::Print(b"bye\n".to_vec())), act(0, Does::Exit(42))];
    let mut refuses = FakeRunner::new(WayId::MicrovmCold, Vec::new());
    refuses.refuses = Some("no /dev/kvm".to_owned());
    let runners = vec![runner(WayId::Container, exits), Arc::new(refuses)];
    play("instance_that_ends_says_how", fake::show(runners))
}

#[test]
fn hostile_text_stays_text() -> Result<()> {
    let console = format!("{HOSTILE}\r\n\x1b]0;{HOSTILE}\x07\x1b[2J\x1b[31mred\u{202e}\r\n");
    let script = vec![act(0, Does::Step(HOSTILE)), act(0, Does::Print(console.into_bytes()))];
    let mut refuses = FakeRunner::new(WayId::MicrovmCold, Vec::new());
    refuses.refuses = Some(HOSTILE.to_owned());
    let row = Row { title: HOSTILE.to_owned(), ..fake::row(Workload::Cpu, 1) };
    let show = Show {
        image: HOSTILE.to_owned(),
        rows: vec![Row { note: Some(HOSTILE.to_owned()), ..row }],
        ..fake::show(vec![runner(WayId::Container, script), Arc::new(refuses)])
    };
    play("hostile_text_stays_text", show)
}

#[test]
fn flood_leaves_the_page_usable() -> Result<()> {
    let line = b"0123456789abcdef0123456789abcdef0123456789abcdef\r\n".repeat(80);
    let runners = vec![runner(WayId::Container, vec![act(0, Does::Flood(line))])];
    play("flood_leaves_the_page_usable", fake::show(runners))
}
