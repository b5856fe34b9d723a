//! Serves the pages of a memory file to a restored guest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sys::uffd::{Event, Uffd};

use super::handshake::{self, GuestRegionUffdMapping};
use super::working_set::WorkingSet;
use crate::header::Kind;
use crate::memory::{MemoryFile, PAGE, is_zero};

/// Largest pages that can back a guest here.
const MAX_PAGE: u64 = 1 << 30;

/// How much follows a page that the guest waits for, in bytes: a fault costs more than the copy.
const AROUND: u64 = 64 << 10;

/// Most that is filled at once ahead of time, in bytes.
const BATCH: u64 = 1 << 20;

/// Why pages can't be served.
#[derive(Debug, thiserror::Error)]
pub enum LazyError {
    /// The VMM didn't say what it should.
    #[error("the VMM's table of memory regions is wrong")]
    Handshake(#[source] io::Error),
    /// The table doesn't fit the memory file.
    #[error("the VMM's table of memory regions doesn't fit the snapshot: {0}")]
    Mapping(&'static str),
    /// The memory file can't be read.
    #[error("can't read the snapshot's memory at {offset:#x}")]
    Read {
        /// Where, in bytes.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// The kernel refuses a page.
    #[error("can't give the guest its page at {offset:#x}")]
    Fill {
        /// Which, as an offset into the memory file.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// Waiting for faults failed.
    #[error("can't wait for page faults")]
    Wait(#[source] io::Error),
}

/// A page fault handler for one guest.
pub struct PageServer {
    uffd: Uffd,
    mappings: Vec<GuestRegionUffdMapping>,
    memory: MemoryFile,
    recording: Option<WorkingSet>,
    /// Pages that the guest gave back: zeros from then on. One bit per 4096 bytes of content.
    removed: Vec<u64>,
    /// Pages that were filled, in the same way: what surrounds a fault isn't tried twice.
    filled: Vec<u64>,
    buffer: Vec<u8>,
}

impl PageServer {
    /// Receives the regions and the userfaultfd from the VMM on `stream`.
    ///
    /// # Errors
    /// [`LazyError::Handshake`] and what [`new`](Self::new) finds.
    pub fn accept(stream: &UnixStream, memory: MemoryFile) -> Result<Self, LazyError> {
        let (mappings, uffd) = handshake::receive(stream).map_err(LazyError::Handshake)?;
        Self::new(uffd, mappings, memory)
    }

    /// Creates a handler of the faults of `uffd` in `mappings`.
    ///
    /// # Errors
    /// [`LazyError::Mapping`] when the regions aren't the memory file's, [`LazyError::Handshake`]
    /// when the descriptor is of another kind.
    pub fn new(
        uffd: OwnedFd,
        mappings: Vec<GuestRegionUffdMapping>,
        memory: MemoryFile,
    ) -> Result<Self, LazyError> {
        check(&mappings, &memory).map_err(LazyError::Mapping)?;
        let uffd = Uffd::from_received(uffd).map_err(LazyError::Handshake)?;
        let pages = memory.info().content_bytes / PAGE;
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        let (removed, filled) = (vec![0; words], vec![0; words]);
        let buffer = Vec::new();
        Ok(Self { uffd, mappings, memory, recording: None, removed, filled, buffer })
    }

    /// Notes from now on which pages the guest touches. Each of them is waited for meanwhile: what
    /// would be filled along with another one would be missing in what is noted.
    pub fn record(&mut self) {
        self.recording = Some(WorkingSet::new(self.memory.id()));
    }

    /// Returns what was noted, and notes no more.
    pub fn take_recording(&mut self) -> Option<WorkingSet> {
        self.recording.take()
    }

    /// Fills the pages of a working set; returns how many bytes that was. Faults are served again
    /// afterwards, or before the guest runs: a megabyte takes well below a millisecond.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn prefault(&mut self, set: &WorkingSet) -> Result<u64, LazyError> {
        let mut done = 0;
        for run in set.runs() {
            let mut offset = run.offset;
            while offset < run.end() {
                let Some(mapping) = self.by_offset(offset) else { break };
                let page = offset - (offset - mapping.offset) % mapping.page_size;
                let wanted = (run.end() - page).next_multiple_of(mapping.page_size);
                let left = mapping.offset + mapping.size - page;
                let len = wanted.min(left).min(BATCH.max(mapping.page_size));
                done += self.fill(&mapping, page, len)?;
                offset = page + len;
            }
        }
        Ok(done)
    }

    /// Serves faults until one of `ends` can be read or is hung up, as the VMM's socket is when the
    /// VMM is gone.
    ///
    /// # Errors
    /// [`LazyError`]: the guest stands still then, and is best killed.
    pub fn run(&mut self, ends: &[BorrowedFd<'_>]) -> Result<(), LazyError> {
        let mut events = Vec::new();
        loop {
            if self.wait(ends)? {
                return Ok(());
            }
            events.clear();
            self.uffd.read(&mut events).map_err(LazyError::Wait)?;
            // What is given back first: until its event is read, the kernel fills no page at all.
            for event in &events {
                if let Event::Remove { start, end } = *event {
                    self.remove(start, end);
                }
            }
            for event in &events {
                if let Event::Fault { address, .. } = *event
                    && !self.serve(address)?
                {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for an event; tells whether it's the end.
    fn wait(&self, ends: &[BorrowedFd<'_>]) -> Result<bool, LazyError> {
        let mut fds = vec![PollFd::new(&self.uffd, PollFlags::IN)];
        fds.extend(ends.iter().map(|end| PollFd::new(end, PollFlags::IN)));
        loop {
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(LazyError::Wait(error.into())),
                Ok(_) => return Ok(fds.iter().skip(1).any(|fd| !fd.revents().is_empty())),
            }
        }
    }

    /// Gives the page at the VMM's `address`; tells whether the VMM is still there.
    fn serve(&mut self, address: u64) -> Result<bool, LazyError> {
        let Some(mapping) = self.by_address(address) else {
            log::warn!("a page fault at {address:#x}, which is in no region");
            return Ok(true);
        };
        let within = address - mapping.base_host_virt_addr;
        let offset = mapping.offset + within - within % mapping.page_size;
        if let Some(recording) = &mut self.recording {
            recording.add(offset, mapping.page_size);
        }
        let len = self.stretch(&mapping, offset);
        match self.fill(&mapping, offset, len) {
            Err(LazyError::Fill { source, .. })
                if source.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
            {
                Ok(false)
            }
            result => result.map(|_| true),
        }
    }

    /// Returns how much to fill from `offset` on: what follows in its neighbourhood, as far as it's
    /// still missing.
    fn stretch(&self, mapping: &GuestRegionUffdMapping, offset: u64) -> u64 {
        if self.recording.is_some() {
            return mapping.page_size;
        }
        let end = mapping.offset + mapping.size;
        let last = (offset - offset % AROUND + AROUND).min(end);
        let mut to = offset + mapping.page_size;
        while to < last && !bit(&self.filled, to) && !bit(&self.removed, to) {
            to += mapping.page_size;
        }
        to - offset
    }

    /// Fills what is missing of `len` bytes at `offset` of the content.
    fn fill(
        &mut self,
        mapping: &GuestRegionUffdMapping,
        offset: u64,
        len: u64,
    ) -> Result<u64, LazyError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        let read = self.memory.read_at(offset, &mut buffer);
        read.map_err(|source| LazyError::Read { offset, source })?;
        self.blank_removed(offset, &mut buffer);
        let result = self.place(mapping, offset, &buffer);
        self.buffer = buffer;
        result
    }

    /// What the guest gave back isn't what it was.
    fn blank_removed(&self, offset: u64, bytes: &mut [u8]) {
        let pages = bytes.chunks_mut(usize::try_from(PAGE).unwrap_or(usize::MAX));
        for (at, page) in (offset..).step_by(4096).zip(pages) {
            if bit(&self.removed, at) {
                page.fill(0);
            }
        }
    }

    /// Hands the kernel `bytes` for the pages from `offset` on, and passes over what it has.
    fn place(
        &mut self,
        mapping: &GuestRegionUffdMapping,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, LazyError> {
        let page = usize::try_from(mapping.page_size).unwrap_or(usize::MAX);
        let (mut at, mut done) = (0, 0);
        while at < bytes.len() {
            let here = offset + at as u64;
            let address = mapping.base_host_virt_addr + (here - mapping.offset);
            let (run, zeros) = self.run_of_a_kind(mapping, bytes.get(at..).unwrap_or_default());
            let filled = match zeros {
                true => self.uffd.zero(address, run.len()),
                false => self.uffd.copy(address, run),
            };
            match filled {
                Ok(len) => {
                    mark(&mut self.filled, here, len as u64);
                    done += len as u64;
                    at += len;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // Somebody may have begun to wait before it was filled.
                    let _ = self.uffd.wake(address, mapping.page_size);
                    mark(&mut self.filled, here, mapping.page_size);
                    at += page;
                }
                // Pages are being given back: that must be read first.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.take_removals()? {
                        // What was read may be out of date. What isn't filled is reported again.
                        let _ = self.uffd.wake(address, (bytes.len() - at) as u64);
                        break;
                    }
                }
                Err(source) => return Err(LazyError::Fill { offset: here, source }),
            }
        }
        Ok(done)
    }

    /// Returns how much of `bytes` is of one kind, zeros or not, at their start.
    fn run_of_a_kind<'b>(
        &self,
        mapping: &GuestRegionUffdMapping,
        bytes: &'b [u8],
    ) -> (&'b [u8], bool) {
        if mapping.page_size != PAGE {
            return (bytes, false);
        }
        let mut pages = bytes.chunks(4096).map(is_zero);
        let zeros = pages.next().unwrap_or(false);
        let len = 4096 * (1 + pages.take_while(|kind| *kind == zeros).count());
        (bytes.get(..len).unwrap_or(bytes), zeros)
    }

    /// Reads what waits; tells whether pages were given back. Faults among it are woken, and so
    /// reported again.
    fn take_removals(&mut self) -> Result<bool, LazyError> {
        let mut events = Vec::new();
        self.uffd.read(&mut events).map_err(LazyError::Wait)?;
        let mut removed = false;
        for event in events {
            match event {
                Event::Remove { start, end } => {
                    self.remove(start, end);
                    removed = true;
                }
                Event::Fault { address, .. } => {
                    let page = self.by_address(address).map_or(PAGE, |mapping| mapping.page_size);
                    let _ = self.uffd.wake(address - address % page, page);
                }
            }
        }
        if !removed {
            // It was read already, and its thread hasn't gone on yet.
            std::thread::yield_now();
        }
        Ok(removed)
    }

    /// Takes note that the pages from `start` to `end` in the VMM are zeros from now on.
    fn remove(&mut self, start: u64, end: u64) {
        for mapping in &self.mappings {
            let base = mapping.base_host_virt_addr;
            let from = start.clamp(base, base + mapping.size) - base;
            let to = end.clamp(base, base + mapping.size) - base;
            let offset = mapping.offset + from;
            mark(&mut self.removed, offset, to.saturating_sub(from));
        }
    }

    fn by_address(&self, address: u64) -> Option<GuestRegionUffdMapping> {
        self.mappings.iter().copied().find(|mapping| {
            address.checked_sub(mapping.base_host_virt_addr).is_some_and(|at| at < mapping.size)
        })
    }

    fn by_offset(&self, offset: u64) -> Option<GuestRegionUffdMapping> {
        self.mappings
            .iter()
            .copied()
            .find(|mapping| offset.checked_sub(mapping.offset).is_some_and(|at| at < mapping.size))
    }
}

impl AsFd for PageServer {
    /// Readable when a fault waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}

/// Checks that every region lies in the file and in the address space, whole pages all of it.
fn check(mappings: &[GuestRegionUffdMapping], memory: &MemoryFile) -> Result<(), &'static str> {
    if memory.kind() != Kind::Full {
        return Err("it's differential: merge it with its base first");
    }
    let content = memory.info().content_bytes;
    for mapping in mappings {
        let page = mapping.page_size;
        if !page.is_power_of_two() || !(PAGE..=MAX_PAGE).contains(&page) {
            return Err("a region has pages of an impossible size");
        }
        let all = mapping.base_host_virt_addr | mapping.size;
        if !all.is_multiple_of(page) || !mapping.offset.is_multiple_of(PAGE) {
            return Err("a region isn't of whole pages");
        }
        if mapping.base_host_virt_addr.checked_add(mapping.size).is_none() {
            return Err("a region goes beyond the address space");
        }
        if mapping.offset.checked_add(mapping.size).is_none_or(|end| end > content) {
            return Err("a region goes beyond the file's end");
        }
    }
    Ok(())
}

/// Tells whether the bit of the page at byte `offset` is set.
fn bit(bits: &[u64], offset: u64) -> bool {
    let page = offset / PAGE;
    let word = usize::try_from(page / 64).ok().and_then(|index| bits.get(index));
    word.is_some_and(|word| word >> (page % 64) & 1 == 1)
}

/// Sets the bits of `len` bytes at `offset`.
fn mark(bits: &mut [u64], offset: u64, len: u64) {
    for page in offset / PAGE..offset.saturating_add(len) / PAGE {
        if let Some(word) = usize::try_from(page / 64).ok().and_then(|index| bits.get_mut(index)) {
            *word |= 1 << (page % 64);
        }
    }
}
