//! A shell inside a guest: `tests/guest/init` on its serial console.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::PATIENCE;
use crate::console::Console;
use crate::vm::Vm;

/// The most of a line that is typed at once: a terminal takes no line of 4096 bytes, the shell's
/// own editor less.
const LINE_BYTES: usize = 700;

/// A process with a machine in it, whose console is at hand.
pub trait Machine {
    /// What the guest prints.
    fn console(&self) -> &Console;

    /// Types a line on the guest's console.
    fn type_line(&mut self, line: &str) -> Result<()>;

    /// Waits for the process to end with `code`.
    fn expect_exit(&mut self, code: i32) -> Result<()>;
}

/// A guest whose console is a shell that waits for commands.
pub struct Guest<M = Vm> {
    /// The machine that it runs in.
    pub vm: M,
}

/// What a command in the guest printed (both streams) and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The shell's `$?`.
    pub status: i32,
    /// What it printed, without the last line's end.
    pub text: String,
}

impl<M: Machine> Guest<M> {
    /// Waits until the guest's init is ready for commands.
    pub fn wait_ready(vm: M) -> Result<Self> {
        vm.console().wait_for("@@ready@@", PATIENCE).context("the guest didn't come up")?;
        let mut guest = Self { vm };
        // Takes what the shell itself prints at its start, and shows that it listens.
        guest.run("true")?;
        Ok(guest)
    }

    /// Waits until the shell of a guest that was saved while it waited for commands answers.
    pub fn resumed(vm: M) -> Result<Self> {
        let mut guest = Self { vm };
        guest.run("true").context("the restored guest's shell doesn't answer")?;
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
        let text = self.vm.console().wait_for("@@status:", limit)?;
        let status = self.vm.console().wait_for("@@", limit)?;
        let status = status.parse().with_context(|| format!("status {status:?}"))?;
        let text = text.replace('\r', "");
        Ok(Output { status, text: text.trim_matches('\n').to_owned() })
    }

    /// Writes the file `path` in the guest, line by line.
    pub fn write_file(&mut self, path: &str, text: &str) -> Result<()> {
        self.run(&format!(": >{path}"))?;
        for line in text.lines() {
            ensure!(line.len() < LINE_BYTES, "{line:?} is too long to be typed");
            let quoted = line.replace('\'', r"'\''");
            self.run(&format!("printf '%s\\n' '{quoted}' >>{path}"))?;
        }
        Ok(())
    }

    /// Powers the guest off from inside; the process must end with 0.
    pub fn power_off(mut self) -> Result<()> {
        self.vm.type_line("poweroff -f")?;
        self.vm.expect_exit(0)
    }
}
