//! What `cargo xtask test` built and says where to find.

use std::path::PathBuf;

use anyhow::{Context, Result};

fn variable(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(value) => PathBuf::from(value),
        None => panic!("{name} is not set: these suites are run by `cargo xtask test`"),
    }
}

fn artifact(name: &str) -> PathBuf {
    let path = variable("VMCTL_ARTIFACTS").join(name);
    assert!(path.exists(), "{path:?} is missing: `cargo xtask test` makes it");
    path
}

/// The `vmctl` under test. It finds the `vmm` beside it.
pub fn vmctl() -> PathBuf {
    variable("VMCTL_BIN")
}

/// The `vmm` under test.
pub fn vmm() -> PathBuf {
    variable("VMM_BIN")
}

/// The lean kernel, a `vmlinux`.
pub fn lean_kernel() -> PathBuf {
    artifact("lean/vmlinux")
}

/// An initramfs with busybox and the tests' init, for the lean kernel.
pub fn lean_initrd() -> PathBuf {
    artifact("lean/initrd")
}

/// Debian's unmodified cloud kernels, as (name, bzImage, initramfs with their virtio modules and
/// the tests' init).
pub fn stock_kernels() -> Vec<(&'static str, PathBuf, PathBuf)> {
    ["6.1", "6.12"]
        .map(|version| {
            let directory = format!("stock-{version}");
            (
                version,
                artifact(&format!("{directory}/vmlinuz")),
                artifact(&format!("{directory}/initrd")),
            )
        })
        .to_vec()
}

/// A Debian root file system with systemd, ext4, to be opened read-only or copied.
pub fn debian_disk() -> PathBuf {
    artifact("debian/root.img")
}

/// An initramfs that puts a writable layer above the Debian disk and runs the tests' init on it.
pub fn debian_shell_initrd() -> PathBuf {
    artifact("debian/shell-initrd")
}

/// The root of Docker's files, unpacked as they'd be installed.
pub fn docker() -> PathBuf {
    artifact("docker")
}

/// The storage of a registry with container images, not to be written to.
pub fn registry() -> PathBuf {
    artifact("registry")
}

/// Where tools that a suite installs stay from run to run.
pub fn tools() -> PathBuf {
    variable("VMCTL_ARTIFACTS").with_file_name("test-tools")
}

/// Tells whether the suites run in the lab, where every instruction is emulated.
pub fn in_lab() -> bool {
    std::env::var_os("LAB_RESULTS").is_some()
}

/// Where consoles are logged; what stays there belongs to tests that failed.
pub fn log_directory() -> Result<PathBuf> {
    let directory = variable("VMCTL_TEST_LOGS");
    std::fs::create_dir_all(&directory).with_context(|| format!("create {directory:?}"))?;
    Ok(directory)
}
