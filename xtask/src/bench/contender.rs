//! What is compared: programs that boot the same guests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::What;

/// The guest kernel's command line, the same for all. An early console, or a chatty one, would
/// measure the serial port.
pub(super) const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 quiet";

/// A guest to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Guest {
    /// Our own kernel, a vmlinux, entered by PVH.
    Lean,
    /// Debian's unmodified cloud kernel 6.12, a bzImage that unpacks itself, with its modules.
    Stock,
}

impl Guest {
    /// Returns the guests that a measurement needs.
    pub(super) fn of(what: What) -> &'static [Self] {
        match what {
            What::Boot | What::All => &[Self::Lean, Self::Stock],
            What::Memory => &[Self::Lean],
            What::Block | What::Net | What::Snapshot | What::Containers => &[],
        }
    }

    /// Returns the name for tables.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Lean => "lean kernel",
            Self::Stock => "Debian's 6.12",
        }
    }

    /// Returns the guest's memory in MiB.
    pub(super) fn memory_mib(self) -> u64 {
        match self {
            Self::Lean => 128,
            Self::Stock => 256,
        }
    }

    fn files(self) -> [&'static str; 2] {
        match self {
            Self::Lean => ["lean/vmlinux", "lean/initrd"],
            Self::Stock => ["stock-6.12/vmlinuz", "stock-6.12/initrd"],
        }
    }
}

/// A program that boots guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Program {
    /// Our VMM by itself.
    Vmm,
    /// Our command line and the VMM that it starts, together.
    Vmctl,
    /// `qemu-system-x86_64 -M microvm`.
    Qemu,
}

impl Program {
    /// All programs, in the order that they take turns in.
    pub(super) const ALL: [Self; 3] = [Self::Vmm, Self::Vmctl, Self::Qemu];

    /// Returns the name for tables.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Vmm => "vmm",
            Self::Vmctl => "vmctl boot",
            Self::Qemu => "QEMU microvm",
        }
    }
}

/// Copies of everything that is measured, on a file system that costs next to nothing to read:
/// the lab's root is a network file system, whose work would be counted.
pub(super) struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    /// Copies the programs in `programs` and what the guests boot from in `artifacts`.
    ///
    /// # Errors
    ///
    /// Fails when something is missing.
    pub(super) fn new(what: What, programs: &Path, artifacts: &Path) -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
        let stage = Self { dir };
        for program in ["vmm", "vmctl"] {
            copy(&programs.join(program), &stage.path(program))?;
        }
        for guest in Guest::of(what) {
            for file in guest.files() {
                copy(&artifacts.join(file), &stage.path(file))?;
            }
            let file = stage.path(&config_name(*guest));
            fs::write(&file, stage.config(*guest).to_string())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(stage)
    }

    /// Returns the command with which `program` boots `guest`, its console on standard streams.
    pub(super) fn command(&self, program: Program, guest: Guest) -> Command {
        let [kernel, initrd] = guest.files().map(|file| self.path(file));
        let memory = format!("{}M", guest.memory_mib());
        let mut command;
        match program {
            Program::Vmm => {
                command = Command::new(self.path("vmm"));
                command.arg("--no-api").arg("--config-file").arg(self.path(&config_name(guest)));
            }
            Program::Vmctl => {
                command = Command::new(self.path("vmctl"));
                command.args(["boot", "--cpus", "1", "--memory", &memory, "--console", "stdio"]);
                command.arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
                command.args(["--cmdline", CMDLINE]);
                // What it keeps between boots starts out empty, and on the stage's file system.
                command.env("XDG_CACHE_HOME", self.path("cache"));
            }
            Program::Qemu => {
                command = Command::new("qemu-system-x86_64");
                command.args(["-M", "microvm", "-accel", "kvm", "-cpu", "host", "-smp", "1"]);
                command.args(["-m", &memory, "-nodefaults", "-no-user-config", "-no-reboot"]);
                command.args(["-display", "none", "-serial", "stdio"]);
                command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
                command.args(["-append", CMDLINE]);
            }
        }
        command
    }

    /// Returns the VMM's configuration for a guest.
    fn config(&self, guest: Guest) -> serde_json::Value {
        let [kernel, initrd] = guest.files().map(|file| self.path(file));
        json!({
            "boot-source": {
                "kernel_image_path": kernel,
                "initrd_path": initrd,
                "boot_args": CMDLINE,
            },
            "machine-config": { "vcpu_count": 1, "mem_size_mib": guest.memory_mib() },
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn config_name(guest: Guest) -> String {
    format!("{guest:?}.json")
}

/// Copies a file, and makes the directory that it's to be in.
///
/// # Errors
///
/// Fails when one can't be read or the other can't be written.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let dir = to.parent().context("a staged file is in a directory")?;
    fs::create_dir_all(dir)
        .and_then(|()| fs::copy(from, to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
