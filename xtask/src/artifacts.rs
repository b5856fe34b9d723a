//! What guests are booted from in the demo, the tests and the measurements: kernels, initramfs
//! images and a Debian root disk. Each is cached by the hash of what it is made of.

mod disk;
mod docker;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::debian_kernel::{DebianKernel, Source};
use crate::initramfs::Recipe;
use crate::{dirs, images, kernel};

pub(crate) use self::disk::debian_disk;

/// Debian's unmodified cloud kernels, with the names of their directories among the artifacts.
const STOCK_KERNELS: &[(&str, Source)] = &[
    (
        "stock-6.1",
        Source {
            cache_name: "stock/6.1",
            metapackages: &["linux-image-cloud-amd64"],
            prefix: "linux-image-6.1.",
        },
    ),
    (
        "stock-6.12",
        Source {
            cache_name: "stock/6.12",
            metapackages: &["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"],
            prefix: "linux-image-6.12.",
        },
    ),
];

/// What the stock kernels have as modules and our machine has as devices.
const STOCK_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "vmw_vsock_virtio_transport",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
    "pvpanic_mmio",
];

const TEST_INIT: &str = include_str!("../../tests/guest/init");
const ANSWER_INIT: &str = include_str!("bench/snapshot/init");
const SHELL_INIT: &str = include_str!("../../resources/images/debian/shell-init");

/// Makes all artifacts that are missing and returns a directory of links to them:
///
/// - `lean/vmlinux`, `lean/initrd`: our own kernel; busybox with the tests' init
/// - `stock-VERSION/vmlinuz`, `stock-VERSION/initrd`: Debian's cloud kernels 6.1 and 6.12; the
///   same with their virtio modules
/// - `debian/root.img`, `debian/shell-initrd`: an ext4 disk with systemd; an initramfs for the
///   lean kernel that starts the tests' init on it, with a writable layer above
/// - `docker`: the files of Debian's docker.io and what it needs, as they'd be installed
/// - `registry`: the storage of a container registry, to be served or copied, not written to
///
/// # Errors
///
/// Fails when one of them can't be had.
pub(crate) fn obtain_all() -> Result<PathBuf> {
    let dir = dirs::target().join("xtask/artifacts");
    for (name, source) in STOCK_KERNELS {
        let kernel = DebianKernel::obtain(source)?;
        dirs::link(&kernel.image(), &dir.join(name).join("vmlinuz"))?;
        dirs::link(&test_initramfs(Some(&kernel))?, &dir.join(name).join("initrd"))?;
    }
    dirs::link(&debian_disk()?, &dir.join("debian/root.img"))?;
    dirs::link(&shell_initramfs()?, &dir.join("debian/shell-initrd"))?;
    dirs::link(&kernel::ensure()?, &dir.join("lean/vmlinux"))?;
    dirs::link(&test_initramfs(None)?, &dir.join("lean/initrd"))?;
    dirs::link(&docker::docker()?, &dir.join("docker"))?;
    dirs::link(&images::obtain()?, &dir.join("registry"))?;
    Ok(dir)
}

fn test_initramfs(kernel: Option<&DebianKernel>) -> Result<PathBuf> {
    Recipe {
        cache_name: "initramfs/test",
        init: TEST_INIT,
        files: &[],
        modules: kernel.map(|kernel| (kernel, STOCK_MODULES)),
    }
    .obtain()
}

fn shell_initramfs() -> Result<PathBuf> {
    Recipe {
        cache_name: "initramfs/debian-shell",
        init: SHELL_INIT,
        files: &[("/test-init", TEST_INIT.as_bytes())],
        modules: None,
    }
    .obtain()
}

/// Makes an initramfs for the lean kernel whose init is `guest-answer`, the static program at `answer`,
/// and links it as `lean/answer-initrd` in the directory of [`obtain_all`].
///
/// # Errors
///
/// Fails when it can't be had.
pub(crate) fn obtain_answer_initramfs(answer: &Path) -> Result<()> {
    let content = fs::read(answer).with_context(|| format!("cannot read {}", answer.display()))?;
    let initramfs = Recipe {
        cache_name: "initramfs/answer",
        init: ANSWER_INIT,
        files: &[("/guest-answer", &content)],
        modules: None,
    }
    .obtain()?;
    dirs::link(&initramfs, &dirs::target().join("xtask/artifacts/lean/answer-initrd"))
}
