//! The memory file: the guest's RAM regions one after the other, sparse, and a trailer.
//!
//! ```text
//! 0                 content_bytes            file_bytes - 4096     file_bytes
//! ├─ RAM regions ───┼─ extents (diff only) ──┼─ trailer ───────────┤
//! ```
//!
//! The content begins at offset 0 and has the guest's layout, so that it can be mapped as it is, and
//! so that any page server finds a page where the region table says. Zero pages are holes. A
//! differential file holds only the pages that changed, and the extents say which: a hole within an
//! extent is a page that became zero.

mod hash;
mod reader;
mod trailer;
mod writer;

pub(crate) use hash::checksum;
pub use hash::{MemoryHash, is_zero};
pub use reader::MemoryFile;
pub use trailer::{Extent, MAX_REGIONS, TRAILER_BYTES, check_regions};
pub use writer::{MemoryWriter, WrittenMemory};

/// The unit of everything here, in bytes.
pub const PAGE_BYTES: usize = 4096;

pub(crate) const PAGE: u64 = PAGE_BYTES as u64;

#[cfg(test)]
mod tests;
