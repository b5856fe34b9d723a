//! The last block of a memory file, and the extents before it.
//!
//! All numbers are little-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | `VMCTLMEM` |
//! | 8..12 | version of this layout: 1 |
//! | 12..16 | 0 full, 1 differential |
//! | 16..32 | the snapshot's id |
//! | 32..48 | the parent's id; zeros in a full one |
//! | 48..56 | length of the content in bytes |
//! | 56..64 | number of extents |
//! | 64..80 | checksum of the content ([`MemoryHash`]) |
//! | 80..96 | checksum of the extents and the zeros after them (XXH3, 128 bits) |
//! | 96..104 | pages that the content holds |
//! | 104..108 | number of regions |
//! | 108..112 | size of a page in bytes: 4096 |
//! | 112.. | regions: guest-physical address and length in bytes, 8 bytes each |
//! | 4080..4096 | checksum of the 4080 bytes before (XXH3, 128 bits) |

use super::hash::{MemoryHash, checksum};
use super::{PAGE, PAGE_BYTES};
use crate::header::{Kind, MemoryRegion};
use crate::id::SnapshotId;

/// Length of the trailer.
pub const TRAILER_BYTES: u64 = PAGE;

/// How many RAM regions a snapshot may have.
pub const MAX_REGIONS: usize = 128;

/// How many extents a differential file may have: 256 MiB of them.
pub(super) const MAX_EXTENTS: u64 = 1 << 24;

/// Length of an extent in the file.
pub(super) const EXTENT_BYTES: u64 = 16;

const MAGIC: [u8; 8] = *b"VMCTLMEM";
const VERSION: u32 = 1;
const REGIONS_AT: usize = 112;
const CHECKSUM_AT: usize = PAGE_BYTES - 16;

/// More than any machine has; keeps sums of lengths far from overflowing.
const MAX_CONTENT: u64 = 1 << 52;

/// A run of pages that a differential file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Byte offset of the first in the content; a multiple of the page size.
    pub offset: u64,
    /// Length in bytes; a multiple of the page size, and not zero.
    pub len: u64,
}

impl Extent {
    /// Returns the byte offset behind the last page.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// What a trailer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) kind: Kind,
    pub(super) id: SnapshotId,
    pub(super) parent: Option<SnapshotId>,
    pub(super) content_bytes: u64,
    pub(super) extent_count: u64,
    pub(super) hash: MemoryHash,
    pub(super) extents_checksum: [u8; 16],
    pub(super) data_pages: u64,
    pub(super) regions: Vec<MemoryRegion>,
}

/// Why a block isn't a trailer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TrailerError {
    /// Something else.
    Foreign,
    /// A trailer of a version that isn't known.
    Version(u32),
    /// A trailer that was changed, or never was right.
    Damaged(&'static str),
}

impl Trailer {
    pub(super) fn encode(&self) -> [u8; PAGE_BYTES] {
        let mut block = [0; PAGE_BYTES];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &u32::from(self.kind == Kind::Diff).to_le_bytes());
        put(16, self.id.as_bytes());
        put(32, self.parent.as_ref().map_or(&[0; 16], |parent| parent.as_bytes()));
        put(48, &self.content_bytes.to_le_bytes());
        put(56, &self.extent_count.to_le_bytes());
        put(64, &self.hash.to_le_bytes());
        put(80, &self.extents_checksum);
        put(96, &self.data_pages.to_le_bytes());
        put(104, &u32::try_from(self.regions.len()).unwrap_or(u32::MAX).to_le_bytes());
        put(108, &u32::try_from(PAGE_BYTES).unwrap_or(u32::MAX).to_le_bytes());
        for (index, region) in self.regions.iter().take(MAX_REGIONS).enumerate() {
            let at = REGIONS_AT + index * 16;
            put(at, &region.guest_address.to_le_bytes());
            put(at + 8, &region.size_bytes.to_le_bytes());
        }
        let sum = checksum(&block[..CHECKSUM_AT]);
        block[CHECKSUM_AT..].copy_from_slice(&sum);
        block
    }

    pub(super) fn decode(block: &[u8; PAGE_BYTES]) -> Result<Self, TrailerError> {
        let u32_at = |at: usize| u32::from_le_bytes(array(block, at));
        let u64_at = |at: usize| u64::from_le_bytes(array(block, at));
        if array(block, 0) != MAGIC {
            return Err(TrailerError::Foreign);
        }
        let whole = checksum(&block[..CHECKSUM_AT]) == array(block, CHECKSUM_AT);
        match (u32_at(8), whole) {
            (VERSION, true) => {}
            (VERSION, false) => {
                return Err(TrailerError::Damaged("its trailer's checksum is wrong"));
            }
            (version, _) => return Err(TrailerError::Version(version)),
        }
        let kind = match u32_at(12) {
            0 => Kind::Full,
            1 => Kind::Diff,
            _ => return Err(TrailerError::Damaged("it is of no known kind")),
        };
        let count = usize::try_from(u32_at(104)).unwrap_or(usize::MAX);
        if count > MAX_REGIONS {
            return Err(TrailerError::Damaged("it has too many regions"));
        }
        let regions = (0..count)
            .map(|index| REGIONS_AT + index * 16)
            .map(|at| MemoryRegion { guest_address: u64_at(at), size_bytes: u64_at(at + 8) });
        let trailer = Self {
            kind,
            id: SnapshotId::from_bytes(array(block, 16)),
            parent: (kind == Kind::Diff).then(|| SnapshotId::from_bytes(array(block, 32))),
            content_bytes: u64_at(48),
            extent_count: u64_at(56),
            hash: MemoryHash::from_le_bytes(array(block, 64)),
            extents_checksum: array(block, 80),
            data_pages: u64_at(96),
            regions: regions.collect(),
        };
        trailer.check(u32_at(108)).map_err(TrailerError::Damaged)?;
        Ok(trailer)
    }

    fn check(&self, page_bytes: u32) -> Result<(), &'static str> {
        if u64::from(page_bytes) != PAGE {
            return Err("its pages aren't of 4096 bytes");
        }
        if check_regions(&self.regions)? != self.content_bytes {
            return Err("its regions don't add up to its content");
        }
        if self.data_pages > self.content_bytes / PAGE {
            return Err("it claims more pages than it has room for");
        }
        let most = match self.kind {
            Kind::Full => 0,
            Kind::Diff => MAX_EXTENTS.min(self.content_bytes / PAGE),
        };
        if self.extent_count > most {
            return Err("it has too many extents");
        }
        Ok(())
    }

    /// Returns the length of the extents in the file, with what fills their last block.
    pub(super) fn extents_bytes(&self) -> u64 {
        (self.extent_count * EXTENT_BYTES).next_multiple_of(PAGE)
    }

    /// Returns the length of the whole file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.content_bytes + self.extents_bytes() + TRAILER_BYTES
    }
}

/// Checks that `regions` are whole pages, in order and apart; returns their length in all.
///
/// # Errors
/// What is wrong with them, in words.
pub fn check_regions(regions: &[MemoryRegion]) -> Result<u64, &'static str> {
    if regions.is_empty() || regions.len() > MAX_REGIONS {
        return Err("it has no regions, or too many");
    }
    let (mut total, mut free_from) = (0u64, 0u64);
    for region in regions {
        if region.size_bytes == 0
            || !(region.size_bytes | region.guest_address).is_multiple_of(PAGE)
        {
            return Err("a region isn't of whole pages");
        }
        if region.guest_address < free_from {
            return Err("its regions overlap");
        }
        free_from = region
            .guest_address
            .checked_add(region.size_bytes)
            .ok_or("a region goes beyond the address space")?;
        total = total
            .checked_add(region.size_bytes)
            .filter(|&total| total <= MAX_CONTENT)
            .ok_or("its regions are larger than any machine's memory")?;
    }
    Ok(total)
}

/// Returns the extents that `bytes` hold, if they are in order, apart and within the content.
pub(super) fn decode_extents(bytes: &[u8], content_bytes: u64) -> Option<Vec<Extent>> {
    let mut free_from = 0;
    let (extents, _) = bytes.as_chunks::<16>();
    let decoded = extents.iter().map(|bytes| {
        let offset = u64::from_le_bytes(array(bytes, 0));
        let len = u64::from_le_bytes(array(bytes, 8));
        let end = offset.checked_add(len)?;
        let fits = offset >= free_from && end <= content_bytes;
        free_from = end;
        (len > 0 && (offset | len).is_multiple_of(PAGE) && fits).then_some(Extent { offset, len })
    });
    decoded.collect()
}

/// Returns the `N` bytes at `at`, which must be there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
