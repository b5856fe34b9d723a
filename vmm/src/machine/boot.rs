//! Puts the kernel and what goes with it into guest memory.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use api::config::BootConfig;
use arch::{Arch, BootError, GuestRange, Image, KernelInfo, MemoryLayout};
use devices::GuestRam;
use rustix::fs::OFlags;

use super::HostArch;
use crate::error::VmmError;

/// A kernel and an initrd in guest memory.
pub(super) struct Loaded {
    pub(super) kernel: KernelInfo,
    pub(super) initrd: Option<GuestRange>,
}

/// Opens and loads what `config` names.
///
/// # Errors
/// [`VmmError::OpenImage`] and [`VmmError::Boot`], with the file's path.
pub(super) fn load(
    config: &BootConfig,
    memory: &GuestRam,
    layout: &MemoryLayout,
) -> Result<Loaded, VmmError> {
    let mut file = open(&config.kernel, Image::Kernel)?;
    let kernel = HostArch::load_kernel(memory, layout, &mut file)
        .map_err(|source| boot_error(&config.kernel, source))?;
    log::info!(
        "kernel: {} by the {} protocol, entry {:#x}, version {}",
        kernel.format,
        kernel.protocol,
        kernel.entry.0,
        kernel.version.as_deref().unwrap_or("unknown")
    );
    let initrd = match &config.initrd {
        None => None,
        Some(path) => {
            let mut file = open(path, Image::Initrd)?;
            let range = arch::load_initrd(memory, layout, &kernel, &mut file)
                .map_err(|source| boot_error(path, source))?;
            log::info!("initrd: {} KiB at {:#x}", range.size() >> 10, range.start().0);
            Some(range)
        }
    };
    Ok(Loaded { kernel, initrd })
}

/// Wraps `source` with the file that it is about.
pub(super) fn boot_error(path: &Path, source: BootError) -> VmmError {
    VmmError::Boot { path: path.to_owned(), source }
}

fn open(path: &Path, image: Image) -> Result<File, VmmError> {
    // Without this, a named pipe's other end would be waited for.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    opened.map_err(|source| VmmError::OpenImage { image, path: path.to_owned(), source })
}
