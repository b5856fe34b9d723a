//! Initramfs images: a static busybox with an init script and, if need be, kernel modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cache::{self, Key};
use crate::debian_kernel::DebianKernel;
use crate::{cpio, process};

/// From the package `busybox-static`.
const BUSYBOX: &str = "/bin/busybox";

/// What goes into an image, besides busybox.
pub(crate) struct Recipe<'a> {
    /// The name of its cache entry, to which the hash of its content is added.
    pub(crate) cache_name: &'a str,
    /// The script that the kernel starts.
    pub(crate) init: &'a str,
    /// More files, by their absolute paths; their directories come with them.
    pub(crate) files: &'a [(&'a str, &'a [u8])],
    /// The kernel that the modules are of, and their names. What they need comes with them.
    pub(crate) modules: Option<(&'a DebianKernel, &'a [&'a str])>,
}

impl Recipe<'_> {
    /// Returns the path of the image, built if it isn't cached.
    ///
    /// `/modules.order` in it lists the modules' paths in loading order.
    ///
    /// # Errors
    ///
    /// Fails when busybox or a module is missing, or when the cache can't be written.
    pub(crate) fn obtain(&self) -> Result<PathBuf> {
        let busybox = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
        let mut key = Key::default().with(&busybox).with(self.init);
        for (path, content) in self.files {
            key = key.with(path).with(content);
        }
        if let Some((kernel, names)) = self.modules {
            key = key.with(kernel.release()).with(names.join(" "));
        }
        let name = format!("{}-{}", self.cache_name, key.finish());
        let dir = cache::entry(&name, |dir| {
            let archive = self.build(&busybox)?;
            fs::write(dir.join("initramfs.cpio"), archive).context("cannot write the initramfs")
        })?;
        Ok(dir.join("initramfs.cpio"))
    }

    fn build(&self, busybox: &[u8]) -> Result<Vec<u8>> {
        let mut archive = cpio::Writer::new(Vec::new());
        for directory in ["bin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp"] {
            archive.directory(directory)?;
        }
        archive.symlink("sbin", "bin")?;
        archive.file("bin/busybox", 0o755, busybox)?;
        for applet in process::capture(Command::new(BUSYBOX).arg("--list"))?.lines() {
            if applet != "busybox" {
                archive.symlink(&format!("bin/{applet}"), "busybox")?;
            }
        }
        archive.file("init", 0o755, self.init.as_bytes())?;
        for (path, content) in self.files {
            archive.file(path.trim_start_matches('/'), 0o755, content)?;
        }
        if let Some((kernel, names)) = self.modules {
            add_modules(&mut archive, &kernel.module_files(names)?)?;
        }
        Ok(archive.finish()?)
    }
}

fn add_modules(archive: &mut cpio::Writer<Vec<u8>>, files: &[PathBuf]) -> Result<()> {
    let mut order = String::new();
    for file in files {
        let name = file.file_name().context("a module has a file name")?.to_string_lossy();
        let name = format!("modules/{}", name.trim_end_matches(".xz"));
        archive.file(&name, 0o644, &unpacked(file)?)?;
        order += &format!("/{name}\n");
    }
    archive.file("modules.order", 0o644, order.as_bytes())?;
    Ok(())
}

/// Reads a module, unpacked: an emulated machine would take far longer to do it.
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
