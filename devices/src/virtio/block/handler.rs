//! Serves one queue: requests in, one engine, completions out.
//!
//! A turn pops all there is, starts it with one [`IoEngine::kick`], returns all that has completed,
//! and interrupts the driver at most once. Nothing is allocated for a request: tokens, buffers and
//! lists live as long as the queue.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use sys::memory::GuestRam;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};
use vmm_sys_util::eventfd::EventFd;

use super::media::{Medium, Slot};
use super::metrics::BlockMetrics;
use super::request::{ID_BYTES, Limits, Request, RequestError, take_status};
use crate::disk::{Completion, DiskBackend, IoEngine, IoRequest};
use crate::log_limit::LogLimit;
use crate::rate_limiter::RateLimiter;
use crate::virtio::worker::WorkerHandler;
use crate::virtio::{Chain, ChainBuffers, DeviceQueue, QueueError, Segment};

#[expect(clippy::cast_possible_truncation, reason = "a C int for a byte")]
const STATUS_OK: u8 = VIRTIO_BLK_S_OK as u8;
#[expect(clippy::cast_possible_truncation, reason = "a C int for a byte")]
const STATUS_IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;

/// What a queue's handler is made of.
pub(super) struct Parts {
    pub(super) queue: DeviceQueue,
    pub(super) memory: GuestRam,
    /// Dropped before the disk that it works on.
    pub(super) engine: Box<dyn IoEngine>,
    pub(super) disk: Arc<dyn DiskBackend>,
    /// Where another disk comes from.
    pub(super) slot: Arc<Slot>,
    pub(super) limiter: RateLimiter,
    pub(super) limits: Limits,
    pub(super) serial: [u8; ID_BYTES],
    pub(super) metrics: Arc<BlockMetrics>,
}

/// What has to be known of a request when it completes.
#[derive(Clone, Copy)]
struct InFlight {
    head: u16,
    status: GuestAddress,
    request: Request,
}

/// Why the requests of a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    /// There are no more.
    Empty,
    /// All tokens are in flight.
    Full,
    /// The rate limit's timer says when to go on.
    RateLimited,
    /// The turn is long enough; the event loop may have other events.
    TurnOver,
}

/// What ends a queue's service until the device is reset.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the I/O engine fails: {0}")]
    Engine(#[from] io::Error),
}

/// Serves one queue on its worker.
pub(super) struct QueueHandler {
    parts: Parts,
    buffers: ChainBuffers,
    in_flight: Box<[Option<InFlight>]>,
    free: Vec<u16>,
    done: Vec<Completion>,
    /// Chains to return, with the bytes written to each.
    used: Vec<(u16, u32)>,
    /// All tokens were in flight when requests were last looked for.
    full: bool,
    /// The ring or the engine is broken: nothing more is served before a reset.
    broken: bool,
}

impl QueueHandler {
    pub(super) fn new(parts: Parts) -> Self {
        let size = parts.queue.size();
        let capacity = usize::from(size);
        Self {
            parts,
            buffers: ChainBuffers::default(),
            in_flight: vec![None; capacity].into(),
            free: (0..size).rev().collect(),
            done: Vec::with_capacity(capacity),
            used: Vec::with_capacity(capacity),
            full: false,
            broken: false,
        }
    }

    /// Runs a step unless the queue is broken; asks for a reset when the step finds that it is.
    fn guarded(&mut self, step: impl FnOnce(&mut Self) -> Result<(), ServiceError>) {
        if self.broken {
            return;
        }
        if let Err(error) = step(self) {
            self.broken = true;
            self.parts.queue.needs_reset(&error);
        }
    }

    /// Takes requests until there are none, or no more can be taken, and returns what completes.
    fn serve(&mut self) -> Result<(), ServiceError> {
        self.parts.queue.disable_notification(&self.parts.memory)?;
        // A driver that adds requests as fast as they are served mustn't hold up a reset.
        let mut budget = self.parts.queue.size();
        loop {
            let drained = self.submit_available(&mut budget)?;
            self.parts.engine.kick()?;
            self.return_completed()?;
            match drained {
                Drained::Empty => {
                    if !self.parts.queue.enable_notification(&self.parts.memory)? {
                        break;
                    }
                }
                Drained::Full if !self.free.is_empty() => {}
                Drained::Full | Drained::RateLimited => break,
                Drained::TurnOver => {
                    let _ = self.parts.queue.kick().write(1);
                    break;
                }
            }
        }
        self.full = self.free.is_empty();
        Ok(self.parts.queue.signal_used(&self.parts.memory)?)
    }

    /// Returns what has completed, and takes further requests if that was what they waited for.
    fn complete(&mut self) -> Result<(), ServiceError> {
        self.return_completed()?;
        if self.full {
            return self.serve();
        }
        Ok(self.parts.queue.signal_used(&self.parts.memory)?)
    }

    /// Exchanges the disk for the one in the slot, once nothing is in flight on the old one.
    fn change_disk(&mut self, ops: &mut EventOps) {
        let Some(Medium { engine, disk, announcement }) = self.parts.slot.take() else { return };
        self.quiesce();
        if let Some(old) = self.parts.engine.completed()
            && let Err(error) = ops.remove(Events::new(old, EventSet::empty()))
        {
            log::error!("queue {} can't let go of a disk: {error}", self.parts.queue.index());
        }
        self.parts.engine = engine;
        self.parts.limits.len = disk.len_bytes();
        self.parts.disk = disk;
        if let Some(new) = self.parts.engine.completed() {
            let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
            if let Err(error) = ops.add(Events::new(new, edge)) {
                self.broken = true;
                self.parts.queue.needs_reset(&error);
            }
        }
        // The last worker to come here announces the new capacity.
        drop(announcement);
        self.guarded(Self::serve);
    }

    /// Returns what has completed and takes nothing new.
    fn complete_only(&mut self) -> Result<(), ServiceError> {
        self.return_completed()?;
        Ok(self.parts.queue.signal_used(&self.parts.memory)?)
    }

    /// Takes back the tokens of what has completed on a broken queue, which can't be returned;
    /// returns whether the engine still works.
    fn reap_blindly(&mut self) -> bool {
        let reaped = self.parts.engine.reap(&mut self.done);
        for Completion { token, .. } in self.done.drain(..) {
            let slot = self.in_flight.get_mut(usize::from(token));
            if slot.and_then(Option::take).is_some() {
                self.free.push(token);
            }
        }
        reaped.is_ok()
    }

    /// Waits until the engine has more to reap; returns `false` if it never will.
    fn await_completion(&self) -> bool {
        static LOG: LogLimit = LogLimit::new();
        let Some(completed) = self.parts.engine.completed() else { return false };
        if let Err(error) = wait_readable(completed) {
            LOG.warn(format_args!("can't wait for requests in flight: {error}"));
            return false;
        }
        // Every completion writes it; the edge that wakes the event loop is another matter.
        let _ = completed.read();
        true
    }

    /// Pops requests and submits them to the engine.
    fn submit_available(&mut self, budget: &mut u16) -> Result<Drained, ServiceError> {
        loop {
            if self.parts.limiter.is_blocked() {
                return Ok(Drained::RateLimited);
            }
            let Some(&token) = self.free.last() else { return Ok(Drained::Full) };
            if *budget == 0 {
                return Ok(Drained::TurnOver);
            }
            // Of the field, so that the queue can be borrowed besides.
            let memory = &self.parts.memory;
            let Some(chain) = self.parts.queue.pop(memory)? else { return Ok(Drained::Empty) };
            let head = chain.head_index();
            let (parsed, status) = parse(memory, &mut self.buffers, chain, &self.parts.limits);
            match (parsed, status) {
                (Ok(request), Some(status)) => {
                    if !self.parts.limiter.consume(1, request.data_len()) {
                        self.parts.metrics.rate_limited.add(1);
                        self.parts.queue.undo_pop();
                        return Ok(Drained::RateLimited);
                    }
                    self.start(token, InFlight { head, status, request });
                }
                (Ok(_), None) => self.reject(head, None, &RequestError::NoStatus),
                (Err(error), status) => self.reject(head, status, &error),
            }
            *budget = budget.saturating_sub(1);
        }
    }

    /// Submits a request, or answers it at once if it has nothing to do with the disk's content.
    fn start(&mut self, token: u16, started: InFlight) {
        let request = match started.request {
            Request::Read { len: 0, .. }
            | Request::Write { len: 0, .. }
            | Request::Discard { len: 0, .. }
            | Request::WriteZeroes { len: 0, .. } => return self.finish(started, Ok(())),
            Request::GetId => {
                let outcome = self.write_id();
                return self.finish(started, outcome);
            }
            Request::Read { offset, .. } => {
                IoRequest::Read { offset, buffers: &self.buffers.writable }
            }
            Request::Write { offset, .. } => {
                IoRequest::Write { offset, buffers: &self.buffers.readable }
            }
            Request::Flush => IoRequest::Flush,
            Request::Discard { offset, len } => IoRequest::Discard { offset, len },
            Request::WriteZeroes { offset, len, unmap } => {
                IoRequest::WriteZeroes { offset, len, unmap }
            }
        };
        self.free.pop();
        if let Some(slot) = self.in_flight.get_mut(usize::from(token)) {
            *slot = Some(started);
        }
        self.parts.engine.submit(token, request);
    }

    fn write_id(&self) -> io::Result<()> {
        let mut rest = self.parts.serial.as_slice();
        for Segment { address, len } in &self.buffers.writable {
            let (part, behind) = rest.split_at(rest.len().min(*len as usize));
            self.parts.memory.write_slice(part, *address).map_err(io::Error::other)?;
            rest = behind;
        }
        Ok(())
    }

    /// Reaps the engine, and publishes all finished requests as used at once.
    fn return_completed(&mut self) -> Result<(), ServiceError> {
        let mut done = std::mem::take(&mut self.done);
        let reaped = self.parts.engine.reap(&mut done);
        for Completion { token, outcome } in done.drain(..) {
            let slot = self.in_flight.get_mut(usize::from(token));
            if let Some(finished) = slot.and_then(Option::take) {
                self.free.push(token);
                self.finish(finished, outcome);
            }
        }
        self.done = done;
        if !self.used.is_empty() {
            self.parts.queue.add_used_batch(&self.parts.memory, &self.used)?;
            self.used.clear();
        }
        Ok(reaped?)
    }

    /// Writes a request's status and lists it as used.
    fn finish(&mut self, finished: InFlight, outcome: io::Result<()>) {
        static LOG: LogLimit = LogLimit::new();
        let InFlight { head, status, request } = finished;
        let mut written = 1;
        let code = match outcome {
            Ok(()) => {
                self.count(&request);
                match request {
                    Request::Read { len, .. } => written = len.saturating_add(1),
                    Request::GetId => written = ID_BYTES.saturating_add(1) as u64,
                    _ => {}
                }
                STATUS_OK
            }
            Err(error) => {
                self.parts.metrics.failed.add(1);
                LOG.warn(format_args!("a disk request fails: {request:?}: {error}"));
                STATUS_IOERR
            }
        };
        self.write_status(status, code);
        self.used.push((head, u32::try_from(written).unwrap_or(u32::MAX)));
    }

    /// Fails a request that is not to be carried out.
    fn reject(&mut self, head: u16, status: Option<GuestAddress>, error: &RequestError) {
        static LOG: LogLimit = LogLimit::new();
        LOG.warn(format_args!("queue {} has a bad request: {error}", self.parts.queue.index()));
        self.parts.metrics.rejected.add(1);
        if let Some(status) = status {
            self.write_status(status, error.status());
        }
        self.used.push((head, u32::from(status.is_some())));
    }

    fn write_status(&self, status: GuestAddress, code: u8) {
        // It fails only outside guest memory, and the chain's buffers were checked to be inside.
        let _ = self.parts.memory.write_obj(code, status);
    }

    fn count(&self, request: &Request) {
        let metrics = &self.parts.metrics;
        let bytes = usize::try_from(request.data_len()).unwrap_or(usize::MAX);
        match request {
            Request::Read { .. } => {
                metrics.reads.add(1);
                metrics.read_bytes.add(bytes);
            }
            Request::Write { .. } => {
                metrics.writes.add(1);
                metrics.write_bytes.add(bytes);
            }
            Request::Flush => metrics.flushes.add(1),
            Request::Discard { .. } | Request::WriteZeroes { .. } => metrics.discards.add(1),
            Request::GetId => {}
        }
    }
}

/// Waits until an eventfd has been written.
fn wait_readable(eventfd: &EventFd) -> io::Result<()> {
    let epoll = Epoll::new()?;
    let fd = eventfd.as_raw_fd();
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))?;
    loop {
        match epoll.wait(-1, &mut [EpollEvent::default()]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            waited => return waited.map(drop),
        }
    }
}

/// Copies a chain's descriptors and parses the request in them; returns where its status goes, too.
fn parse(
    memory: &GuestRam,
    buffers: &mut ChainBuffers,
    chain: Chain<'_>,
    limits: &Limits,
) -> (Result<Request, RequestError>, Option<GuestAddress>) {
    let filled = buffers.fill(memory, chain);
    let status = take_status(buffers);
    let parsed = match filled {
        Ok(()) => Request::parse(memory, buffers, limits),
        Err(error) => Err(error.into()),
    };
    (parsed, status)
}

impl WorkerHandler for QueueHandler {
    /// Waits for the requests in flight and returns them, whatever the rate limit says. Further ones
    /// stay in the ring.
    fn quiesce(&mut self) {
        while self.free.len() < self.in_flight.len() {
            let before = self.free.len();
            self.guarded(Self::complete_only);
            if self.broken && !self.reap_blindly() {
                break;
            }
            if self.free.len() == before && !self.await_completion() {
                break;
            }
        }
        if self.full {
            // What waited for a token is looked for again once the worker goes on.
            self.full = false;
            let _ = self.parts.queue.kick().write(1);
        }
    }
}

impl MutEventSubscriber for QueueHandler {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        let is_change = fd == self.parts.slot.changed().as_raw_fd();
        // Whatever the event: the next request goes to the new disk.
        if is_change || self.parts.slot.is_waiting() {
            self.change_disk(ops);
        }
        if is_change {
            return;
        }
        if self.parts.engine.completed().is_some_and(|event| event.as_raw_fd() == fd) {
            return self.guarded(Self::complete);
        }
        if self.parts.limiter.timer().is_some_and(|timer| timer.as_raw_fd() == fd) {
            self.parts.limiter.acknowledge();
        }
        self.guarded(Self::serve);
    }

    fn init(&mut self, ops: &mut EventOps) {
        // For what the driver made available before it could notify. Not served right here: this is
        // the thread that activates the device, a vCPU's.
        let _ = self.parts.queue.kick().write(1);
        // Edge-triggered eventfds wake the loop for every write without ever being read.
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let mut watched = vec![Events::new(self.parts.queue.kick(), edge)];
        watched.extend(self.parts.engine.completed().map(|event| Events::new(event, edge)));
        watched.push(Events::new(self.parts.slot.changed(), EventSet::IN));
        watched.extend(self.parts.limiter.timer().map(|timer| Events::new(&timer, EventSet::IN)));
        for events in watched {
            if let Err(error) = ops.add(events) {
                log::error!("queue {} can't be served: {error}", self.parts.queue.index());
            }
        }
    }
}
