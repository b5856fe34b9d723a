//! The io_uring engine: all requests of a queue in flight at once, started by one system call.

use std::io;

use rustix::fs::FallocateFlags;
use sys::memory::GuestRam;
use sys::uring::{FileRing, RingOp};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::direct;
use super::engine::{Completion, Durability, IoEngine, IoRequest};
use super::raw::{DISCARD, RawImage, is_unsupported, zeroing};
use super::sync::{SyncIo, addresses};

/// An operation without buffers.
type NoBuffers = RingOp<[(GuestAddress, u32); 0]>;

/// What to do when the part of a request that is in the ring completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The request is done.
    Last,
    /// Giving up a range may be unsupported, which is fine.
    Discard,
    /// Making zeros may be unsupported: they are written then.
    Zero { offset: u64, len: u64 },
    /// All is written but not yet durable.
    Unsynced,
}

/// Serves a raw image through an io_uring of its own.
pub(super) struct UringEngine {
    ring: FileRing,
    durability: Durability,
    stages: Box<[Stage]>,
    alignment: Option<u32>,
    /// Does what the ring can't: direct I/O on unaligned buffers.
    fallback: SyncIo,
    /// Completions that didn't come from the ring.
    done: Vec<Completion>,
    /// Completions of parts; kept to be used again.
    parts: Vec<(u16, io::Result<()>)>,
}

impl UringEngine {
    pub(super) fn new(
        image: RawImage,
        memory: GuestRam,
        depth: u16,
        durability: Durability,
    ) -> io::Result<Self> {
        let ring = FileRing::new(image.file.clone(), memory.clone(), depth)?;
        Ok(Self {
            ring,
            durability,
            stages: vec![Stage::Last; usize::from(depth)].into(),
            alignment: image.alignment,
            fallback: SyncIo::new(image, memory, durability),
            done: Vec::new(),
            parts: Vec::new(),
        })
    }

    /// Puts a request's first part in the ring and returns what comes after it.
    fn push(&mut self, token: u16, request: IoRequest<'_>) -> io::Result<Stage> {
        match request {
            IoRequest::Read { offset, buffers } => {
                self.ring.push(token, RingOp::Read(offset, addresses(buffers)))?;
                Ok(Stage::Last)
            }
            IoRequest::Write { offset, buffers } => {
                let durable = self.durability == Durability::Always;
                let buffers = addresses(buffers);
                self.ring.push(token, RingOp::Write { offset, buffers, durable })?;
                Ok(Stage::Last)
            }
            IoRequest::Flush => {
                self.ring.push(token, NoBuffers::SyncData)?;
                Ok(Stage::Last)
            }
            IoRequest::Discard { offset, len } => {
                self.push_allocate(token, DISCARD, offset, len)?;
                Ok(Stage::Discard)
            }
            IoRequest::WriteZeroes { offset, len, unmap } => {
                self.push_allocate(token, zeroing(unmap), offset, len)?;
                Ok(Stage::Zero { offset, len })
            }
        }
    }

    fn push_allocate(
        &mut self,
        token: u16,
        mode: FallocateFlags,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        let mode = mode.bits().cast_signed();
        self.ring.push(token, NoBuffers::Fallocate { mode, offset, len })
    }

    /// Takes note of a completed part; returns the request's outcome unless another part follows.
    fn advance(&mut self, token: u16, outcome: io::Result<()>) -> Option<io::Result<()>> {
        let stage = self.stages.get_mut(usize::from(token))?;
        let unsupported = matches!(&outcome, Err(error) if is_unsupported(error));
        let pushed = match *stage {
            Stage::Discard if unsupported => return Some(Ok(())),
            Stage::Zero { offset, len } if unsupported => {
                *stage = Stage::Unsynced;
                self.ring.push(token, NoBuffers::WriteZeros { offset, len })
            }
            Stage::Discard | Stage::Zero { .. } | Stage::Unsynced
                if outcome.is_ok() && self.durability == Durability::Always =>
            {
                *stage = Stage::Last;
                self.ring.push(token, NoBuffers::SyncData)
            }
            _ => return Some(outcome),
        };
        pushed.err().map(Err)
    }

    /// Tells whether the ring can't do the request.
    fn needs_fallback(&self, request: &IoRequest<'_>) -> bool {
        match (request, self.alignment) {
            (IoRequest::Flush, _) => self.durability == Durability::Never,
            (IoRequest::Read { buffers, .. } | IoRequest::Write { buffers, .. }, Some(wanted)) => {
                !direct::is_aligned(buffers, wanted)
            }
            _ => false,
        }
    }
}

impl IoEngine for UringEngine {
    fn submit(&mut self, token: u16, request: IoRequest<'_>) {
        if self.needs_fallback(&request) {
            let outcome = self.fallback.execute(request);
            self.done.push(Completion { token, outcome });
            return;
        }
        match self.push(token, request) {
            Ok(stage) => {
                if let Some(slot) = self.stages.get_mut(usize::from(token)) {
                    *slot = stage;
                }
            }
            Err(error) => self.done.push(Completion { token, outcome: Err(error) }),
        }
    }

    fn kick(&mut self) -> io::Result<()> {
        self.ring.submit()
    }

    fn reap(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.done);
        let mut parts = std::mem::take(&mut self.parts);
        let reaped = self.ring.reap(|token, outcome| parts.push((token, outcome)));
        for (token, outcome) in parts.drain(..) {
            if let Some(outcome) = self.advance(token, outcome) {
                done.push(Completion { token, outcome });
            }
        }
        self.parts = parts;
        reaped.and_then(|()| self.ring.submit())
    }

    fn completed(&self) -> Option<&EventFd> {
        Some(self.ring.completed())
    }
}
