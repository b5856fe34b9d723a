//! Debian's own kernels, unpacked into the cache and not installed: installing one would change
//! how this machine boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::step;
use crate::{cache, packages, process};

/// Where a kernel comes from, and where it goes.
pub(crate) struct Source {
    /// The name of its cache entry.
    pub(crate) cache_name: &'static str,
    /// Packages that depend on it, best first; Debian's releases differ in what they have.
    pub(crate) metapackages: &'static [&'static str],
    /// How the name of the kernel's own package begins, which says the version that we want.
    pub(crate) prefix: &'static str,
}

/// An unpacked kernel package.
pub(crate) struct DebianKernel {
    root: PathBuf,
    release: String,
}

impl DebianKernel {
    /// Returns the cached kernel; downloads the current one if there is none.
    ///
    /// # Errors
    ///
    /// Fails when the package can't be found, downloaded or unpacked.
    pub(crate) fn obtain(source: &Source) -> Result<Self> {
        let root = cache::entry(source.cache_name, |dir| {
            let metapackage = packages::first_known(source.metapackages)?;
            let package = packages::dependency(metapackage, source.prefix)?;
            step(&format!("Downloading Debian's {package}"), || {
                packages::unpack(&[&package], dir)?;
                let release = find_release(dir)?;
                process::run(Command::new("/sbin/depmod").arg("-b").arg(dir).arg(release))
            })
        })?;
        let release = find_release(&root)?;
        Ok(Self { root, release })
    }

    /// Returns the kernel's release, as `uname -r` prints it.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// Returns the path of the bootable image.
    pub(crate) fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Returns the directory of the kernel's modules.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// Returns the files of the named modules and of those that they need, in loading order.
    /// A module that is built in has no file.
    ///
    /// # Errors
    ///
    /// Fails when the kernel has no such module.
    pub(crate) fn module_files(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let modules = self.modules();
        let read = |file: &str| {
            let path = modules.join(file);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let index = read("modules.dep")?;
        let builtin = read("modules.builtin")?;
        Ok(load_order(&index, &builtin, names)?.iter().map(|file| modules.join(file)).collect())
    }
}

fn find_release(root: &Path) -> Result<String> {
    let modules = root.join("lib/modules");
    let entry = modules
        .read_dir()
        .with_context(|| format!("cannot list {}", modules.display()))?
        .next()
        .with_context(|| format!("{} is empty", modules.display()))??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Orders modules by the lines of a `modules.dep`: `FILE: NEEDED…`, the last needed one loaded first.
fn load_order<'a>(index: &'a str, builtin: &str, names: &[&str]) -> Result<Vec<&'a str>> {
    let mut order: Vec<&str> = Vec::new();
    for name in names {
        if builtin.lines().any(|file| module_name(file) == *name) {
            continue;
        }
        let (file, needed) = index
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(file, _)| module_name(file) == *name)
            .with_context(|| format!("the kernel has no module {name}"))?;
        for file in needed.split_whitespace().rev().chain([file]) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    Ok(order)
}

/// Returns a module's name, which has underscores where its file name may have hyphens.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "fs/9p.ko.xz: net/9pnet.ko.xz fs/netfs.ko.xz\n\
                         net/9pnet.ko.xz: fs/netfs.ko.xz\n\
                         arch/kvm-amd.ko: arch/kvm.ko\n";

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let order = load_order(INDEX, "", &["9pnet", "9p", "kvm_amd"]).unwrap();
        let expected =
            ["fs/netfs.ko.xz", "net/9pnet.ko.xz", "fs/9p.ko.xz", "arch/kvm.ko", "arch/kvm-amd.ko"];
        assert_eq!(order, expected);
    }

    #[test]
    fn built_in_module_needs_no_file() {
        assert!(load_order(INDEX, "kernel/virtio-pci.ko\n", &["virtio_pci"]).unwrap().is_empty());
    }

    #[test]
    fn unknown_module_is_an_error_that_names_it() {
        let error = load_order(INDEX, "", &["floppy"]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module floppy");
    }
}
