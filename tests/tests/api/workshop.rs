//! A directory with what requests name, and `vmm`s in it.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use integration_tests::api_vm::ApiVm;
use integration_tests::artifacts;
use tempfile::TempDir;

/// Disk images that are there.
const IMAGES: [&str; 4] = ["data.img", "other.img", "plugged.img", "pmem.img"];

const IMAGE_BYTES: u64 = 4 << 20;

/// The directory, removed when dropped.
pub(crate) struct Workshop {
    directory: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        symlink(artifacts::lean_kernel(), path.join("vmlinux"))?;
        symlink(artifacts::lean_initrd(), path.join("initrd"))?;
        for image in IMAGES {
            File::create(path.join(image))?.set_len(IMAGE_BYTES).context("make an image")?;
        }
        Ok(Self { directory })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a `vmm` that finds the files under their names alone.
    pub(crate) fn vmm(&self, name: &str) -> Result<ApiVm> {
        let mut command = Command::new(artifacts::vmm());
        command.current_dir(self.path());
        ApiVm::spawn_by(command, name, self.path())
    }
}
