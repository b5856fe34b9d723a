//! The shell in a guest, on the console that is the machine's standard streams.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::super::measure::{Ahead, MARK};
use crate::process;

/// How much of a console an error shows.
const SHOWN_LINES: usize = 30;

/// A running machine with a shell on its console. Dropping it kills the machine.
pub(super) struct Shell {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// What was read and not yet looked at.
    pending: Vec<u8>,
}

impl Shell {
    /// Starts a machine and waits for its shell.
    ///
    /// # Errors
    ///
    /// Fails when the machine can't be started, or ends before its guest is up.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| process::spawn_error(command, error))?;
        let input = child.stdin.take().context("the console is piped")?;
        let output = child.stdout.take().context("the console is piped")?;
        let mut shell = Self { child, input, output, pending: Vec::new() };
        shell.read_until(MARK)?;
        // Takes what the shell prints at its start, and shows that it listens.
        shell.run("true")?;
        Ok(shell)
    }

    /// Runs one line of shell, of which nothing is printed unless it fails.
    ///
    /// # Errors
    ///
    /// Fails when the line does, or when the machine ends.
    pub(super) fn run(&mut self, line: &str) -> Result<()> {
        // The marker is put together by the shell, so that no echo of the line looks like it.
        let typed = format!(
            "{{ {line}; }} >/tmp/log 2>&1; s=$?; [ $s = 0 ] || tail -n 20 /tmp/log; \
             echo \"@@st\"\"atus:$s@@\"\n"
        );
        self.input.write_all(typed.as_bytes()).context("cannot type on the console")?;
        let _ahead = Ahead::of_others()?;
        let text = self.read_until(b"@@status:")?;
        let status = self.read_until(b"@@")?;
        ensure!(
            status == "0",
            "`{line}` failed in the guest ({status}){}",
            process::last_lines(&text, SHOWN_LINES)
        );
        Ok(())
    }

    /// Reads up to `mark` and returns what was before it.
    fn read_until(&mut self, mark: &[u8]) -> Result<String> {
        let mut buffer = [0; 4096];
        loop {
            let place = self.pending.windows(mark.len()).position(|bytes| bytes == mark);
            if let Some(place) = place {
                let text = String::from_utf8_lossy(&self.pending[..place]).into_owned();
                self.pending.drain(..place + mark.len());
                return Ok(text);
            }
            let count = self.output.read(&mut buffer).context("cannot read the console")?;
            if count == 0 {
                let text = String::from_utf8_lossy(&self.pending).into_owned();
                bail!("the console ended{}", process::last_lines(&text, SHOWN_LINES));
            }
            self.pending.extend_from_slice(&buffer[..count]);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may have ended by itself; a zombie is all that could be left, and it is reaped here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
