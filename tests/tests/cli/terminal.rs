//! A guest on a terminal: raw while it runs, and as it was after each sort of end.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::artifacts;
use integration_tests::console::Console;
use integration_tests::vm::{Boot, signal_process, wait_process};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A pseudo terminal with a guest on it.
struct Session {
    /// The side of whoever types.
    keys: File,
    /// The side that programs get.
    side: OwnedFd,
    screen: Console,
    vmctl: Child,
    modes_before: String,
}

impl Session {
    /// Boots a guest and waits for its shell.
    fn start(test: &str) -> Result<Self> {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&keys)?;
        unlockpt(&keys)?;
        let side = open(ptsname(&keys, Vec::new())?, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        // Something that a plain reset wouldn't give back.
        stty(&side, &["ixany", "-echoctl"])?;
        let modes_before = stty(&side, &["-g"])?;
        let keys = File::from(keys);
        let log = artifacts::log_directory()?.join(format!("terminal_{test}.console.log"));
        let screen = Console::read(keys.try_clone()?, &log)?;
        let vmctl = Boot::lean(test)
            .flag("--shutdown-timeout", "1")
            .into_command()
            .stdin(side.try_clone()?)
            .stdout(side.try_clone()?)
            .stderr(side.try_clone()?)
            .spawn()?;
        let session = Self { keys, side, screen, vmctl, modes_before };
        session.screen.wait_for("Connected to the guest's console.", PATIENCE)?;
        session.screen.wait_for("@@ready@@", PATIENCE)?;
        let modes = stty(&session.side, &["-g"])?;
        ensure!(modes != session.modes_before, "the terminal isn't raw");
        Ok(session)
    }

    fn type_keys(&mut self, keys: &[u8]) -> Result<()> {
        Ok(self.keys.write_all(keys)?)
    }

    fn vmm_pid(&self) -> Result<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.vmctl.id());
        let text = std::fs::read_to_string(children)?;
        Ok(text.split_whitespace().next().context("vmctl has no child")?.parse()?)
    }

    /// Waits for the end with this exit code, and checks the terminal.
    fn expect_end(mut self, code: i32) -> Result<()> {
        ensure!(wait_process(self.vmctl.id(), PATIENCE)?, "vmctl doesn't end");
        let status = self.vmctl.wait()?;
        ensure!(status.code() == Some(code), "{status} on {}", self.screen.text());
        let modes = stty(&self.side, &["-g"])?;
        ensure!(modes == self.modes_before, "{} before, {modes} after", self.modes_before);
        let errors = self.screen.text().matches("error: ").count();
        ensure!(errors == usize::from(code != 0), "{errors} errors on {}", self.screen.text());
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Both do nothing to a process that was waited for.
        let _ = self.vmctl.kill();
        let _ = self.vmctl.wait();
    }
}

/// Runs `stty` on a terminal.
fn stty(terminal: &OwnedFd, arguments: &[&str]) -> Result<String> {
    let stdin = Stdio::from(terminal.try_clone()?);
    let output = Command::new("stty").args(arguments).stdin(stdin).output()?;
    ensure!(output.status.success(), "stty {arguments:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn terminal_is_as_it_was_after_power_off() -> Result<()> {
    let mut session = Session::start("power_off")?;
    // Ctrl-C is the guest's while it has the terminal: vmctl runs on.
    session.type_keys(b"\x03")?;
    session.type_keys(b"echo still\"\"there; poweroff -f\r")?;
    session.screen.wait_for("stillthere", PATIENCE)?;
    session.expect_end(0)
}

#[test]
fn terminal_is_as_it_was_after_the_escape_sequence() -> Result<()> {
    let mut session = Session::start("escape")?;
    session.type_keys(b"\x01h")?;
    session.screen.wait_for("presses the guest's power button", PATIENCE)?;
    session.type_keys(b"\x01x")?;
    session.expect_end(0)
}

#[test]
fn terminal_is_as_it_was_after_sigterm() -> Result<()> {
    let session = Session::start("sigterm")?;
    signal_process(session.vmctl.id(), Signal::TERM)?;
    session.expect_end(1)
}

#[test]
fn terminal_is_as_it_was_after_the_vmm_was_killed() -> Result<()> {
    let session = Session::start("sigkill")?;
    signal_process(session.vmm_pid()?, Signal::KILL)?;
    session.expect_end(1)
}
