//! A guest on a terminal: raw while it runs, and as it was after each sort of end.

use std::process::Child;

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::terminal::Terminal;
use integration_tests::vm::{Boot, signal_process, wait_process};
use rustix::process::Signal;

/// A pseudo terminal with a guest on it.
struct Session {
    terminal: Terminal,
    vmctl: Child,
}

impl Session {
    /// Boots a guest and waits for its shell.
    fn start(test: &str) -> Result<Self> {
        let terminal = Terminal::new(&format!("terminal_{test}"))?;
        let boot = Boot::lean(test).flag("--shutdown-timeout", "1");
        let vmctl = terminal.spawn(boot.into_command())?;
        let session = Self { terminal, vmctl };
        session.terminal.screen.wait_for("Connected to the guest's console.", PATIENCE)?;
        session.terminal.screen.wait_for("@@ready@@", PATIENCE)?;
        session.terminal.expect_raw()?;
        Ok(session)
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
        let text = self.terminal.screen.text();
        ensure!(status.code() == Some(code), "{status} on {text}");
        self.terminal.expect_restored()?;
        let errors = text.matches("error: ").count();
        ensure!(errors == usize::from(code != 0), "{errors} errors on {text}");
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

#[test]
fn terminal_is_as_it_was_after_power_off() -> Result<()> {
    let mut session = Session::start("power_off")?;
    // Ctrl-C is the guest's while it has the terminal: vmctl runs on.
    session.terminal.type_keys(b"\x03")?;
    session.terminal.type_keys(b"echo still\"\"there; poweroff -f\r")?;
    session.terminal.screen.wait_for("stillthere", PATIENCE)?;
    session.expect_end(0)
}

#[test]
fn terminal_is_as_it_was_after_the_escape_sequence() -> Result<()> {
    let mut session = Session::start("escape")?;
    session.terminal.type_keys(b"\x01h")?;
    session.terminal.screen.wait_for("presses the guest's power button", PATIENCE)?;
    session.terminal.type_keys(b"\x01x")?;
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
