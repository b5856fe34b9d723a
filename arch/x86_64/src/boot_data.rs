//! What the two boot protocols have the kernel read: `boot_params` and `hvm_start_info`.

#[cfg(test)]
mod tests;

use arch::{BootError, BootInfo};
use vm_memory::GuestAddress;

use crate::e820::E820Entry;
use crate::layout;

/// `boot_params` has room for this many ranges (`E820_MAX_ENTRIES_ZEROPAGE`).
const E820_MAX: usize = 128;
/// `type_of_loader`: a loader without a number of its own.
const UNREGISTERED_LOADER: u8 = 0xff;
/// `setup_data`'s type for random bytes (`SETUP_RNG_SEED`).
const SETUP_RNG_SEED: u32 = 9;
/// `hvm_start_info`'s magic number (Xen public/arch-x86/hvm/start_info.h).
const START_INFO_MAGIC: u32 = 0x336e_c578;
/// Sizes of its structures in bytes.
const START_INFO_BYTES: u64 = 56;
const MODULE_BYTES: u64 = 32;

/// A piece of guest memory to be written before the kernel runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// What it is, for an error.
    pub(crate) what: &'static str,
    /// Where it goes.
    pub(crate) address: GuestAddress,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// Builds Linux's `boot_params`, the "zero page" (Documentation/arch/x86/zero-page.rst and
/// boot.rst), and the `setup_data` that it points to.
///
/// # Errors
/// [`BootError::TableTooLarge`] with more ranges of memory than it has room for.
pub(crate) fn linux(
    boot: &BootInfo<'_>,
    map: &[E820Entry],
    rsdp: GuestAddress,
) -> Result<Vec<Write>, BootError> {
    if map.len() > E820_MAX {
        return Err(BootError::TableTooLarge {
            table: "memory map",
            needed_bytes: map.len() * 20,
            max_bytes: E820_MAX * 20,
        });
    }
    let mut page = vec![0; 4096];
    let mut put = |offset: usize, bytes: &[u8]| {
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    if boot.kernel.boot_header.is_empty() {
        // A vmlinux has no setup header; Linux looks for these two in any that it gets.
        put(0x1fe, &0xaa55_u16.to_le_bytes());
        put(0x202, b"HdrS");
        put(0x238, &low_u32(boot.kernel.cmdline_max_bytes as u64));
    } else {
        put(0x1f1, &boot.kernel.boot_header);
    }
    put(0x070, &rsdp.0.to_le_bytes());
    put(0x210, &[UNREGISTERED_LOADER]);
    // Both fit: an initrd lies below 4 GiB, in the lowest RAM.
    let (initrd_start, initrd_bytes) = initrd_bounds(boot);
    put(0x218, &low_u32(initrd_start));
    put(0x21c, &low_u32(initrd_bytes));
    put(0x228, &low_u32(layout::CMDLINE.start().0));
    put(0x1e8, &[u8::try_from(map.len()).unwrap_or_default()]);
    for (index, entry) in map.iter().enumerate() {
        let at = 0x2d0 + index * 20;
        put(at, &entry.range.start().0.to_le_bytes());
        put(at + 8, &entry.range.size().to_le_bytes());
        put(at + 16, &(entry.kind as u32).to_le_bytes());
    }
    let mut writes = Vec::new();
    writes.extend(rng_seed(boot.rng_seed)?);
    let setup_data = writes.first().map_or(0, |seed: &Write| seed.address.0);
    put(0x250, &setup_data.to_le_bytes());
    let address = layout::BOOT_PARAMS.start();
    writes.push(Write { what: "boot_params", address, bytes: page });
    Ok(writes)
}

/// Returns the start and the size of the initrd, both 0 where there is none.
fn initrd_bounds(boot: &BootInfo<'_>) -> (u64, u64) {
    boot.initrd.map_or((0, 0), |range| (range.start().0, range.size()))
}

/// Builds a `setup_data` node without a successor; none for an empty seed.
fn rng_seed(seed: &[u8]) -> Result<Option<Write>, BootError> {
    if seed.is_empty() {
        return Ok(None);
    }
    let place = layout::SETUP_DATA;
    let max_bytes = usize::try_from(place.size()).unwrap_or(usize::MAX);
    let needed_bytes = seed.len() + 16;
    if needed_bytes > max_bytes {
        return Err(BootError::TableTooLarge { table: "setup data", needed_bytes, max_bytes });
    }
    let mut bytes = vec![0; 8];
    bytes.extend(SETUP_RNG_SEED.to_le_bytes());
    bytes.extend(low_u32(seed.len() as u64));
    bytes.extend(seed);
    Ok(Some(Write { what: "setup data", address: place.start(), bytes }))
}

/// Builds PVH's `hvm_start_info` of version 1, its module list (the initrd) and its memory map.
///
/// PVH has no place for random bytes: such a kernel seeds itself from RDRAND or a virtio device.
///
/// # Errors
/// [`BootError::TableTooLarge`] with more ranges of memory than there is room for.
pub(crate) fn pvh(
    boot: &BootInfo<'_>,
    map: &[E820Entry],
    rsdp: GuestAddress,
) -> Result<Write, BootError> {
    let base = layout::START_INFO.start().0;
    let modules = base + START_INFO_BYTES;
    let memory_map = modules + MODULE_BYTES;
    let mut bytes = Vec::new();
    bytes.extend(START_INFO_MAGIC.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes()); // version
    bytes.extend(0_u32.to_le_bytes()); // flags: not Xen's initial domain
    bytes.extend(u32::from(boot.initrd.is_some()).to_le_bytes());
    bytes.extend(modules.to_le_bytes());
    bytes.extend(layout::CMDLINE.start().0.to_le_bytes());
    bytes.extend(rsdp.0.to_le_bytes());
    bytes.extend(memory_map.to_le_bytes());
    bytes.extend(low_u32(map.len() as u64));
    bytes.extend(0_u32.to_le_bytes());

    let (start, size) = initrd_bounds(boot);
    for field in [start, size, 0, 0] {
        bytes.extend(field.to_le_bytes());
    }
    for entry in map {
        bytes.extend(entry.range.start().0.to_le_bytes());
        bytes.extend(entry.range.size().to_le_bytes());
        bytes.extend((entry.kind as u32).to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
    }
    let max_bytes = usize::try_from(layout::START_INFO.size()).unwrap_or(usize::MAX);
    if bytes.len() > max_bytes {
        let needed_bytes = bytes.len();
        return Err(BootError::TableTooLarge { table: "memory map", needed_bytes, max_bytes });
    }
    Ok(Write { what: "hvm_start_info", address: GuestAddress(base), bytes })
}

/// Returns the low half, for fields that hold what is below 4 GiB.
fn low_u32(value: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = value.to_le_bytes();
    [a, b, c, d]
}
