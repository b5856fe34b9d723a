//! A directory with what requests name, and a `vmm` in it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use integration_tests::api_vm::ApiVm;
use integration_tests::artifacts;
use integration_tests::curl::ask;
use integration_tests::guest::Machine;
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;

/// The kernel, which none is.
pub(crate) const KERNEL: &str = "vmlinux";

/// Disk images that are there.
pub(crate) const IMAGES: [&str; 3] = ["root.img", "data.img", "pmem.img"];

/// A named pipe that nobody reads or writes.
pub(crate) const PIPE: &str = "pipe";

const IMAGE_BYTES: u64 = 4 << 20;

/// The directory, removed when dropped.
pub(crate) struct Workshop {
    directory: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        fs::write(path.join(KERNEL), "no kernel")?;
        for image in IMAGES {
            File::create(path.join(image))?.set_len(IMAGE_BYTES)?;
        }
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, path.join(PIPE), FileType::Fifo, mode, 0)
            .context("make a named pipe")?;
        Ok(Self { directory })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a `vmm` that finds the files under their names alone.
    pub(crate) fn vmm(&self, test: &str) -> Result<ApiVm> {
        let mut command = Command::new(artifacts::vmm());
        command.current_dir(self.path());
        ApiVm::spawn_by(command, test, self.path())
    }
}

/// Ends a VMM without a guest by its API.
pub(crate) fn end(mut vmm: ApiVm) -> Result<()> {
    ask(vmm.socket(), "POST", "/ext/v1/kill", "")?;
    vmm.expect_exit(i32::from(api::exit::FAILURE))
}
