//! What teachers and students get wrong, and scripts that misbehave.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::containers::{Said, finish};
use integration_tests::terminal::Terminal;
use integration_tests::vm::{signal_process, wait_process};
use rustix::process::Signal;

use crate::support::{Lease, host};

/// A teacher's own directory with one exercise, whose scripts do what's asked.
fn teachers(host: &Lease, name: &str, scripts: [&str; 3]) -> Result<PathBuf> {
    let labs = host.path("teachers");
    let dir = labs.join(name);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("lab.toml"), "title = 'Own'\nminutes = 1\ntime-limit = 20\n")?;
    fs::write(dir.join("text.md"), "# Own\n")?;
    for (script, content) in ["setup", "check", "reset"].iter().zip(scripts) {
        write_script(&dir.join(script), content)?;
    }
    Ok(labs)
}

fn write_script(path: &Path, content: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{content}\n"))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

fn own(host: &Lease, labs: &Path, line: &str) -> Result<Said> {
    let mut command = host.lab(["--labs".as_ref(), labs.as_os_str()]);
    finish(command.args(line.split(' ')), b"")
}

#[test]
fn mistakes_are_explained() -> Result<()> {
    let host = host()?;
    let labs = teachers(&host, "good", ["", "echo ok it", ""])?;
    for (name, spoil) in [("no-check", "check"), ("no-text", "text.md"), ("no-toml", "lab.toml")] {
        teachers(&host, name, ["", "", ""])?;
        fs::remove_file(labs.join(name).join(spoil))?;
    }
    teachers(&host, "plain", ["", "", ""])?;
    fs::set_permissions(labs.join("plain/setup"), Permissions::from_mode(0o644))?;
    symlink(labs.join("good"), labs.join("linked"))?;
    teachers(&host, "needy", ["", "", ""])?;
    let needs = "title = 'N'\nminutes = 1\nneeds = ['command:no-such-program']\n";
    fs::write(labs.join("needy/lab.toml"), needs)?;

    for (line, code, word) in [
        ("start nothing", 1, "no such exercise"),
        ("start ../good", 2, "can't be the name"),
        ("start ..", 2, "can't be the name"),
        ("show /etc", 2, "can't be the name"),
        ("start no-check", 1, "script check is missing"),
        ("start no-text", 1, "text.md is missing"),
        ("start no-toml", 1, "lab.toml is missing"),
        ("start plain", 1, "isn't executable"),
        ("start linked", 1, "is a link"),
        ("start needy", 1, "apt install no-such-program"),
        ("check good", 1, "isn't started"),
        ("reset", 2, "required"),
        ("reset good --all", 2, "cannot be used"),
    ] {
        let said = own(&host, &labs, line)?;
        ensure!(said.code == code && said.err.contains(word), "{line}: {said:#?}");
    }
    let said = own(&host, &labs, "list")?;
    ensure!(
        said.code == 0 && said.out.contains("good") && !said.out.contains("plain"),
        "{said:#?}"
    );
    ensure!(said.err.contains("left out: exercise linked"), "{said:#?}");
    let said = own(&host, &host.path("nowhere"), "list")?;
    ensure!(said.code == 1 && said.err.contains("VMCTL_LABS"), "{said:#?}");
    fs::remove_dir_all(labs)?;
    Ok(())
}

#[test]
fn check_that_misbehaves_is_ended_and_told_of() -> Result<()> {
    let host = host()?;
    for (check, word) in [
        ("echo ok one; sleep 1000 & sleep 1000", "isn't over after 20 seconds"),
        ("yes 'not yet this: that'", "printed more than"),
        ("echo everything is fine", "told of no step"),
        ("echo ok one; exit 3", "exit status: 3"),
        ("kill -9 $$", "signal: 9"),
    ] {
        let labs = teachers(&host, "own", ["", check, ""])?;
        let said = own(&host, &labs, "start own")?;
        ensure!(said.code == 0, "{said:#?}");
        let said = own(&host, &labs, "check own")?;
        ensure!(said.code == 1 && said.err.contains(word), "{check}: {said:#?}");
        ensure!(said.out.len() < 64 << 10, "{check}: {} bytes", said.out.len());
        ensure!(own(&host, &labs, "reset own")?.code == 0);
        fs::remove_dir_all(labs)?;
    }
    Ok(())
}

#[test]
fn lines_of_a_check_do_nothing_to_the_terminal() -> Result<()> {
    let host = host()?;
    let check = "printf 'ok a\\033]0;title\\007\\n'; printf 'not yet b\\rc: \\033[2Jd\\n'";
    let labs = teachers(&host, "own", ["printf '\\033[2J\\n'", check, ""])?;
    let started = own(&host, &labs, "start own")?;
    let said = own(&host, &labs, "check own")?;
    ensure!(said.out.contains("ok       a?]0;title?\nnot yet  b?c\n"), "{said:#?}");
    for text in [&started.err, &started.out, &said.out, &said.err] {
        ensure!(!text.contains(['\u{1b}', '\u{7}', '\r']), "{text:?}");
    }
    ensure!(own(&host, &labs, "reset own")?.code == 0);
    fs::remove_dir_all(labs)?;
    Ok(())
}

#[test]
fn setup_that_fails_is_undone() -> Result<()> {
    let host = host()?;
    let before = host.everything()?;
    let setup = "\"$VMCTL\" network create \"$LAB_NAME-net\"; \"$VMCTL\" volume create \
                 \"$LAB_NAME\"; echo went wrong >&2; exit 7";
    let labs = teachers(&host, "01-own", [setup, "", "touch \"$LAB_SOURCE/undone\""])?;
    let said = own(&host, &labs, "start own")?;
    ensure!(said.code == 1 && said.err.contains("went wrong"), "{said:#?}");
    ensure!(said.err.contains("setup ended with exit status: 7"), "{said:#?}");
    ensure!(labs.join("01-own/undone").exists());
    let after = host.everything()?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    fs::remove_dir_all(labs)?;
    Ok(())
}

#[test]
fn interrupted_start_is_undone() -> Result<()> {
    let host = host()?;
    let before = host.everything()?;
    let setup = "\"$VMCTL\" volume create \"$LAB_NAME\"; echo ready; sleep 1000";
    let labs = teachers(&host, "own", [setup, "", ""])?;
    let terminal = Terminal::new("lab-start")?;
    let mut start = host.lab(["--labs".as_ref(), labs.as_os_str()]);
    start.args(["start", "own"]);
    let mut child = terminal.spawn(start)?;
    terminal.screen.wait_for("ready", PATIENCE)?;
    // A second command has to wait until this one is over.
    let said = own(&host, &labs, "check own")?;
    ensure!(said.code == 1 && said.err.contains("another vmctl lab"), "{said:#?}");
    signal_process(child.id(), Signal::INT)?;
    ensure!(wait_process(child.id(), PATIENCE)?);
    let code = child.wait()?.code().context("ended by the signal itself")?;
    ensure!(code == 130, "{code}");
    terminal.screen.wait_for("removed again", PATIENCE)?;
    let after = host.everything()?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    fs::remove_dir_all(labs)?;
    Ok(())
}

#[test]
fn start_that_was_killed_is_begun_anew() -> Result<()> {
    let host = host()?;
    let setup = "test -e \"$LAB_SOURCE/second\" && exit; touch \"$LAB_SOURCE/second\"; \
                 touch \"$LAB_DIR/old\"; echo ready; sleep 1000";
    let check = "test -e \"$LAB_DIR/old\" && echo not yet new || echo ok new";
    let labs = teachers(&host, "own", [setup, check, ""])?;
    let terminal = Terminal::new("lab-killed")?;
    let mut start = host.lab(["--labs".as_ref(), labs.as_os_str()]);
    start.args(["start", "own"]);
    let mut child = terminal.spawn(start)?;
    terminal.screen.wait_for("ready", PATIENCE)?;
    signal_process(child.id(), Signal::KILL)?;
    child.wait()?;
    let listed = own(&host, &labs, "list")?;
    ensure!(listed.out.contains("incomplete"), "{listed:#?}");
    let said = own(&host, &labs, "start own")?;
    ensure!(said.code == 0 && said.err.contains("broken off"), "{said:#?}");
    let said = own(&host, &labs, "check own")?;
    ensure!(said.code == 0, "{said:#?}");
    let started = Instant::now();
    ensure!(own(&host, &labs, "reset --all")?.code == 0);
    ensure!(started.elapsed() < PATIENCE);
    fs::remove_dir_all(labs)?;
    Ok(())
}
