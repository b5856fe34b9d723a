//! A VM from its detached boot to its end, and one in the foreground.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::artifacts;
use integration_tests::console::Console;
use integration_tests::terminal::Terminal;
use integration_tests::vm::{Boot, signal_process, wait_process};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{AttachedGuest, Host, expect_exit, first_line, is_socket, write_line};

/// What's on the disk that is attached.
const WORD: &str = "word";

#[test]
fn detached_vm_is_found_driven_and_shown_as_crashed_when_its_vmm_is_killed() -> Result<()> {
    let host = Host::new("life")?;
    let id = host.boot("web", "--rng --vsock cid=3,path=web.vsock")?;
    expect_found(&host, &id)?;
    expect_console_on_terminal(&host)?;

    let log = artifacts::log_directory()?.join("life_events.log");
    let mut follower = host.command("vm events --follow web").stdout(Stdio::piped()).spawn()?;
    let events = Console::read(follower.stdout.take().context("no stdout")?, &log)?;
    events.wait_for("kernel_entered", PATIENCE)?;
    let mut guest = host.booted("web")?;
    expect_to_stand_still(&host, &mut guest, &events)?;
    expect_disk_to_come_and_go(&host, &mut guest, &events)?;
    let metrics = host.vmctl("vm metrics web")?;
    ensure!(metrics.contains("# TYPE vmctl_"), "{metrics}");

    let pid = host.row("web")?["pid"].as_u64().context("no pid")?;
    signal_process(u32::try_from(pid)?, Signal::KILL)?;
    ensure!(wait_process(u32::try_from(pid)?, PATIENCE)?, "SIGKILL doesn't end it");
    expect_crashed(&host)?;
    // Whoever listened isn't left waiting.
    ensure!(wait_process(follower.id(), PATIENCE)?, "vm events goes on");
    ensure!(follower.wait()?.code() == Some(1), "it takes a crash for a good end");
    host.finish()
}

/// Finds the VM by each of its names, and nobody by another.
fn expect_found(host: &Host, id: &str) -> Result<()> {
    let row = host.row("web")?;
    let expected = json!({
        "id": id, "name": "web", "status": "running", "vcpus": 1, "mem_mib": 128,
        "foreground": false, "pid": row["pid"], "uptime_ms": row["uptime_ms"],
        "created_unix_ms": row["created_unix_ms"], "api_socket": row["api_socket"],
    });
    ensure!(row == expected, "{row} instead of {expected}");
    for name in ["web", id, &id[..4]] {
        let shown = &host.json(&format!("vm inspect {name}"))?[0];
        ensure!(shown["id"] == id && shown["status"] == "running", "{shown}");
        ensure!(shown["config"]["vsock"]["guest_cid"] == 3, "{shown}");
        ensure!(shown["details"]["state"] == "Running", "{shown}");
    }
    ensure!(is_socket(&host.file("web.vsock")), "no socket where the command said");
    host.refuses("boot --detach --name web --kernel k", "there's a VM called web already")?;
    host.refuses("vm pause wbe", "there's no VM called wbe\nhint: running ones: web\n")?;
    host.refuses("vm rm web", "web still runs\nhint: vmctl vm stop web")
}

/// Types on the console from a terminal, and leaves it.
fn expect_console_on_terminal(host: &Host) -> Result<()> {
    let mut terminal = Terminal::new("life_terminal")?;
    let mut vmctl = terminal.spawn(host.command("vm console web"))?;
    terminal.screen.wait_for("Connected to the guest's console.", PATIENCE)?;
    // Printed before this console was there, or after: whoever connects sees both.
    terminal.screen.wait_for("@@ready@@", PATIENCE)?;
    terminal.expect_raw()?;
    terminal.type_keys(b"echo hi-$((40+2))\r")?;
    terminal.screen.wait_for("hi-42", PATIENCE)?;
    terminal.type_keys(b"\x01d")?;
    expect_exit(&mut vmctl, 0)?;
    terminal.expect_restored()
}

fn expect_to_stand_still(host: &Host, guest: &mut AttachedGuest, events: &Console) -> Result<()> {
    ensure!(host.json("vm pause web --json")?["status"] == "paused");
    host.expect_status("web", "paused")?;
    events.wait_for("\"paused\"", PATIENCE)?;
    // It reaches the guest, which answers later.
    guest.start("echo still here")?;
    ensure!(host.json("vm resume web --json")?["status"] == "running");
    let answer = guest.finish(PATIENCE)?;
    ensure!(answer.text == "still here", "{answer:?}");
    events.wait_for("\"resumed\"", PATIENCE)?;
    Ok(())
}

fn expect_disk_to_come_and_go(
    host: &Host,
    guest: &mut AttachedGuest,
    events: &Console,
) -> Result<()> {
    let disk = host.disk("extra.img", &format!("{WORD}\n"))?;
    let attached = host.json("vm attach web --disk extra.img,id=extra --json")?;
    ensure!(attached["id"] == "extra", "{attached}");
    events.wait_for("device_added", PATIENCE)?;
    guest.run("until [ -b /dev/vda ]; do sleep 0.1; done")?;
    ensure!(first_line(guest, "/dev/vda")? == WORD);
    write_line(guest, "/dev/vda", "changed")?;
    ensure!(std::fs::read(&disk)?.starts_with(b"changed\n"), "not in the image");
    host.refuses("vm attach web --disk extra.img,id=twice", "error: web: ")?;
    host.refuses("vm detach web exta", "web has no device exta\nhint: it has extra\n")?;
    host.vmctl("vm detach web extra")?;
    events.wait_for("device_removed", PATIENCE)?;
    guest.run("while [ -b /dev/vda ]; do sleep 0.1; done")?;
    let config = host.config("web")?;
    ensure!(config["drives"].as_array().is_none_or(Vec::is_empty), "{config}");
    // Its image is free again.
    host.vmctl("vm attach web --disk extra.img")?;
    Ok(())
}

fn expect_crashed(host: &Host) -> Result<()> {
    host.expect_status("web", "crashed")?;
    ensure!(host.row("web")?["pid"].is_null());
    ensure!(!is_socket(&host.file("web.vsock")), "its socket is left");
    host.refuses("vm pause web", "web isn't running: it's crashed\nhint: vmctl vm logs web")?;
    host.refuses("boot --detach --name web --kernel k", "hint: it has ended; vmctl vm rm web")?;
    let events = host.vmctl("vm events web")?;
    ensure!(events.lines().last().is_some_and(|line| line.contains("device_added")), "{events}");
    ensure!(host.vmctl("vm prune")? == "web\n");
    Ok(())
}

#[test]
fn foreground_vm_says_that_another_vmctl_ended_it() -> Result<()> {
    let host = Host::new("foreground")?;
    let boot = Boot::lean("foreground").flag("--memory", "128M").flag("--name", "shell");
    let mut command = host.equip(boot.into_command());
    let mut vmctl =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let logs = artifacts::log_directory()?;
    let stdout = vmctl.stdout.take().context("no stdout")?;
    let screen = Console::read(stdout, &logs.join("foreground.console.log"))?;
    let stderr = vmctl.stderr.take().context("no stderr")?;
    let errors = Console::read(stderr, &logs.join("foreground.stderr"))?;
    screen.wait_for("@@ready@@", PATIENCE)?;
    ensure!(host.row("shell")?["foreground"] == true);
    host.refuses("vm console shell", "shell has no console to connect to")?;
    host.refuses("vm logs shell", "shell logs to the terminal")?;
    ensure!(host.vmctl("vm pause shell")? == "shell\n");
    errors.wait_for("vmctl vm resume shell lets it go on.", PATIENCE)?;
    host.vmctl("vm resume shell")?;
    errors.wait_for("The VM goes on.", PATIENCE)?;
    host.vmctl("vm kill shell")?;
    errors.wait_for("error: the VM was ended by another vmctl (vm kill", PATIENCE)?;
    expect_exit(&mut vmctl, 1)?;
    host.finish()
}
