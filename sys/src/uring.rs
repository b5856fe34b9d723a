//! An io_uring over files and guest memory.
//!
//! The kernel works on a request after the call that submitted it returned. [`FileRing`] therefore
//! owns all that a request refers to (guest memory, I/O vectors, the files), doesn't reuse any of it
//! before the request has completed, and waits for every request when it's dropped.
#![expect(unsafe_code, reason = "submission entries hold pointers into guest memory")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{EnterFlags, IoUring, Probe, opcode, register::Restriction};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::guest_io::IoVecs;
use crate::memory::GuestRam;

/// What the kernel must know to do (Linux 5.6 and later).
const OPCODES: [u8; 6] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

/// How often a submission that the kernel has no memory for is tried again.
const SUBMIT_ATTEMPTS: u32 = 1000;

/// The source of every zero that's written. Aligned for direct I/O.
#[repr(align(4096))]
struct Zeros([u8; 64 << 10]);
static ZEROS: Zeros = Zeros([0; 64 << 10]);

/// One request to a file.
#[derive(Debug)]
pub enum RingOp<B> {
    /// Reads from a byte offset until all buffers are full.
    Read(u64, B),
    /// Writes all buffers from a byte offset; with `durable` they are on the disk on completion.
    Write {
        /// Byte offset.
        offset: u64,
        /// What to write.
        buffers: B,
        /// Whether to complete only when the data is on the disk (`RWF_DSYNC`).
        durable: bool,
    },
    /// Writes `len` zero bytes from a byte offset, by ordinary writes.
    WriteZeros {
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// `fallocate(2)` with these mode flags.
    Fallocate {
        /// `FALLOC_FL_…`.
        mode: i32,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// `fdatasync(2)`.
    SyncData,
}

/// What a busy slot is doing, to be able to go on after a short transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write { rw_flags: i32 },
    WriteZeros,
    Fallocate { mode: i32 },
    SyncData,
}

#[derive(Default)]
struct Slot {
    busy: Option<Kind>,
    vectors: IoVecs,
    /// The place of the request's file among the ring's.
    file: usize,
    offset: u64,
    left: u64,
}

impl Slot {
    /// Describes what is left of the request to the kernel.
    fn entry(&mut self, kind: Kind, file: Fd, token: u16) -> Entry {
        if kind == Kind::WriteZeros && self.vectors.remaining().is_empty() {
            // The kernel only reads them.
            let zeros = ZEROS.0.as_ptr().cast_mut();
            self.vectors.fill_repeated(zeros, ZEROS.0.len(), self.left);
        }
        let entry = match kind {
            Kind::Read => self.read_entry(file),
            Kind::Write { rw_flags } => self.write_entry(file, rw_flags),
            Kind::WriteZeros => self.write_entry(file, 0),
            Kind::Fallocate { mode } => {
                opcode::Fallocate::new(file, self.left).offset(self.offset).mode(mode).build()
            }
            Kind::SyncData => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        };
        entry.user_data(token.into())
    }

    fn read_entry(&self, file: Fd) -> Entry {
        match self.vectors.remaining() {
            [only] if let Ok(len) = u32::try_from(only.iov_len) => {
                opcode::Read::new(file, only.iov_base.cast(), len).offset(self.offset).build()
            }
            many => {
                opcode::Readv::new(file, many.as_ptr(), count(many)).offset(self.offset).build()
            }
        }
    }

    fn write_entry(&self, file: Fd, rw_flags: i32) -> Entry {
        match self.vectors.remaining() {
            [only] if let Ok(len) = u32::try_from(only.iov_len) => {
                opcode::Write::new(file, only.iov_base.cast(), len)
                    .offset(self.offset)
                    .rw_flags(rw_flags)
                    .build()
            }
            many => opcode::Writev::new(file, many.as_ptr(), count(many))
                .offset(self.offset)
                .rw_flags(rw_flags)
                .build(),
        }
    }

    /// Takes note of the kernel's `result`; returns the request's outcome unless it goes on.
    fn complete(&mut self, kind: Kind, result: i32) -> Option<io::Result<()>> {
        let done = match usize::try_from(result) {
            Ok(done) => done,
            Err(_) => match result.saturating_neg() {
                libc::EINTR | libc::EAGAIN => return None,
                errno => return Some(Err(io::Error::from_raw_os_error(errno))),
            },
        };
        let at_end = match kind {
            Kind::Fallocate { .. } | Kind::SyncData => return Some(Ok(())),
            Kind::Read => io::ErrorKind::UnexpectedEof,
            Kind::Write { .. } | Kind::WriteZeros => io::ErrorKind::WriteZero,
        };
        self.vectors.advance(done);
        self.offset = self.offset.saturating_add(done as u64);
        self.left = self.left.saturating_sub(done as u64);
        match (self.left, done) {
            (0, _) => Some(Ok(())),
            (_, 0) => Some(Err(at_end.into())),
            _ => None,
        }
    }
}

fn count(vectors: &[libc::iovec]) -> u32 {
    u32::try_from(vectors.len()).unwrap_or(u32::MAX)
}

/// An io_uring that works on some files and guest memory, with a fixed number of slots.
///
/// A request is known by its slot, which its submitter chooses. A steady flow of requests doesn't
/// allocate: each slot's vectors are used again.
///
/// # Dropping
/// Waits until the kernel has completed every request it was given; no byte of guest memory changes
/// afterwards. Requests that were pushed and never submitted are forgotten.
pub struct FileRing {
    ring: IoUring,
    files: Box<[Arc<File>]>,
    memory: GuestRam,
    slots: Box<[Slot]>,
    completed: EventFd,
    /// Requests that the kernel has and that haven't been reaped.
    in_kernel: usize,
}

impl FileRing {
    /// Creates a ring of `depth` slots on one file.
    ///
    /// # Errors
    /// When the kernel has no io_uring, forbids it, or doesn't know an operation that's needed.
    pub fn new(file: Arc<File>, memory: GuestRam, depth: u16) -> io::Result<Self> {
        Self::over([file].into(), memory, depth)
    }

    /// Creates a ring of `depth` slots on several files, known by their place in `files`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn over(files: Box<[Arc<File>]>, memory: GuestRam, depth: u16) -> io::Result<Self> {
        let Built { ring, disabled } = build_ring(depth.max(1))?;
        let completed = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        ring.submitter().register_eventfd(completed.as_raw_fd())?;
        if disabled {
            // Nothing else from here on: what goes through a ring passes no system call filter.
            ring.submitter().register_restrictions(&mut OPCODES.map(Restriction::sqe_op))?;
            ring.submitter().register_enable_rings()?;
        }
        let slots = (0..depth.max(1)).map(|_| Slot::default()).collect();
        Ok(Self { ring, files, memory, slots, completed, in_kernel: 0 })
    }

    /// Tells whether this process may use io_uring and the kernel knows all operations needed.
    ///
    /// # Errors
    /// What stands against it.
    pub fn probe() -> io::Result<()> {
        let ring = IoUring::new(1)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        match OPCODES.iter().all(|&code| probe.is_supported(code)) {
            true => Ok(()),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns the eventfd that is signalled for every completion.
    pub fn completed(&self) -> &EventFd {
        &self.completed
    }

    /// Puts a request to the first file in slot `token`; the kernel gets it by
    /// [`submit`](Self::submit).
    ///
    /// # Errors
    /// When there is no such slot, it's busy, a buffer isn't in guest memory, or the offset isn't a
    /// file's. Nothing has been queued then.
    pub fn push(
        &mut self,
        token: u16,
        op: RingOp<impl IntoIterator<Item = (GuestAddress, u32)>>,
    ) -> io::Result<()> {
        self.push_to(0, token, op)
    }

    /// Puts a request to the file at `index` in slot `token`.
    ///
    /// # Errors
    /// As [`push`](Self::push), or when there is no such file.
    pub fn push_to(
        &mut self,
        index: usize,
        token: u16,
        op: RingOp<impl IntoIterator<Item = (GuestAddress, u32)>>,
    ) -> io::Result<()> {
        let file = self.files.get(index).ok_or(io::ErrorKind::InvalidInput)?;
        let file = Fd(file.as_raw_fd());
        let slot = self
            .slots
            .get_mut(usize::from(token))
            .filter(|slot| slot.busy.is_none())
            .ok_or(io::ErrorKind::ResourceBusy)?;
        let kind;
        (kind, slot.offset, slot.left) = match op {
            RingOp::Read(offset, buffers) => {
                (Kind::Read, offset, slot.vectors.fill(&self.memory, buffers)?)
            }
            RingOp::Write { offset, buffers, durable } => {
                let rw_flags = if durable { libc::RWF_DSYNC } else { 0 };
                let len = slot.vectors.fill(&self.memory, buffers)?;
                (Kind::Write { rw_flags }, offset, len)
            }
            RingOp::WriteZeros { offset, len } => {
                slot.vectors.fill(&self.memory, [])?;
                (Kind::WriteZeros, offset, len)
            }
            RingOp::Fallocate { mode, offset, len } => (Kind::Fallocate { mode }, offset, len),
            RingOp::SyncData => (Kind::SyncData, 0, 0),
        };
        // A negative offset would mean the file's own position to the kernel.
        if i64::try_from(slot.offset).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        slot.file = index;
        let entry = slot.entry(kind, file, token);
        // SAFETY:
        // - the file descriptor is one of `self.files`', the vectors are the slot's, their buffers lie in
        //   `self.memory` (or are static): all live until the ring is gone, and `drop` waits for
        //   every completion;
        // - `busy` keeps the slot's vectors unchanged until this request's completion is reaped;
        // - nothing in this process holds a Rust reference into guest memory.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        slot.busy = Some(kind);
        Ok(())
    }

    /// Hands all pushed requests to the kernel, in one call as a rule.
    ///
    /// # Errors
    /// When the kernel refuses. The requests stay pushed then, and what completes is reaped as ever.
    pub fn submit(&mut self) -> io::Result<()> {
        let mut attempts = 0;
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(count) => self.in_kernel += count,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // No memory just now, or completions must go first; those have room.
                    Some(libc::EAGAIN | libc::EBUSY) if attempts < SUBMIT_ATTEMPTS => {
                        attempts += 1;
                        std::thread::yield_now();
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Calls `done` with the slot and the outcome of each request that has completed since.
    ///
    /// Requests that were only partly done go on; their slots stay busy.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), for those that go on.
    pub fn reap(&mut self, mut done: impl FnMut(u16, io::Result<()>)) -> io::Result<()> {
        let (_, mut submission, completion) = self.ring.split();
        let mut goes_on = false;
        for event in completion {
            self.in_kernel = self.in_kernel.saturating_sub(1);
            let Ok(token) = u16::try_from(event.user_data()) else { continue };
            let Some(slot) = self.slots.get_mut(usize::from(token)) else { continue };
            let Some(kind) = slot.busy else { continue };
            let mut outcome = slot.complete(kind, event.result());
            if outcome.is_none()
                && let Some(file) = self.files.get(slot.file)
            {
                let entry = slot.entry(kind, Fd(file.as_raw_fd()), token);
                // SAFETY: as in `push_to`; the request's earlier part has completed.
                match unsafe { submission.push(&entry) } {
                    Ok(()) => goes_on = true,
                    Err(error) => outcome = Some(Err(io::Error::other(error))),
                }
            }
            if let Some(outcome) = outcome {
                slot.busy = None;
                if kind == Kind::Read {
                    slot.vectors.mark_dirty(&self.memory);
                }
                done(token, outcome);
            }
        }
        drop(submission);
        if goes_on { self.submit() } else { Ok(()) }
    }

    /// Notes what reads wrote whose completion nobody asked for.
    fn mark_abandoned(&self) {
        for slot in self.slots.iter().filter(|slot| slot.busy == Some(Kind::Read)) {
            slot.vectors.mark_dirty(&self.memory);
        }
    }

    /// Waits until at least one request that the kernel has is completed.
    fn wait(&self) -> io::Result<()> {
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: submits nothing and passes no argument.
        unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 1, flags, None) }.map(drop)
    }
}

impl Drop for FileRing {
    fn drop(&mut self) {
        loop {
            let reaped = self.ring.completion().count();
            self.in_kernel = self.in_kernel.saturating_sub(reaped);
            if self.in_kernel == 0 {
                return self.mark_abandoned();
            }
            match self.wait().map_err(|error| (error.raw_os_error(), error)) {
                Ok(()) | Err((Some(libc::EINTR | libc::EAGAIN | libc::EBUSY), _)) => {}
                Err((_, error)) => {
                    // Going on would let the kernel write to memory that is somebody else's then.
                    log::error!("can't wait for I/O in flight: {error}");
                    std::process::abort();
                }
            }
        }
    }
}

/// A ring, and whether it waits to be enabled.
struct Built {
    ring: IoUring,
    disabled: bool,
}

/// Makes a ring that can be restricted before it's enabled (Linux 5.10) and whose completions don't
/// interrupt the submitting thread (5.19), as far as the kernel can.
fn build_ring(depth: u16) -> io::Result<Built> {
    let depth = depth.into();
    let unknown = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    match IoUring::builder().dontfork().setup_r_disabled().setup_coop_taskrun().build(depth) {
        Err(error) if unknown(&error) => {}
        result => return result.map(|ring| Built { ring, disabled: true }),
    }
    match IoUring::builder().dontfork().setup_r_disabled().build(depth) {
        Err(error) if unknown(&error) => {}
        result => return result.map(|ring| Built { ring, disabled: true }),
    }
    let ring = IoUring::builder().dontfork().build(depth)?;
    Ok(Built { ring, disabled: false })
}

#[cfg(test)]
mod tests;
