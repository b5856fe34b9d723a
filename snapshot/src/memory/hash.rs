//! A checksum of guest memory that doesn't mind in which order pages come.

use std::fmt;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::{PAGE, PAGE_BYTES};

/// The sum of a hash of every page that isn't zero, each seeded with the page's number.
///
/// Pages of a running guest are copied in the order in which it writes them, and a merged snapshot's
/// checksum follows from its base's without reading all of it; a hash of the whole in order could do
/// neither. It finds damage, not forgery: who can write a memory file can write its checksum.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemoryHash(u128);

impl MemoryHash {
    /// Adds the page at byte `offset` of the content; a page of zeros changes nothing.
    pub fn add(&mut self, offset: u64, page: &[u8]) {
        self.0 = self.0.wrapping_add(page_hash(offset, page));
    }

    /// Takes the page at byte `offset` out again.
    pub fn remove(&mut self, offset: u64, page: &[u8]) {
        self.0 = self.0.wrapping_sub(page_hash(offset, page));
    }

    /// Makes the checksum out of its bytes.
    pub(super) fn from_le_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    /// Returns its bytes.
    pub(super) fn to_le_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }
}

fn page_hash(offset: u64, page: &[u8]) -> u128 {
    if is_zero(page) { 0 } else { XxHash3_128::oneshot_with_seed(offset / PAGE, page) }
}

/// Returns the checksum of what surrounds the content: extents and trailer.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 16] {
    XxHash3_128::oneshot(bytes).to_le_bytes()
}

/// Tells whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Most pages that aren't zero show it at once; the rest is compared at memcmp's speed.
    static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
    bytes.chunks(PAGE_BYTES).all(|chunk| ZEROS.get(..chunk.len()) == Some(chunk))
}

impl fmt::Display for MemoryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for MemoryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<MemoryHash> for String {
    fn from(hash: MemoryHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for MemoryHash {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}
