//! What the tests of this suite share: a registry of VMs of their own, and guests behind
//! `vmctl vm console`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::artifacts;
use integration_tests::console::Console;
use integration_tests::guest::{Guest, Machine};
use integration_tests::vm::wait_process;
use serde_json::Value;
use tempfile::TempDir;

/// What the tests' initramfs needs on the kernel's command line.
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet reboot=k panic=-1 rdinit=/init";

/// A guest behind `vmctl vm console`.
pub(crate) type AttachedGuest = Guest<Attached>;

/// A directory of its own for a test, with a registry of VMs in it. All of them end with it.
pub(crate) struct Host {
    directory: TempDir,
    name: String,
    ended_well: bool,
}

/// What a `vmctl` printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Host {
    /// Makes one for the test `name`.
    pub(crate) fn new(name: &str) -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, name: name.to_owned(), ended_well: false })
    }

    /// Returns the path of a file in the directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes a disk whose first bytes are `text`.
    pub(crate) fn disk(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.file(name);
        let file = File::create(&path)?;
        file.set_len(16 << 20)?;
        file.write_all_at(text.as_bytes(), 0)?;
        Ok(path)
    }

    /// Lists the names of the files in the directory that have one of these `parts`, sorted.
    pub(crate) fn listing(&self, parts: &[&str]) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.directory.path())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if parts.iter().any(|part| name.contains(part)) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Has a command use this registry, and find files under their names alone.
    pub(crate) fn equip(&self, mut command: Command) -> Command {
        command.current_dir(self.directory.path()).env("VMCTL_RUNTIME_DIR", self.file("run"));
        command
    }

    /// Prepares `vmctl` with the words of `line`.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = self.equip(Command::new(artifacts::vmctl()));
        command.args(line.split_whitespace());
        command
    }

    fn run(&self, command: &mut Command) -> Result<Ran> {
        let output = command.stdin(Stdio::null()).output().context("run vmctl")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Ok(Ran { code: output.status.code(), stdout, stderr })
    }

    /// Runs `vmctl`, which must succeed, and returns what it printed.
    pub(crate) fn vmctl(&self, line: &str) -> Result<String> {
        let ran = self.run(&mut self.command(line))?;
        ensure!(ran.code == Some(0), "vmctl {line}: {ran:?}");
        Ok(ran.stdout)
    }

    /// The same for a command that prints one value as JSON.
    pub(crate) fn json(&self, line: &str) -> Result<Value> {
        let text = self.vmctl(line)?;
        serde_json::from_str(&text).with_context(|| format!("vmctl {line}: {text}"))
    }

    /// Runs `vmctl`, which must fail with 1 and an error with `words` in it.
    pub(crate) fn refuses(&self, line: &str, words: &str) -> Result<()> {
        let ran = self.run(&mut self.command(line))?;
        ensure!(ran.code == Some(1) && ran.stdout.is_empty(), "vmctl {line}: {ran:?}");
        ensure!(ran.stderr.starts_with("error: "), "vmctl {line}: {ran:?}");
        ensure!(ran.stderr.contains(words), "vmctl {line}: no {words:?} in {ran:?}");
        Ok(())
    }

    /// Boots the lean kernel with the tests' shell, detached, and returns its identifier.
    pub(crate) fn boot(&self, name: &str, more: &str) -> Result<String> {
        let mut command =
            self.command(&format!("boot --detach --name {name} --memory 128M {more}"));
        command.arg("--kernel").arg(artifacts::lean_kernel());
        command.arg("--initrd").arg(artifacts::lean_initrd());
        let ran = self.run(command.args(["--cmdline", CMDLINE]))?;
        ensure!(ran.code == Some(0) && ran.stderr.is_empty(), "boot {name}: {ran:?}");
        Ok(ran.stdout.trim().to_owned())
    }

    /// Connects to the console of a VM.
    fn attach(&self, name: &str) -> Result<Attached> {
        let log = artifacts::log_directory()?.join(format!("{}_{name}.console.log", self.name));
        let mut command = self.command(&format!("vm console {name}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let stdin = child.stdin.take().context("no stdin")?;
        Ok(Attached { stdin, console: Console::read(stdout, &log)?, log, child })
    }

    /// Waits for the shell of a VM that was booted.
    pub(crate) fn booted(&self, name: &str) -> Result<AttachedGuest> {
        Guest::wait_ready(self.attach(name)?)
    }

    /// Waits for the shell of a VM that came out of one whose shell waited for commands.
    pub(crate) fn resumed(&self, name: &str) -> Result<AttachedGuest> {
        Guest::resumed(self.attach(name)?)
    }

    /// Returns what `vmctl vm ls` says of a VM.
    pub(crate) fn row(&self, name: &str) -> Result<Value> {
        let list = self.json("vm ls --json")?;
        let row = list.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name));
        row.cloned().with_context(|| format!("no {name} in {list}"))
    }

    /// Requires a VM's status to be this one.
    pub(crate) fn expect_status(&self, name: &str, status: &str) -> Result<()> {
        let row = self.row(name)?;
        ensure!(row["status"] == status, "{name} isn't {status}: {row}");
        Ok(())
    }

    /// Returns the configuration of a VM that runs, as its VMM has it.
    pub(crate) fn config(&self, name: &str) -> Result<Value> {
        Ok(self.json(&format!("vm inspect {name}"))?[0]["config"].clone())
    }

    /// Requires all VMs to be gone, and their directories with them.
    pub(crate) fn finish(mut self) -> Result<()> {
        let list = self.json("vm ls --json")?;
        ensure!(list == serde_json::json!([]), "there are VMs left: {list}");
        let left = std::fs::read_dir(self.file("run/vms"))?.count();
        ensure!(left == 0, "{left} directories of VMs that are gone");
        self.ended_well = true;
        Ok(())
    }

    /// Copies what the VMMs have logged to where the test's other logs are.
    fn keep_logs(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.file("run/vms"))? {
            let directory = entry?.path();
            let id = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let kept = artifacts::log_directory()?.join(format!("{}_{id}.vmm.log", self.name));
            std::fs::copy(directory.join("vmm.log"), kept)?;
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.ended_well {
            return;
        }
        // The test has failed already: what fails here is no news.
        let _ = self.keep_logs();
        for id in self.vmctl("vm ls --quiet").unwrap_or_default().lines() {
            let _ = self.vmctl(&format!("vm rm --force {id}"));
        }
    }
}

/// A `vmctl vm console`, killed when dropped.
pub(crate) struct Attached {
    child: Child,
    stdin: ChildStdin,
    console: Console,
    log: PathBuf,
}

impl Machine for Attached {
    fn console(&self) -> &Console {
        &self.console
    }

    fn type_line(&mut self, line: &str) -> Result<()> {
        Ok(self.stdin.write_all(format!("{line}\n").as_bytes())?)
    }

    fn expect_exit(&mut self, code: i32) -> Result<()> {
        expect_exit(&mut self.child, code).with_context(|| self.console.text())?;
        let _ = std::fs::remove_file(&self.log);
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Both do nothing to a process that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a process to end with `code`.
pub(crate) fn expect_exit(child: &mut Child, code: i32) -> Result<()> {
    ensure!(wait_process(child.id(), PATIENCE)?, "vmctl doesn't end");
    let status = child.wait()?;
    ensure!(status.code() == Some(code), "vmctl ended with {status} instead of {code}");
    Ok(())
}

/// The first line of a guest's disk, read from the disk itself.
pub(crate) fn first_line(guest: &mut AttachedGuest, disk: &str) -> Result<String> {
    guest.run("echo 3 >/proc/sys/vm/drop_caches")?;
    guest.run(&format!("dd if={disk} bs=512 count=1 2>/dev/null | head -n 1"))
}

/// Writes the first line of a guest's disk, durably.
pub(crate) fn write_line(guest: &mut AttachedGuest, disk: &str, line: &str) -> Result<()> {
    let write = format!("echo {line} | dd of={disk} bs=512 count=1 conv=sync,fsync 2>/dev/null");
    guest.run(&write).map(drop)
}

/// Whether there is a socket at `path`.
pub(crate) fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}
