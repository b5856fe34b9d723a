//! Placement of the initial RAM disk, the same for every architecture.

use std::io::{Read, Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, ReadVolatile};

use crate::boot::{BootError, Image, KernelInfo};
use crate::memory::{GuestRange, MemoryLayout, PAGE_SIZE};

/// Reads the initial RAM disk from `file` into guest memory, as high in the lowest RAM range as
/// the kernel allows, where it is out of the way of the kernel's first allocations.
///
/// # Errors
/// An empty or unreadable file, and one that doesn't fit between the kernel and the end of that
/// range or the kernel's own limit.
pub fn load_initrd<M, F>(
    memory: &M,
    layout: &MemoryLayout,
    kernel: &KernelInfo,
    file: &mut F,
) -> Result<GuestRange, BootError>
where
    M: GuestMemoryBackend,
    F: Read + Seek + ReadVolatile,
{
    let read_error = |source| BootError::Read { image: Image::Initrd, source };
    let size = image_size(file, Image::Initrd)?;
    let range = place(layout, kernel, size)?;
    file.rewind().map_err(read_error)?;
    let count = usize::try_from(size).map_err(|_| does_not_fit(layout, None))?;
    memory
        .read_exact_volatile_from(range.start(), file, count)
        .map_err(|source| memory_error(source, range.start()))?;
    Ok(range)
}

/// Returns the size of an image file in bytes.
///
/// # Errors
/// [`BootError::Empty`], or [`BootError::Read`] for what has no content to read: a byte is read
/// before the size is asked for, since a directory opens and seeks like a file of 2⁶³ bytes.
pub fn image_size<F: Read + Seek>(file: &mut F, image: Image) -> Result<u64, BootError> {
    let read_error = |source| BootError::Read { image, source };
    file.rewind().map_err(read_error)?;
    if Read::read(file, &mut [0]).map_err(read_error)? == 0 {
        return Err(BootError::Empty { image });
    }
    file.seek(SeekFrom::End(0)).map_err(read_error)
}

fn memory_error(source: vm_memory::GuestMemoryError, address: GuestAddress) -> BootError {
    match source {
        vm_memory::GuestMemoryError::IOError(source) => {
            BootError::Read { image: Image::Initrd, source }
        }
        source => BootError::GuestMemory { what: "the initrd", address, source },
    }
}

fn does_not_fit(layout: &MemoryLayout, needed_bytes: Option<u64>) -> BootError {
    BootError::DoesNotFit { image: Image::Initrd, ram_bytes: layout.ram_bytes(), needed_bytes }
}

/// Finds the highest page-aligned place for `size` bytes above the kernel.
fn place(layout: &MemoryLayout, kernel: &KernelInfo, size: u64) -> Result<GuestRange, BootError> {
    let ram = layout.low_ram();
    let lowest_end = kernel
        .reserved
        .end()
        .0
        .checked_next_multiple_of(PAGE_SIZE)
        .and_then(|start| start.checked_add(size))
        .and_then(|end| end.checked_next_multiple_of(PAGE_SIZE))
        .ok_or_else(|| does_not_fit(layout, None))?;
    if lowest_end > kernel.initrd_end_max.0 {
        return Err(does_not_fit(layout, None));
    }
    if lowest_end > ram.end().0 {
        return Err(does_not_fit(layout, Some(lowest_end - ram.start().0)));
    }
    let end = ram.end().0.min(kernel.initrd_end_max.0);
    let start = (end - size) / PAGE_SIZE * PAGE_SIZE;
    GuestRange::new(GuestAddress(start), size).ok_or_else(|| does_not_fit(layout, None))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::boot::{BootProtocol, KernelFormat};

    type GuestMemoryMmap = vm_memory::GuestMemoryMmap<()>;

    const MIB: u64 = 1 << 20;

    fn range(start: u64, end: u64) -> GuestRange {
        GuestRange::from_bounds(GuestAddress(start), GuestAddress(end))
    }

    fn layout(ram_bytes: u64) -> MemoryLayout {
        let window = range(0, 0);
        MemoryLayout {
            ram: vec![range(0, ram_bytes)],
            pci_ecam: window,
            pci_mmio32: window,
            pci_mmio64: window,
            device_memory: window,
            virtio_mmio: window,
        }
    }

    fn kernel(initrd_end_max: u64) -> KernelInfo {
        KernelInfo {
            format: KernelFormat::Elf,
            protocol: BootProtocol::Pvh,
            entry: GuestAddress(MIB),
            loaded: range(MIB, 2 * MIB),
            reserved: range(MIB, 2 * MIB),
            initrd_end_max: GuestAddress(initrd_end_max),
            cmdline_max_bytes: 0,
            version: None,
            boot_header: Vec::new(),
        }
    }

    fn load(ram_bytes: u64, end_max: u64, content: Vec<u8>) -> Result<GuestRange, BootError> {
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(ram_bytes).unwrap())])
                .unwrap();
        load_initrd(&memory, &layout(ram_bytes), &kernel(end_max), &mut Cursor::new(content))
    }

    #[test]
    fn initrd_ends_at_the_top_of_ram() {
        let range = load(8 * MIB, u64::MAX, vec![1; 5000]).unwrap();
        assert_eq!(range.start().0, 8 * MIB - 2 * PAGE_SIZE);
        assert_eq!(range.size(), 5000);
    }

    #[test]
    fn initrd_stays_below_the_kernels_limit() {
        let range = load(8 * MIB, 4 * MIB + 1, vec![1; 4096]).unwrap();
        assert_eq!(range.start().0, 4 * MIB - PAGE_SIZE);
    }

    #[test]
    fn initrd_that_fills_all_room_fits() {
        let size = usize::try_from(2 * MIB).unwrap();
        assert_eq!(load(4 * MIB, u64::MAX, vec![1; size]).unwrap().start().0, 2 * MIB);
    }

    #[test]
    fn initrd_one_byte_too_large_says_how_much_memory_it_needs() {
        let size = usize::try_from(2 * MIB).unwrap() + 1;
        let error = load(4 * MIB, u64::MAX, vec![1; size]).unwrap_err();
        assert!(
            matches!(error, BootError::DoesNotFit { needed_bytes: Some(n), .. } if n == 4 * MIB + PAGE_SIZE),
            "{error}"
        );
        assert_eq!(
            error.to_string(),
            "the initrd does not fit into 4 MiB of guest memory: at least 5 MiB are needed"
        );
    }

    #[test]
    fn initrd_above_the_kernels_limit_fits_no_memory() {
        let size = usize::try_from(2 * MIB).unwrap();
        let error = load(8 * MIB, 3 * MIB, vec![1; size]).unwrap_err();
        assert!(matches!(error, BootError::DoesNotFit { needed_bytes: None, .. }), "{error}");
    }

    #[test]
    fn empty_initrd_is_refused() {
        let error = load(8 * MIB, u64::MAX, Vec::new()).unwrap_err();
        assert!(matches!(error, BootError::Empty { image: Image::Initrd }), "{error}");
    }

    #[test]
    fn directory_is_a_read_error() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 23)]).unwrap();
        let mut directory = std::fs::File::open("/").unwrap();
        let error =
            load_initrd(&memory, &layout(8 * MIB), &kernel(u64::MAX), &mut directory).unwrap_err();
        assert!(matches!(error, BootError::Read { image: Image::Initrd, .. }), "{error}");
    }
}
