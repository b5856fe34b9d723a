//! Copies the memory of a guest that runs on: each page as it was when the capture began.
//!
//! All pages that hold anything are write-protected while the guest is paused; then it goes on. A
//! thread copies page after page and lifts the protection behind itself; whoever writes to a page
//! that isn't copied yet, be it a vCPU, a device's worker or the kernel on its behalf, waits until
//! that page has been copied, out of turn.
//!
//! Pages that the host has never given are zero and stay unprotected: on kernels before 6.4, a write
//! to such a page couldn't be caught anyway, and there's nothing of it to copy. Pages aren't given
//! back to the host meanwhile (the balloon's requests go unheeded): they would be gone before they
//! could be copied.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use snapshot::SnapshotError;
use snapshot::memory::{MemoryWriter, WrittenMemory};
use sys::discard::page_size;
use sys::memory::{GuestRam, GuestRegion, PAGE_SIZE, RegionTracking};
use sys::populated::populated;
use sys::thread_start::{self, Role};
use sys::uffd::{Event, Mode, Uffd, UffdError, feature};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::memory::read;
use crate::memory::runs;

const PAGE: u64 = PAGE_SIZE as u64;

/// How much is copied in turn before faults are looked at again, in bytes: what a writer waits for.
const CHUNK: u64 = 64 << 10;

/// Why a running guest's memory can't be captured. Pausing it and copying always can.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// This host or this kind of memory doesn't allow it.
    #[error(transparent)]
    Uffd(#[from] UffdError),
    /// The memory file can't be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The kernel refuses something else.
    #[error("can't capture the guest's memory")]
    Os(#[from] io::Error),
    /// It was given up.
    #[error("the capture was cancelled")]
    Cancelled,
}

/// A capture under way. Dropped, it's given up; the guest goes on either way.
#[derive(Debug)]
pub struct LiveCapture {
    thread: Option<JoinHandle<Result<WrittenMemory, CaptureError>>>,
    cancelled: Arc<AtomicBool>,
    faulted: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    done: EventFd,
}

impl LiveCapture {
    /// Begins to capture `memory` as it is now. Nobody may write to it until this returns; then
    /// everybody may.
    ///
    /// It takes time for protecting, not for copying: some 3 ms per 100 MiB in use, in 4 KiB pages.
    ///
    /// # Errors
    /// [`CaptureError`]: above all when the host forbids it, and for memory that's a private mapping
    /// of a file or whose pages a page fault handler supplies. Nothing is protected then.
    pub fn start(memory: &GuestRam, writer: MemoryWriter) -> Result<Self, CaptureError> {
        let done = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let faulted = Arc::new(AtomicU64::new(0));
        let mut copier = Copier::new(memory, writer, Arc::clone(&faulted))?;
        copier.protect()?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let ended = Arc::new(AtomicBool::new(false));
        let signal = Signal { done: done.try_clone()?, ended: Arc::clone(&ended) };
        let stop = Arc::clone(&cancelled);
        let thread = thread::Builder::new().name("capture".to_owned()).spawn(move || {
            thread_start::begin(Role::Snapshot);
            // Signalled even if the copying panics.
            let _signal = signal;
            copier.run(&stop)
        })?;
        Ok(Self { thread: Some(thread), cancelled, faulted, ended, done })
    }

    /// Returns what becomes readable when the capture is over.
    pub fn done(&self) -> &EventFd {
        &self.done
    }

    /// Tells whether the capture is over.
    pub fn is_done(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Returns how many times a writer had to wait until now, for a page or a huge page.
    pub fn faulted_pages(&self) -> u64 {
        self.faulted.load(Ordering::Relaxed)
    }

    /// Waits for the capture's end and returns the memory file.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn finish(mut self) -> Result<WrittenMemory, CaptureError> {
        self.join().unwrap_or(Err(CaptureError::Cancelled))
    }

    fn join(&mut self) -> Option<Result<WrittenMemory, CaptureError>> {
        let thread = self.thread.take()?;
        Some(thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked").into())))
    }
}

impl Drop for LiveCapture {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.join();
    }
}

struct Signal {
    done: EventFd,
    ended: Arc<AtomicBool>,
}

impl Drop for Signal {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Err(error) = self.done.write(1) {
            log::error!("can't tell that a capture is over: {error}");
        }
    }
}

/// One region's progress.
#[derive(Debug)]
struct Place {
    /// The host's address of its first byte.
    base: u64,
    len: u64,
    /// Byte offset of its content in the file.
    start: u64,
    /// Size of the pages that back it.
    unit: u64,
    /// Pages of 4096 bytes that are protected and not copied.
    todo: Vec<u64>,
    /// The first byte that the linear copy hasn't passed.
    next: u64,
}

impl Place {
    /// Returns where the next pages in turn lie, and their length in bytes.
    fn next_run(&mut self) -> Option<(u64, u64)> {
        // Bits behind `next` are clear, so the search goes on where it was.
        let skipped = self.next / PAGE / 64;
        let rest = usize::try_from(skipped).ok().and_then(|words| self.todo.get(words..))?;
        let pages = (self.len / PAGE).checked_sub(skipped * 64)?;
        let Some((page, count)) = runs(rest, pages).next() else {
            self.next = self.len;
            return None;
        };
        self.next = (skipped * 64 + page) * PAGE;
        Some((self.next, (count * PAGE).min(CHUNK.max(self.unit))))
    }
}

#[derive(Debug)]
struct Copier {
    memory: GuestRam,
    uffd: Uffd,
    places: Vec<Place>,
    writer: Option<MemoryWriter>,
    buffer: Vec<u8>,
    faulted: Arc<AtomicU64>,
}

impl Copier {
    fn new(
        memory: &GuestRam,
        writer: MemoryWriter,
        faulted: Arc<AtomicU64>,
    ) -> Result<Self, CaptureError> {
        let special =
            |region: &GuestRegion| region.flags() & (libc::MAP_SHARED | libc::MAP_HUGETLB) != 0;
        let mut features = feature::WRITE_PROTECT;
        if memory.iter().any(special) {
            features |= feature::WRITE_PROTECT_SHARED;
        }
        let uffd = Uffd::new(features)?;
        let mut start = 0;
        let places = memory.iter().map(|region| {
            let place = Place {
                base: region.as_ptr() as u64,
                len: region.len(),
                start,
                unit: page_size(region),
                todo: Vec::new(),
                next: 0,
            };
            start += region.len();
            place
        });
        let places = places.collect();
        let writer = Some(writer);
        Ok(Self { memory: memory.clone(), uffd, places, writer, buffer: Vec::new(), faulted })
    }

    /// Protects every page that isn't known to be zero.
    fn protect(&mut self) -> Result<(), CaptureError> {
        for (region, place) in self.memory.iter().zip(&mut self.places) {
            self.uffd.register(region, Mode::WriteProtect)?;
            region.tracking().hold(true);
            place.todo = whole_units(&populated(region), place.unit);
            for (page, count) in runs(&place.todo, place.len / PAGE) {
                self.uffd.write_protect(place.base + page * PAGE, count * PAGE, true)?;
            }
        }
        Ok(())
    }

    fn run(mut self, cancelled: &AtomicBool) -> Result<WrittenMemory, CaptureError> {
        let mut events = Vec::new();
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(CaptureError::Cancelled);
            }
            events.clear();
            self.uffd.read(&mut events)?;
            for event in &events {
                if let Event::Fault { address, .. } = *event {
                    self.serve(address)?;
                }
            }
            // While writers wait, nothing is copied in turn.
            if events.is_empty() && !self.copy_next()? {
                break;
            }
        }
        let writer = self.writer.take().ok_or(CaptureError::Cancelled)?;
        // The guest needn't wait for the rest.
        drop(self);
        Ok(writer.finish()?)
    }

    /// Copies the page at `address`, for whose writer that's time to go on.
    fn serve(&mut self, address: u64) -> Result<(), CaptureError> {
        let within = |place: &Place| address.checked_sub(place.base).filter(|at| *at < place.len);
        let found = self.places.iter().enumerate().find_map(|(index, place)| {
            within(place).map(|at| (index, at - at % place.unit, place.unit))
        });
        let Some((index, at, unit)) = found else { return Ok(()) };
        self.faulted.fetch_add(1, Ordering::Relaxed);
        self.copy(index, at, unit)
    }

    /// Copies the next pages in turn; tells whether there were any.
    fn copy_next(&mut self) -> Result<bool, CaptureError> {
        let mut places = self.places.iter_mut().enumerate();
        let next = places.find_map(|(index, place)| place.next_run().map(|run| (index, run)));
        let Some((index, (at, len))) = next else { return Ok(false) };
        self.copy(index, at, len)?;
        Ok(true)
    }

    /// Copies `len` bytes at `at` of a region unless it's done, lifts their protection, and only then
    /// writes them to the file.
    fn copy(&mut self, index: usize, at: u64, len: u64) -> Result<(), CaptureError> {
        let Some(place) = self.places.get_mut(index) else { return Ok(()) };
        let todo = take_bit(&mut place.todo, at / PAGE, len / PAGE);
        let region = self.memory.iter().nth(index);
        let (Some(region), true) = (region, todo) else {
            // It's done already; who waits hasn't been woken in time to know.
            return Ok(self.uffd.wake(place.base + at, len)?);
        };
        read(region, at, len, &mut self.buffer);
        self.uffd.write_protect(place.base + at, len, false)?;
        if let Some(writer) = &mut self.writer {
            writer.write(place.start + at, &self.buffer)?;
        }
        Ok(())
    }
}

/// However it ends: nothing stays protected, and nobody waits.
impl Drop for Copier {
    fn drop(&mut self) {
        for (region, place) in self.memory.iter().zip(&self.places) {
            for (page, count) in runs(&place.todo, place.len / PAGE) {
                let _ = self.uffd.write_protect(place.base + page * PAGE, count * PAGE, false);
            }
            // Fails for a region that `protect` didn't come to.
            let _ = self.uffd.unregister(region);
            region.tracking().hold(false);
        }
    }
}

/// Sets all bits of every unit that has one.
fn whole_units(bits: &[u64], unit: u64) -> Vec<u64> {
    let words = usize::try_from(unit / PAGE / 64).unwrap_or(0);
    if words == 0 {
        return bits.to_vec();
    }
    let unit_of = |unit: &[u64]| {
        let any = unit.iter().any(|word| *word != 0);
        std::iter::repeat_n(if any { u64::MAX } else { 0 }, unit.len())
    };
    bits.chunks(words).flat_map(unit_of).collect()
}

/// Clears `count` bits from `page` on; tells whether the first was set. A unit's bits are all alike.
fn take_bit(bits: &mut [u64], page: u64, count: u64) -> bool {
    let mut first = false;
    for at in page..page + count {
        let Some(word) = usize::try_from(at / 64).ok().and_then(|index| bits.get_mut(index)) else {
            break;
        };
        first |= at == page && *word >> (at % 64) & 1 == 1;
        *word &= !(1 << (at % 64));
    }
    first
}

#[cfg(test)]
mod tests;
