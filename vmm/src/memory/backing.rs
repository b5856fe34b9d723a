//! What backs guest memory.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use snapshot::memory::MemoryFile;
use snapshot::{Kind, SnapshotError};
use sys::guest_io::GuestIo;
use sys::memory::{GuestRam, GuestRegion, PageTracking, RegionTracking, leave_out_of_dumps};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::error::VmmError;

/// Which pages back guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// The host's ordinary pages, transparent huge pages where the host's policy gives them.
    #[default]
    Ordinary,
    /// 2 MiB pages out of the host's reserved pool.
    Huge2M,
}

/// How guest memory is to be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backing {
    /// Its pages.
    pub pages: Pages,
    /// Whether the pages that are written are noted, for differential snapshots: by KVM, and by this
    /// process for what devices write.
    pub tracked: bool,
}

/// Where a region's bytes come from.
enum Source {
    Anonymous,
    /// A file at this offset, shared with whoever else maps it.
    Shared(Arc<File>, u64),
    /// A file at this offset, copied where it's written.
    Private(Arc<File>, u64),
}

/// Maps guest memory at `ranges` (guest-physical address and length in bytes), private to this
/// process.
///
/// Nothing of it is touched or reserved: the host gives a page when the guest first uses it.
///
/// # Errors
/// [`VmmError::Memory`] when the host has no address space or no huge pages for it, or has less
/// memory in all than the guest is to get.
pub fn allocate(ranges: &[(GuestAddress, u64)], backing: &Backing) -> Result<GuestRam, VmmError> {
    check_host(ranges, backing)?;
    map(ranges, backing, |_| Source::Anonymous)
}

/// Maps guest memory as [`allocate`] does, on a memfd that other processes (vhost-user back ends) can
/// map, too. The regions lie in it one after the other; it can't change its length.
///
/// What another process writes is in no dirty log of ours, and isn't caught by a live capture.
///
/// # Errors
/// As [`allocate`].
pub fn allocate_shared(
    ranges: &[(GuestAddress, u64)],
    backing: &Backing,
) -> Result<GuestRam, VmmError> {
    check_host(ranges, backing)?;
    let fail = |error: std::io::Error| backing.fail(ranges, &error.to_string());
    let huge = match backing.pages {
        Pages::Ordinary => MemfdFlags::empty(),
        Pages::Huge2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | huge;
    let file =
        rustix::fs::memfd_create("guest-memory", flags).map_err(|error| fail(error.into()))?;
    let file = Arc::new(File::from(file));
    file.set_len(total(ranges)).map_err(fail)?;
    let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(|error| fail(error.into()))?;
    map(ranges, backing, |offset| Source::Shared(Arc::clone(&file), offset))
}

/// Maps the content of a snapshot's memory file as guest memory, each page copied when it's first
/// written: the file stays as it is, and VMs that were restored from it share what they don't write.
///
/// The file must be left alone as long as the VM lives: a page of it that's cut off would be a SIGBUS
/// in the guest. Replacing the file (as a new snapshot does) is no harm; the mapping keeps the old.
///
/// # Errors
/// [`VmmError::Memory`]; [`VmmError::Snapshot`] for a differential snapshot, and for huge pages,
/// which a file can't provide (use [`load`]).
pub fn map_snapshot(file: &MemoryFile, backing: &Backing) -> Result<GuestRam, VmmError> {
    check_full(file)?;
    if backing.pages != Pages::Ordinary {
        let reason = "a snapshot's file can't be mapped in huge pages";
        return Err(VmmError::snapshot("map the snapshot's memory", reason));
    }
    let ranges = ranges(file);
    let clone = file.file().try_clone();
    let clone = clone.map_err(|error| backing.fail(&ranges, &error.to_string()))?;
    let clone = Arc::new(clone);
    map(&ranges, backing, |offset| Source::Private(Arc::clone(&clone), offset))
}

/// Allocates guest memory and reads the content of a snapshot's memory file into it.
///
/// # Errors
/// [`VmmError::Memory`], and [`VmmError::Snapshot`] for a differential snapshot or a file that can't
/// be read.
pub fn load(file: &MemoryFile, backing: &Backing) -> Result<GuestRam, VmmError> {
    check_full(file)?;
    let memory = allocate(&ranges(file), backing)?;
    let fail = |source: std::io::Error| {
        let path = file.path().to_owned();
        VmmError::snapshot(
            "restore the guest's memory",
            SnapshotError::Io { action: "read", path, source },
        )
    };
    let mut io = GuestIo::new(memory.clone());
    let mut start = 0;
    for region in memory.iter() {
        let end = start + region.len();
        let mut next = start;
        while let Some((from, to)) = file.data_from(next).map_err(fail)? {
            let to = to.min(end);
            if from >= to {
                break;
            }
            read_range(&mut io, file, region, from - start, from..to).map_err(fail)?;
            next = to;
        }
        start = end;
        // It's what the snapshot has: nothing has changed since.
        region.tracking().take();
    }
    Ok(memory)
}

/// What a differential file doesn't hold isn't zero: it's in its base.
fn check_full(file: &MemoryFile) -> Result<(), VmmError> {
    if file.kind() == Kind::Full {
        return Ok(());
    }
    let reason = "it is differential: merge it with its base first".to_owned();
    let path = file.path().to_owned();
    let source = SnapshotError::Unsuitable { path, reason };
    Err(VmmError::snapshot("restore the guest's memory", source))
}

/// Reads bytes `range` of the file to byte `at` of the region.
fn read_range(
    io: &mut GuestIo,
    file: &MemoryFile,
    region: &GuestRegion,
    mut at: u64,
    range: std::ops::Range<u64>,
) -> std::io::Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let len = u32::try_from(range.end - offset).unwrap_or(1 << 30).min(1 << 30);
        let buffer = (GuestAddress(region.start_addr().0 + at), len);
        io.read_at(file.file(), offset, [buffer])?;
        (offset, at) = (offset + u64::from(len), at + u64::from(len));
    }
    Ok(())
}

fn ranges(file: &MemoryFile) -> Vec<(GuestAddress, u64)> {
    let regions = file.regions().iter();
    regions.map(|region| (GuestAddress(region.guest_address), region.size_bytes)).collect()
}

fn total(ranges: &[(GuestAddress, u64)]) -> u64 {
    ranges.iter().fold(0, |sum, (_, size)| sum.saturating_add(*size))
}

fn check_host(ranges: &[(GuestAddress, u64)], backing: &Backing) -> Result<(), VmmError> {
    let host_bytes = host_memory_bytes();
    if total(ranges) > host_bytes {
        let reason = format!("this machine has {} MiB in all", host_bytes >> 20);
        return Err(backing.fail(ranges, &reason));
    }
    Ok(())
}

/// Maps one region after the other; `source` is asked with the offset of each in all of them.
fn map(
    ranges: &[(GuestAddress, u64)],
    backing: &Backing,
    source: impl Fn(u64) -> Source,
) -> Result<GuestRam, VmmError> {
    let mut offset = 0;
    let mut regions = Vec::with_capacity(ranges.len());
    for &(address, size) in ranges {
        let region = map_region(address, size, backing, source(offset))
            .map_err(|reason| backing.fail(ranges, &reason))?;
        if let Err(error) = leave_out_of_dumps(&region) {
            log::debug!("guest memory stays in core dumps: {error}");
        }
        regions.push(region);
        offset += size;
    }
    GuestRam::from_regions(regions).map_err(|error| backing.fail(ranges, &error.to_string()))
}

fn map_region(
    address: GuestAddress,
    size: u64,
    backing: &Backing,
    source: Source,
) -> Result<GuestRegion, String> {
    let size = usize::try_from(size).map_err(|error| error.to_string())?;
    let tracking = match backing.tracked {
        true => PageTracking::tracked(size),
        false => PageTracking::default(),
    };
    // Without a reservation, a missing huge page would be a SIGBUS in the middle of the guest.
    let (huge, flags) = match backing.pages {
        Pages::Ordinary => (false, libc::MAP_NORESERVE),
        Pages::Huge2M => (true, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB),
    };
    let builder = MmapRegionBuilder::new_with_bitmap(size, tracking)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_hugetlbfs(huge);
    let builder = match source {
        Source::Anonymous => {
            builder.with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags)
        }
        Source::Shared(file, offset) => builder
            .with_file_offset(FileOffset::from_arc(file, offset))
            .with_mmap_flags(libc::MAP_SHARED | flags),
        Source::Private(file, offset) => builder
            .with_file_offset(FileOffset::from_arc(file, offset))
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE),
    };
    let region = builder.build().map_err(|error| error.to_string())?;
    GuestRegion::new(region, address)
        .ok_or_else(|| format!("it doesn't fit in the address space at {address:?}"))
}

impl Backing {
    fn fail(&self, ranges: &[(GuestAddress, u64)], reason: &str) -> VmmError {
        VmmError::Memory {
            size_mib: total(ranges) >> 20,
            huge: self.pages == Pages::Huge2M,
            reason: reason.to_owned(),
        }
    }
}

/// Returns how much RAM this machine has, in bytes.
pub(super) fn host_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit.max(1)))
}
