//! Lists of page frame numbers, and giving the pages back to the host.

use sys::memory::GuestRam;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, Permissions};

use super::super::queue::Segment;
use crate::log_limit::LogLimit;

/// The balloon counts in pages of 4 KiB on any machine (VIRTIO 1.3 §5.5.6).
const PAGE_SIZE: u64 = 4096;
const PAGE_SIZE_BYTES: usize = 4096;
const NUMBER_SIZE: usize = size_of::<u32>();

/// How many numbers are looked at together, to find runs.
const BATCH: usize = 1024;
/// How many numbers one request may list: 1 GiB of pages. Linux lists 256. It bounds how long a
/// request takes.
const MAX_NUMBERS: usize = 256 << 10;

/// Space to read lists into, kept from one request to the next.
#[derive(Default)]
pub(super) struct PageList {
    bytes: Vec<u8>,
    numbers: Vec<u32>,
}

impl PageList {
    /// Gives back all pages that `segments` list; returns how many entries are none that could be:
    /// outside memory, half a number at the end, or more than a request may have.
    pub(super) fn discard_listed(&mut self, memory: &GuestRam, segments: &[Segment]) -> u64 {
        let mut refused: u64 = 0;
        let mut numbers_left = MAX_NUMBERS;
        self.bytes.clear();
        for segment in segments {
            let (mut address, mut left) = (segment.address, segment.len);
            while left != 0 && numbers_left != 0 {
                let taken = self.fill(memory, address, left);
                address = address.unchecked_add(u64::from(taken));
                left = left.saturating_sub(taken);
                if self.bytes.len() == BATCH.saturating_mul(NUMBER_SIZE) {
                    numbers_left = numbers_left.saturating_sub(BATCH);
                    refused = refused.saturating_add(self.discard_batch(memory));
                }
            }
            // What is over the limit, by its number of entries.
            refused = refused.saturating_add(u64::from(left / 4));
        }
        refused.saturating_add(self.discard_batch(memory))
    }

    /// Appends bytes at `address`, as many as the batch has room for, and returns how many.
    fn fill(&mut self, memory: &GuestRam, address: GuestAddress, left: u32) -> u32 {
        let old = self.bytes.len();
        let room = BATCH.saturating_mul(NUMBER_SIZE).saturating_sub(old);
        let count = left.min(u32::try_from(room).unwrap_or(u32::MAX));
        let new = old.saturating_add(usize::try_from(count).unwrap_or_default());
        self.bytes.resize(new, 0);
        // The segment was checked: this can't fail. Were it to, its numbers would be zeros.
        if let Some(bytes) = self.bytes.get_mut(old..)
            && let Err(error) = memory.read_slice(bytes, address)
        {
            log::error!("a list of pages can't be read: {error}");
        }
        count
    }

    /// Gives back the pages listed in `bytes`, run by run, and empties it.
    fn discard_batch(&mut self, memory: &GuestRam) -> u64 {
        let (numbers, half) = self.bytes.as_chunks::<NUMBER_SIZE>();
        let mut refused = u64::from(!half.is_empty());
        self.numbers.clear();
        self.numbers.extend(numbers.iter().map(|number| u32::from_le_bytes(*number)));
        self.bytes.clear();
        // Linux lists runs backwards as often as forwards.
        self.numbers.sort_unstable();
        self.numbers.dedup();
        let listed = self.numbers.len();
        self.numbers.retain(|number| is_page(memory, *number));
        let outside = listed.saturating_sub(self.numbers.len());
        refused = refused.saturating_add(u64::try_from(outside).unwrap_or(u64::MAX));
        for run in self.numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            if let Some(first) = run.first() {
                let pages = u64::try_from(run.len()).unwrap_or_default();
                discard(memory, address_of(*first), pages.saturating_mul(PAGE_SIZE));
            }
        }
        refused
    }
}

fn address_of(number: u32) -> GuestAddress {
    GuestAddress(u64::from(number).saturating_mul(PAGE_SIZE))
}

fn is_page(memory: &GuestRam, number: u32) -> bool {
    memory.check_range(address_of(number), PAGE_SIZE_BYTES, Permissions::ReadWrite)
}

/// Gives the memory behind a range back to the host. Failing that, the guest keeps it: nobody is
/// harmed.
pub(super) fn discard(memory: &GuestRam, start: GuestAddress, size: u64) {
    static LOG: LogLimit = LogLimit::new();
    if let Err(error) = sys::discard::discard(memory, start, size) {
        let address = start.raw_value();
        LOG.warn(format_args!("{size} bytes at {address:#x} can't be given back: {error}"));
    }
}
