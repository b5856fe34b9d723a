//! What `vmctl run` needs beside the programs: the guest's kernel and the agent's initramfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::step;
use crate::{cpio, dirs, kernel, process};

/// What guests' programs are built for: this machine, without any library beside the program.
const TARGET: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

/// The initramfs with the agent, as `vmctl` looks for it beside itself.
const AGENT: &str = "agent.cpio";

/// What `vmctl compare` puts into containers and virtual machines, likewise.
const PROBE: &str = "compare-probe";

/// The kernel, likewise.
const KERNEL: &str = "vmlinux";

/// The exercises of `vmctl lab`, likewise.
const LABS: &str = "labs";

/// Builds a package's program of the same name, linked statically: an initramfs has no libraries.
/// Returns its path.
///
/// # Errors
///
/// Fails when it can't be built.
pub(crate) fn build(package: &str) -> Result<PathBuf> {
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", TARGET.replace('-', "_").to_ascii_uppercase());
    process::run(
        Command::new("cargo")
            .args(["build", "--release", "--locked", "--package", package])
            .args(["--target", TARGET])
            .env(flags, "-C target-feature=+crt-static")
            .current_dir(dirs::workspace()),
    )?;
    Ok(dirs::target().join(TARGET).join("release").join(package))
}

/// Builds `vmctl` and `vmm`, and puts beside them what `vmctl run` and `vmctl compare` look for
/// there: the kernel, the agent's initramfs, the program that measures.
///
/// # Errors
///
/// Fails when one of them can't be built.
pub(crate) fn install() -> Result<()> {
    step("Building vmctl and vmm", || {
        process::run(
            Command::new("cargo")
                .args(["build", "--release", "--locked", "--package=vmctl", "--package=vmm"])
                .current_dir(dirs::workspace()),
        )
    })?;
    let agent = step("Building the agent", || build("agent"))?;
    let release = dirs::target().join("release");
    write_initramfs(&agent, &release.join(AGENT))?;
    let probe = step("Building compare-probe", || build(PROBE))?;
    copy_program(&probe, &release.join(PROBE))?;
    dirs::link(&dirs::workspace().join("resources/labs"), &release.join(LABS))?;
    dirs::link(&kernel::ensure()?, &release.join(KERNEL))
}

/// Writes an initramfs whose init is the program at `init`.
fn write_initramfs(init: &Path, output: &Path) -> Result<()> {
    let content = fs::read(init).with_context(|| format!("cannot read {}", init.display()))?;
    let mut archive = cpio::Writer::new(Vec::new());
    archive.directory("dev")?;
    archive.file("init", 0o755, &content)?;
    let archive = archive.finish()?;
    // Its content names the templates that were made with it: the same content is the same file.
    if fs::read(output).is_ok_and(|current| current == archive) {
        return Ok(());
    }
    let temporary = temporary(output);
    fs::write(&temporary, archive)
        .and_then(|()| fs::rename(&temporary, output))
        .with_context(|| format!("cannot write {}", output.display()))
}

/// Copies a program; one that runs now goes on with its old file.
fn copy_program(program: &Path, output: &Path) -> Result<()> {
    let temporary = temporary(output);
    fs::copy(program, &temporary)
        .and_then(|_| fs::rename(&temporary, output))
        .with_context(|| format!("cannot copy {} to {}", program.display(), output.display()))
}

/// Where a file is written before it takes the place of another.
fn temporary(output: &Path) -> PathBuf {
    output.with_added_extension(format!("{}", std::process::id()))
}
