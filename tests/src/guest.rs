//! A shell inside a guest: `tests/guest/init` on its serial console.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::PATIENCE;
use crate::vm::Vm;

/// A guest whose console is a shell that waits for commands.
pub struct Guest {
    /// The machine that it runs in.
    pub vm: Vm,
}

/// What a command in the guest printed (both streams) and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The shell's `$?`.
    pub status: i32,
    /// What it printed, without the last line's end.
    pub text: String,
}

impl Guest {
    /// Waits until the guest's init is ready for commands.
    pub fn wait_ready(vm: Vm) -> Result<Self> {
        vm.console.wait_for("@@ready@@", PATIENCE).context("the guest didn't come up")?;
        let mut guest = Self { vm };
        // Takes what the shell itself prints at its start, and shows that it listens.
        guest.run("true")?;
        Ok(guest)
    }

    /// Runs one line of shell and waits for its end, whatever that is.
    pub fn try_run(&mut self, command: &str) -> Result<Output> {
        self.try_run_within(command, PATIENCE)
    }

    /// The same with a time limit of its own.
    pub fn try_run_within(&mut self, command: &str, limit: Duration) -> Result<Output> {
        self.start(command)?;
        self.finish(limit).with_context(|| format!("running {command:?} in the guest"))
    }

    /// Runs one line of shell that must succeed, and returns what it printed.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let output = self.try_run(command)?;
        ensure!(output.status == 0, "{command:?} ended with {}: {}", output.status, output.text);
        Ok(output.text)
    }

    /// Starts one line of shell; [`finish`](Self::finish) waits for it.
    pub fn start(&mut self, command: &str) -> Result<()> {
        // The marker is put together by the shell, so that no echo of the line can look like it.
        self.vm.type_line(&format!("{{ {command}; }} 2>&1; echo \"@@st\"\"atus:$?@@\""))
    }

    /// Waits for what [`start`](Self::start) started.
    pub fn finish(&mut self, limit: Duration) -> Result<Output> {
        let text = self.vm.console.wait_for("@@status:", limit)?;
        let status = self.vm.console.wait_for("@@", limit)?;
        let status = status.parse().with_context(|| format!("status {status:?}"))?;
        let text = text.replace('\r', "");
        Ok(Output { status, text: text.trim_matches('\n').to_owned() })
    }

    /// Powers the guest off from inside; the process must end with 0.
    pub fn power_off(mut self) -> Result<()> {
        self.vm.type_line("poweroff -f")?;
        self.vm.expect_exit(0)
    }
}
