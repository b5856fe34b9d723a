//! A pseudo terminal for a program that wants one: what's typed on it, what's on its screen, and
//! whether the program leaves it as it was.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::artifacts;
use crate::console::Console;

/// A pseudo terminal.
pub struct Terminal {
    /// The side of whoever types.
    keys: File,
    /// The side that programs get.
    side: OwnedFd,
    /// What programs have printed.
    pub screen: Console,
    modes_before: String,
}

impl Terminal {
    /// Makes one; `name` names the log of what's on its screen.
    pub fn new(name: &str) -> Result<Self> {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&keys)?;
        unlockpt(&keys)?;
        let side = open(ptsname(&keys, Vec::new())?, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        // Something that a plain reset wouldn't give back.
        stty(&side, &["ixany", "-echoctl"])?;
        let modes_before = stty(&side, &["-g"])?;
        let keys = File::from(keys);
        let log = artifacts::log_directory()?.join(format!("{name}.console.log"));
        let screen = Console::read(keys.try_clone()?, &log)?;
        Ok(Self { keys, side, screen, modes_before })
    }

    /// Starts a program with all of its streams on the terminal.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        command
            .stdin(self.side.try_clone()?)
            .stdout(self.side.try_clone()?)
            .stderr(self.side.try_clone()?)
            .spawn()
            .with_context(|| format!("start {command:?}"))
    }

    /// Types.
    pub fn type_keys(&mut self, keys: &[u8]) -> Result<()> {
        Ok(self.keys.write_all(keys)?)
    }

    /// Requires its modes to be others than at first.
    pub fn expect_raw(&self) -> Result<()> {
        let modes = stty(&self.side, &["-g"])?;
        ensure!(modes != self.modes_before, "the terminal isn't raw");
        Ok(())
    }

    /// Requires its modes to be those that it had at first.
    pub fn expect_restored(&self) -> Result<()> {
        let modes = stty(&self.side, &["-g"])?;
        ensure!(modes == self.modes_before, "{} before, {modes} after", self.modes_before);
        Ok(())
    }
}

/// Runs `stty` on a terminal.
fn stty(terminal: &OwnedFd, arguments: &[&str]) -> Result<String> {
    let stdin = Stdio::from(terminal.try_clone()?);
    let output = Command::new("stty").args(arguments).stdin(stdin).output()?;
    ensure!(output.status.success(), "stty {arguments:?}");
    Ok(String::from_utf8(output.stdout)?)
}
