//! What the tests of this suite share: a directory with images in it, and VMs that use them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use api::config::{DriveSpec, VmSpec};
use integration_tests::PATIENCE;
use integration_tests::api_vm::ApiVm;
use integration_tests::guest::Guest;
use integration_tests::transfer::random_bytes;
use tempfile::TempDir;

/// A guest in a VM that's driven over its API.
pub(crate) type ApiGuest = Guest<ApiVm>;

/// A mebibyte in bytes.
pub(crate) const MIB: u64 = 1 << 20;

/// Where one test keeps its images and its VM's socket.
pub(crate) struct Place {
    directory: TempDir,
    name: String,
}

impl Place {
    /// Makes one for the test `name`.
    pub(crate) fn new(name: &str) -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, name: name.to_owned() })
    }

    /// Returns the directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the name of the test.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of a file in the directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Makes a file of so many bytes, of which the first 64 KiB are random.
    pub(crate) fn image(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.file(name);
        let file = File::create(&path)?;
        file.set_len(bytes)?;
        file.write_all_at(&random_bytes(65536)?, 0)?;
        Ok(path)
    }

    /// Makes such an image and describes it as a drive.
    pub(crate) fn drive(&self, id: &str, bytes: u64) -> Result<DriveSpec> {
        let path_on_host = Some(self.image(&format!("{id}.img"), bytes)?);
        Ok(DriveSpec { drive_id: id.to_owned(), path_on_host, ..DriveSpec::default() })
    }

    /// Starts a `vmm`.
    pub(crate) fn vmm(&self) -> Result<ApiVm> {
        ApiVm::spawn(&self.name, self.path())
    }

    /// Boots what `spec` describes.
    pub(crate) fn boot(&self, spec: VmSpec) -> Result<ApiGuest> {
        self.vmm()?.boot(spec)
    }
}

/// Returns the first `count` bytes of a file.
pub(crate) fn head(path: &Path, count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    File::open(path)?.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Asks `what` again and again until it's true: for what nothing announces.
pub(crate) fn eventually(name: &str, mut what: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !what()? {
        ensure!(Instant::now() < deadline, "never so: {name}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
