//! Making a full snapshot out of a base and what changed since.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;

use crate::error::SnapshotError;
use crate::header::{Kind, MemoryRegion, SnapshotHeader};
use crate::memory::{
    MemoryFile, MemoryHash, MemoryWriter, PAGE, PAGE_BYTES, WrittenMemory, is_zero,
};
use crate::publish::{PendingFile, publish_pair};
use crate::state;

/// The two files of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotPaths<'p> {
    /// The state file.
    pub state: &'p Path,
    /// The memory file.
    pub memory: &'p Path,
}

const CHUNK_BYTES: usize = 256 << 10;

/// Merges the full snapshot `base` and the differential one `diff`, taken after it, into the full one
/// `out`, which may have the name of either. It's the moment of `diff`, and has its id.
///
/// The base's pages are copied within the kernel (shared between the files where the file system can
/// do that); only those that changed are looked at. With `verify`, both memory files are read and
/// checked before.
///
/// # Errors
/// [`SnapshotError`]; what had `out`'s names is as it was then.
pub fn merge(
    base: SnapshotPaths<'_>,
    diff: SnapshotPaths<'_>,
    out: SnapshotPaths<'_>,
    verify: bool,
) -> Result<SnapshotHeader, SnapshotError> {
    let base_header = state::read(base.state)?.header;
    let diff_state = state::read(diff.state)?;
    let base_memory = MemoryFile::open_for(base.memory, &base_header)?;
    let diff_memory = MemoryFile::open_for(diff.memory, &diff_state.header)?;
    if verify {
        base_memory.verify()?;
        diff_memory.verify()?;
    }
    let merged = merge_memory(&base_memory, &diff_memory, out.memory)?;
    let header = SnapshotHeader {
        kind: Kind::Full,
        parent: None,
        memory: merged.info.clone(),
        ..diff_state.header
    };
    let state = state::write(out.state, &header, &diff_state.state)?;
    publish_pair(merged.file, state)?;
    Ok(header)
}

/// Merges two memory files into one that will be at `out`.
///
/// # Errors
/// [`SnapshotError::Unsuitable`] if the two don't belong together, [`SnapshotError::Io`].
pub fn merge_memory(
    base: &MemoryFile,
    diff: &MemoryFile,
    out: &Path,
) -> Result<WrittenMemory, SnapshotError> {
    if base.kind() != Kind::Full {
        let reason = "it is differential itself: merge it with its own base first";
        return Err(SnapshotError::unsuitable(base.path(), reason));
    }
    if diff.parent() != Some(base.id()) {
        let reason = match diff.parent() {
            Some(parent) => format!("it builds upon snapshot {parent}, not upon {}", base.id()),
            None => "it isn't differential".to_owned(),
        };
        return Err(SnapshotError::unsuitable(diff.path(), reason));
    }
    let places = places(base, diff)?;
    let mut writer = MemoryWriter::create(out, diff.id(), None, diff.regions())?;
    for place in &places {
        copy_region(base, writer.pending(), place)?;
    }
    let mut merge = Merge { hash: base.info().hash, pages: base.info().data_pages };
    if places.iter().any(|place| place.from != place.to) {
        // Every page's number is another: its hash with it.
        merge = Merge::of_moved(base, &places)?;
    }
    merge.apply(diff, writer.pending())?;
    writer.adopt(merge.hash, merge.pages);
    writer.finish()
}

/// Where a region of the base goes.
struct Place {
    from: u64,
    to: u64,
    len: u64,
}

/// Finds each of the base's regions among the diff's: memory may have been added in between.
fn places(base: &MemoryFile, diff: &MemoryFile) -> Result<Vec<Place>, SnapshotError> {
    let offsets = |regions: &[MemoryRegion]| {
        let mut next = 0;
        let offsets = regions.iter().map(|region| {
            let offset = next;
            next += region.size_bytes;
            (*region, offset)
        });
        offsets.collect::<Vec<_>>()
    };
    let ours = offsets(diff.regions());
    let places = offsets(base.regions()).into_iter().map(|(region, from)| {
        let to = ours.iter().find(|(other, _)| {
            other.guest_address == region.guest_address && other.size_bytes >= region.size_bytes
        });
        to.map(|&(_, to)| Place { from, to, len: region.size_bytes })
    });
    places.collect::<Option<_>>().ok_or_else(|| {
        SnapshotError::unsuitable(diff.path(), "its guest lacks memory that the base's has")
    })
}

/// Copies what isn't a hole.
fn copy_region(base: &MemoryFile, out: &PendingFile, place: &Place) -> Result<(), SnapshotError> {
    let read = |source| SnapshotError::io("read", base.path())(source);
    let write = |source| SnapshotError::io("write", out.target())(source);
    let end = place.from + place.len;
    let mut next = place.from;
    while let Some((from, to)) = base.data_from(next).map_err(read)? {
        if from >= end {
            break;
        }
        let to = to.min(end);
        copy_range(base.file(), from, out.file(), place.to + (from - place.from), to - from)
            .map_err(write)?;
        next = to;
    }
    Ok(())
}

/// Copies `left` bytes from one file to another, by the kernel if it can.
fn copy_range(
    from: &File,
    mut at: u64,
    to: &File,
    mut to_at: u64,
    mut left: u64,
) -> io::Result<()> {
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut to_at), want) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(done) => left = left.saturating_sub(done as u64),
            Err(Errno::INTR) => {}
            // Two file systems, or one that can't.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_by_hand(from, at, to, to_at, left);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(
    from: &File,
    mut at: u64,
    to: &File,
    mut to_at: u64,
    mut left: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let chunk = &mut buffer[..len];
        from.read_exact_at(chunk, at)?;
        to.write_all_at(chunk, to_at)?;
        (at, to_at, left) = (at + len as u64, to_at + len as u64, left - len as u64);
    }
    Ok(())
}

/// What the merged file's trailer will say.
struct Merge {
    hash: MemoryHash,
    pages: u64,
}

impl Merge {
    /// Reads all of the base, whose pages aren't where they were.
    fn of_moved(base: &MemoryFile, places: &[Place]) -> Result<Self, SnapshotError> {
        let mut merge = Self { hash: MemoryHash::default(), pages: 0 };
        base.for_each_page(|offset, page| {
            let place = places.iter().rfind(|place| place.from <= offset);
            let to = place.map_or(offset, |place| place.to + (offset - place.from));
            merge.hash.add(to, page);
            merge.pages += 1;
        })?;
        Ok(merge)
    }

    /// Puts the pages of `diff` over those that `out` has.
    fn apply(&mut self, diff: &MemoryFile, out: &PendingFile) -> Result<(), SnapshotError> {
        let read = |source| SnapshotError::io("read", diff.path())(source);
        let write = |source| SnapshotError::io("write", out.target())(source);
        let (mut new, mut old) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
        for extent in diff.extents() {
            let mut offset = extent.offset;
            while offset < extent.end() {
                let len =
                    usize::try_from(extent.end() - offset).unwrap_or(usize::MAX).min(CHUNK_BYTES);
                let (new, old) = (&mut new[..len], &mut old[..len]);
                diff.read_at(offset, new).map_err(read)?;
                out.file().read_exact_at(old, offset).map_err(write)?;
                self.replace(offset, old, new);
                put(out.file(), offset, new).map_err(write)?;
                offset += len as u64;
            }
        }
        Ok(())
    }

    fn replace(&mut self, offset: u64, old: &[u8], new: &[u8]) {
        let pages = old.chunks_exact(PAGE_BYTES).zip(new.chunks_exact(PAGE_BYTES));
        for (at, (old, new)) in (offset..).step_by(PAGE_BYTES).zip(pages) {
            self.hash.remove(at, old);
            self.hash.add(at, new);
            self.pages = self.pages.wrapping_add(u64::from(!is_zero(new)));
            self.pages = self.pages.wrapping_sub(u64::from(!is_zero(old)));
        }
    }
}

/// Writes pages, those of zeros as holes.
fn put(file: &File, offset: u64, pages: &[u8]) -> io::Result<()> {
    if !pages.chunks_exact(PAGE_BYTES).any(is_zero) {
        return file.write_all_at(pages, offset);
    }
    use rustix::fs::FallocateFlags;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for (at, page) in (offset..).step_by(PAGE_BYTES).zip(pages.chunks_exact(PAGE_BYTES)) {
        if !is_zero(page) || rustix::fs::fallocate(file, hole, at, PAGE).is_err() {
            file.write_all_at(page, at)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
