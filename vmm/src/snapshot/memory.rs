//! Copies a paused guest's memory to a file.

use snapshot::SnapshotError;
use snapshot::memory::{MemoryWriter, WrittenMemory};
use sys::memory::{GuestRam, GuestRegion, PAGE_SIZE};
use sys::populated::populated;
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::memory::DirtyPages;
use crate::memory::runs;

const PAGE: u64 = PAGE_SIZE as u64;

/// How much is copied at once, in bytes: it stays in the CPU's cache while it's compared with zeros,
/// summed up and written.
const CHUNK: u64 = 256 << 10;

/// Writes all of `memory` to `writer`. Nobody may write to it meanwhile.
///
/// Bytes are copied once before they are looked at: what the checksum covers is what is written, and
/// nobody takes a reference to guest memory.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn write_full(
    memory: &GuestRam,
    mut writer: MemoryWriter,
) -> Result<WrittenMemory, SnapshotError> {
    let mut buffer = Vec::new();
    let mut start = 0;
    for region in memory.iter() {
        copy_runs(region, &populated(region), start, &mut buffer, &mut writer)?;
        start += region.len();
    }
    writer.finish()
}

/// Writes the `dirty` pages of `memory` to `writer`, which must be that of a differential snapshot.
/// Nobody may write to it meanwhile.
///
/// # Errors
/// [`SnapshotError::Io`].
pub fn write_diff(
    memory: &GuestRam,
    dirty: &DirtyPages,
    mut writer: MemoryWriter,
) -> Result<WrittenMemory, SnapshotError> {
    let mut buffer = Vec::new();
    let mut start = 0;
    for (region, bits) in memory.iter().zip(dirty.regions()) {
        copy_runs(region, bits, start, &mut buffer, &mut writer)?;
        start += region.len();
    }
    writer.finish()
}

/// Copies the pages whose bits are set; the region's content begins at byte `start` of the file.
fn copy_runs(
    region: &GuestRegion,
    bits: &[u64],
    start: u64,
    buffer: &mut Vec<u8>,
    writer: &mut MemoryWriter,
) -> Result<(), SnapshotError> {
    for (page, count) in runs(bits, region.len() / PAGE) {
        let end = (page + count) * PAGE;
        let mut at = page * PAGE;
        while at < end {
            let len = CHUNK.min(end - at);
            read(region, at, len, buffer);
            writer.write(start + at, buffer)?;
            at += len;
        }
    }
    Ok(())
}

/// Copies `len` bytes at byte `at` of the region, which has that many, to `buffer`.
pub(super) fn read(region: &GuestRegion, at: u64, len: u64, buffer: &mut Vec<u8>) {
    buffer.resize(usize::try_from(len).unwrap_or_default(), 0);
    let copied = region.read_slice(buffer, MemoryRegionAddress(at));
    debug_assert!(copied.is_ok(), "{len} bytes at {at:#x} of the region");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use snapshot::SnapshotId;
    use snapshot::memory::MemoryFile;
    use vm_memory::GuestAddress;

    use super::*;
    use crate::memory::{self, Backing, allocate, allocate_shared, map_snapshot, regions};

    const RANGES: [(GuestAddress, u64); 2] =
        [(GuestAddress(0), 4 << 20), (GuestAddress(1 << 32), 2 << 20)];

    fn create(
        path: &Path,
        id: SnapshotId,
        parent: Option<SnapshotId>,
        memory: &GuestRam,
    ) -> MemoryWriter {
        MemoryWriter::create(path, id, parent, &regions(memory)).unwrap()
    }

    fn full(path: &Path, memory: &GuestRam) -> MemoryFile {
        let id = SnapshotId::random().unwrap();
        let written = write_full(memory, create(path, id, None, memory)).unwrap();
        written.file.publish().unwrap();
        let file = MemoryFile::open(path).unwrap();
        file.verify().unwrap();
        file
    }

    fn bytes(memory: &GuestRam) -> Vec<Vec<u8>> {
        let regions = memory.iter().map(|region| {
            let mut bytes = Vec::new();
            read(region, 0, region.len(), &mut bytes);
            bytes
        });
        regions.collect()
    }

    fn scribble(memory: &GuestRam, seed: u8) {
        for step in 0u64..200 {
            let region = step % 2;
            let offset = (step * 7919 + u64::from(seed) * 104_729) % (2 << 20);
            let address = GuestAddress((region << 32) + offset - offset % 8);
            memory.write_obj(step * 31 + u64::from(seed), address).unwrap();
        }
    }

    #[test]
    fn full_snapshot_restores_to_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mem");
        let backing = Backing::default();
        let anonymous = allocate(&RANGES, &backing).unwrap();
        let shared = allocate_shared(&RANGES, &backing).unwrap();
        for memory in [anonymous, shared] {
            scribble(&memory, 1);
            let file = full(&path, &memory);
            let restored = map_snapshot(&file, &backing).unwrap();
            assert!(bytes(&restored) == bytes(&memory));
            // And a snapshot of what was restored, after more work.
            scribble(&restored, 2);
            let again = full(&path, &restored);
            let second = map_snapshot(&again, &backing).unwrap();
            assert!(bytes(&second) == bytes(&restored));
        }
    }

    #[test]
    fn full_snapshot_touches_no_page_that_the_guest_has_not() {
        let directory = tempfile::tempdir().unwrap();
        let memory = allocate(&RANGES, &Backing::default()).unwrap();
        memory.write_obj(1u8, GuestAddress(5 << 12)).unwrap();
        let before: Vec<_> = memory.iter().map(populated).collect();
        let file = full(&directory.path().join("mem"), &memory);
        assert_eq!(file.info().data_pages, 1);
        let after: Vec<_> = memory.iter().map(populated).collect();
        assert_eq!(after, before);
    }

    #[test]
    fn base_and_diff_together_are_the_live_memory() {
        let directory = tempfile::tempdir().unwrap();
        let [base, diff, out] = ["base", "diff", "out"].map(|name| directory.path().join(name));
        let backing = Backing { tracked: true, ..Backing::default() };
        let memory = allocate(&RANGES, &backing).unwrap();
        scribble(&memory, 1);
        memory.write_slice(&[7; 8192], GuestAddress(0x10_0000)).unwrap();
        DirtyPages::of_devices(&memory).commit();
        let base = full(&base, &memory);

        scribble(&memory, 2);
        memory.write_slice(&[0; 4096], GuestAddress(0x10_0000)).unwrap();
        sys::discard::discard(&memory, GuestAddress(0x10_1000), 4096).unwrap();
        let dirty = DirtyPages::of_devices(&memory);
        let id = SnapshotId::random().unwrap();
        let writer = create(&diff, id, Some(base.id()), &memory);
        let written = write_diff(&memory, &dirty, writer).unwrap();
        written.file.publish().unwrap();
        dirty.commit();
        let diff = MemoryFile::open(&diff).unwrap();
        diff.verify().unwrap();
        assert!(diff.info().file_bytes > diff.info().content_bytes + PAGE);

        let merged = snapshot::merge::merge_memory(&base, &diff, &out).unwrap();
        merged.file.publish().unwrap();
        let merged = MemoryFile::open(&out).unwrap();
        merged.verify().unwrap();
        let live = full(&directory.path().join("live"), &memory);
        assert_eq!(merged.info().hash, live.info().hash);
        let restored = memory::load(&merged, &backing).unwrap();
        assert!(bytes(&restored) == bytes(&memory));
    }
}
