//! The lab's initramfs: a static busybox, the modules that find the root, and a script.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;
use crate::cache::{self, Key};
use crate::{cpio, process};

/// The first program of the lab's kernel: mounts this machine's root and switches to it.
const INIT: &str = include_str!("init");
/// The second one, on this machine's root: runs the command.
const STAGE2: &str = include_str!("stage2");

/// What every lab needs. All other modules are loaded on demand from the kernel's tree.
const MODULES: &[&str] = &["9pnet_virtio", "9p", "overlay", "kvm_amd", "tun", "loop"];

/// The programs that `init` calls before it has the machine's root.
const APPLETS: &[&str] = &["sh", "cp", "insmod", "ln", "mkdir", "mount", "switch_root", "uname"];

const BUSYBOX: &str = "/bin/busybox";

/// Returns the path of the initramfs for `kernel`, built if its inputs have changed.
///
/// # Errors
///
/// Fails when busybox or a module is missing, or when the cache can't be written.
pub(crate) fn obtain(kernel: &Kernel) -> Result<PathBuf> {
    let busybox = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    let key = Key::default()
        .with(&busybox)
        .with(INIT)
        .with(STAGE2)
        .with(MODULES.join(" "))
        .with(APPLETS.join(" "))
        .with(kernel.release())
        .finish();
    let dir = cache::entry(&format!("lab/initramfs-{key}"), |dir| {
        let archive = build(kernel, &busybox)?;
        fs::write(dir.join("initramfs.cpio"), archive).context("cannot write the initramfs")
    })?;
    Ok(dir.join("initramfs.cpio"))
}

fn build(kernel: &Kernel, busybox: &[u8]) -> Result<Vec<u8>> {
    let mut archive = cpio::Writer::new(Vec::new());
    for directory in ["bin", "dev", "lower", "modules", "proc", "root", "rw", "sys"] {
        archive.directory(directory)?;
    }
    archive.file("bin/busybox", 0o755, busybox)?;
    for applet in APPLETS {
        archive.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("stage2", 0o755, STAGE2.as_bytes())?;
    // Numbered, so that the script loads them in order by a glob.
    for (index, file) in kernel.module_files(MODULES)?.iter().enumerate() {
        archive.file(&format!("modules/{index:02}.ko"), 0o644, &unpacked(file)?)?;
    }
    Ok(archive.finish()?)
}

/// Reads a module, unpacked: the emulated machine would take far longer to do it.
fn unpacked(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    }
    let mut command = Command::new("xz");
    command.args(["--decompress", "--stdout"]).arg(path).stdin(Stdio::null());
    let output = command.output().map_err(|error| process::spawn_error(&command, error))?;
    ensure!(output.status.success(), "`{}` failed ({})", process::line(&command), output.status);
    Ok(output.stdout)
}
