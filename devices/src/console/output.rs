//! A bounded buffer between the guest's console output and a host file, emptied by its own thread.
//!
//! Why a thread: writing must never block a vCPU for good, and no way of writing to an inherited
//! standard output promises that. `O_NONBLOCK` would change the open file description that the user's
//! shell shares. `poll` before `write` holds for pipes that nobody else writes to, not for
//! terminals: one stopped (Ctrl-S) half-way blocks the rest of a write that `poll` found possible.
//!
//! What a full buffer means: a slow reader slows the guest, so that nothing is lost; a reader that
//! takes nothing for a second counts as stopped, and bytes are dropped until it goes on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sys::thread_start::{self, Role};

use super::socket::Hub;
use crate::rate_limiter::{ByteBudget, TokenBucketConfig};

/// How many bytes wait for the reader at most.
const CAPACITY: usize = 64 << 10;

/// How long a full buffer waits for the reader before it counts as stopped.
const STALL_LIMIT: Duration = Duration::from_secs(1);

/// How long the first byte of a burst waits for more, so that a guest which writes byte by byte
/// costs one `write` per burst. Short enough for an echoed key to seem immediate.
const LINGER: Duration = Duration::from_millis(2);

/// How much is written at once. Progress is seen per write, so a slow terminal (9600 baud) must
/// finish one well within [`STALL_LIMIT`].
const FILE_CHUNK: usize = 4096;
const TERMINAL_CHUNK: usize = 256;

/// Takes a guest's console output and writes it to a host file, or to a socket's clients.
///
/// Dropping it writes what is left, for a second at most.
pub struct ConsoleOutput {
    sink: Sink,
    limit: Option<Limit>,
}

/// What keeps a guest from filling the host's disk.
struct Limit {
    budget: ByteBudget,
    dropped_bytes: AtomicU64,
}

enum Sink {
    Discard,
    File(Writer),
    /// Never blocks.
    Clients(Arc<Hub>),
}

struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// The writer waits here for bytes.
    bytes: Condvar,
    /// Everybody else waits here for the writer.
    progress: Condvar,
    chunk: usize,
}

struct State {
    ring: VecDeque<u8>,
    phase: Phase,
    /// The reader has taken nothing for [`STALL_LIMIT`].
    stalled: bool,
    /// Write at once what there is.
    flushing: bool,
    closed: bool,
    /// How many threads wait for the writer.
    waiting: usize,
    dropped_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the first byte of a burst.
    Idle,
    /// Gives a burst time to grow.
    Lingering,
    /// Is on its way to a write, or in it.
    Writing,
    /// The thread is past its last write.
    Finished,
}

impl ConsoleOutput {
    /// Starts the thread that writes to `file`: a terminal, pipe, socket or regular file, whose
    /// flags stay as they are.
    ///
    /// # Errors
    /// When the thread can't be made.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        let chunk = if rustix::termios::isatty(&file) { TERMINAL_CHUNK } else { FILE_CHUNK };
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ring: VecDeque::new(),
                phase: Phase::Writing,
                stalled: false,
                flushing: false,
                closed: false,
                waiting: 0,
                dropped_bytes: 0,
            }),
            bytes: Condvar::new(),
            progress: Condvar::new(),
            chunk,
        });
        let served = Arc::clone(&shared);
        let thread = Builder::new().name("console-out".to_owned()).spawn(move || {
            thread_start::begin(Role::Worker);
            served.serve(&file);
        })?;
        Ok(Self::over(Sink::File(Writer { shared, thread: Some(thread) })))
    }

    /// Creates an output that goes nowhere and costs no thread.
    pub fn discard() -> Self {
        Self::over(Sink::Discard)
    }

    /// Creates an output that a socket's clients get.
    pub(super) fn to_hub(hub: Arc<Hub>) -> Self {
        Self::over(Sink::Clients(hub))
    }

    fn over(sink: Sink) -> Self {
        Self { sink, limit: None }
    }

    /// Drops from now on what is over `limit`, in bytes. The guest isn't slowed by it.
    #[must_use]
    pub fn with_limit(mut self, limit: &TokenBucketConfig) -> Self {
        let budget = ByteBudget::new(limit);
        self.limit = budget.map(|budget| Limit { budget, dropped_bytes: AtomicU64::new(0) });
        self
    }

    /// Takes all of `bytes`. Blocks while the buffer is full and the reader merely slow; drops what
    /// a stopped reader leaves no room for.
    pub fn write(&self, bytes: &[u8]) {
        self.write_unless(bytes, &AtomicBool::new(false));
    }

    /// Does what [`write`](Self::write) does until [`interrupt`](Self::interrupt) sets `cancelled`;
    /// what isn't taken by then is dropped.
    pub fn write_unless(&self, bytes: &[u8], cancelled: &AtomicBool) {
        let bytes = self.limit.as_ref().map_or(bytes, |limit| limit.admit(bytes));
        match &self.sink {
            Sink::Discard => {}
            Sink::File(writer) => writer.shared.push(bytes, cancelled),
            Sink::Clients(hub) => hub.push(bytes),
        }
    }

    /// Sets `cancelled` and wakes the [`write_unless`](Self::write_unless) calls that look at it.
    pub fn interrupt(&self, cancelled: &AtomicBool) {
        let Sink::File(writer) = &self.sink else {
            cancelled.store(true, Ordering::Release);
            return;
        };
        // Under the lock: a writer is either before its look at the flag or in its wait.
        let _state = writer.shared.lock();
        cancelled.store(true, Ordering::Release);
        writer.shared.progress.notify_all();
    }

    /// Waits, for `limit` at most, until everything taken so far is written; returns whether it is.
    /// A socket's clients get what they take at once.
    pub fn flush(&self, limit: Duration) -> bool {
        match &self.sink {
            Sink::Discard => true,
            Sink::File(writer) => writer.shared.flush(limit),
            Sink::Clients(hub) => hub.flush(),
        }
    }

    /// Counts the bytes that no reader will ever see: dropped because it had stopped or they were
    /// over the limit, or refused by the file.
    pub fn dropped_bytes(&self) -> u64 {
        let by_sink = match &self.sink {
            Sink::Discard => 0,
            Sink::File(writer) => writer.shared.lock().dropped_bytes,
            Sink::Clients(hub) => hub.dropped_bytes(),
        };
        by_sink.saturating_add(self.limited_bytes())
    }

    /// Counts the bytes that were dropped because they were over the limit.
    pub fn limited_bytes(&self) -> u64 {
        self.limit.as_ref().map_or(0, |limit| limit.dropped_bytes.load(Ordering::Relaxed))
    }
}

impl Limit {
    /// Returns the first of `bytes`, as many as may pass, and counts the others.
    fn admit<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        let admitted = bytes.get(..self.budget.admit(bytes.len())).unwrap_or(bytes);
        let dropped = bytes.len().saturating_sub(admitted.len());
        if dropped != 0 {
            let dropped = u64::try_from(dropped).unwrap_or(u64::MAX);
            self.dropped_bytes.fetch_add(dropped, Ordering::Relaxed);
        }
        admitted
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let state = self.shared.close();
        let finished = state.phase == Phase::Finished;
        drop(state);
        if !finished {
            // It is blocked in a write that nothing can interrupt, and holds only its own file.
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the console's writer had panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends `bytes`, in pieces where there isn't room for all at once.
    fn push(&self, bytes: &[u8], cancelled: &AtomicBool) {
        let mut state = self.lock();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = CAPACITY.saturating_sub(state.ring.len());
            if let Some((now, later)) = rest.split_at_checked(room.min(rest.len()))
                && !now.is_empty()
            {
                state.ring.extend(now);
                rest = later;
                self.wake_writer(&mut state);
                continue;
            }
            state = self.wait_for_room(state, cancelled);
            if state.ring.len() >= CAPACITY {
                state.count_dropped(rest.len());
                return;
            }
        }
    }

    /// Wakes the writer for the first byte of a burst and again when a full write is together.
    fn wake_writer(&self, state: &mut State) {
        match state.phase {
            Phase::Idle => state.phase = Phase::Lingering,
            Phase::Lingering if state.ring.len() >= self.chunk => state.phase = Phase::Writing,
            _ => return,
        }
        self.bytes.notify_one();
    }

    fn wait_for_room<'s>(
        &'s self,
        state: MutexGuard<'s, State>,
        cancelled: &AtomicBool,
    ) -> MutexGuard<'s, State> {
        let full = |state: &mut State| {
            state.ring.len() >= CAPACITY && !state.stalled && !cancelled.load(Ordering::Acquire)
        };
        let mut state = self.wait_while(state, STALL_LIMIT, full);
        // The only way out with the condition holding is the time limit.
        if full(&mut state) {
            state.stalled = true;
        }
        state
    }

    fn wait_while<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        limit: Duration,
        condition: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'s, State> {
        state.waiting = state.waiting.saturating_add(1);
        let mut state = self
            .progress
            .wait_timeout_while(state, limit, condition)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        state.waiting = state.waiting.saturating_sub(1);
        state
    }

    fn flush(&self, limit: Duration) -> bool {
        let mut state = self.lock();
        state.flushing = true;
        self.bytes.notify_one();
        let state = self.wait_while(state, limit, |state| !state.is_drained());
        state.is_drained()
    }

    fn close(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.closed = true;
        self.bytes.notify_one();
        self.wait_while(state, STALL_LIMIT, |state| state.phase != Phase::Finished)
    }

    /// The writer's thread.
    fn serve(&self, file: &OwnedFd) {
        let mut chunk = Vec::with_capacity(self.chunk);
        let mut refused = false;
        while self.take(&mut chunk) {
            let Err((error, lost)) = write_all(file, &chunk) else { continue };
            self.lock().count_dropped(lost);
            if !std::mem::replace(&mut refused, true) {
                log::warn!("console output is being lost: {error}");
            }
        }
    }

    /// Waits for the next bytes to write; returns `false` after the last ones.
    ///
    /// Being here means that the reader took the previous chunk: a stopped one goes on.
    fn take(&self, chunk: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        if std::mem::take(&mut state.stalled) {
            let dropped = state.dropped_bytes;
            drop(state);
            // Said now and on this thread: the log may go to the very terminal that had stopped.
            log::warn!("{dropped} bytes of console output are lost: its reader had stopped");
            state = self.lock();
        }
        while state.ring.is_empty() {
            state.flushing = false;
            state.phase = if state.closed { Phase::Finished } else { Phase::Idle };
            self.notify_waiting(&state);
            if state.closed {
                return false;
            }
            state = self.bytes.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state = self.linger(state);
        state.phase = Phase::Writing;
        let count = state.ring.len().min(self.chunk);
        chunk.clear();
        chunk.extend(state.ring.drain(..count));
        self.notify_waiting(&state);
        true
    }

    /// Gives a burst time to grow to a full chunk.
    fn linger<'s>(&'s self, mut state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        state.phase = Phase::Lingering;
        self.bytes
            .wait_timeout_while(state, LINGER, |state| {
                state.ring.len() < self.chunk && !state.closed && !state.flushing
            })
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn notify_waiting(&self, state: &State) {
        if state.waiting != 0 {
            self.progress.notify_all();
        }
    }
}

impl State {
    fn is_drained(&self) -> bool {
        self.ring.is_empty() && matches!(self.phase, Phase::Idle | Phase::Finished)
    }

    fn count_dropped(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.dropped_bytes = self.dropped_bytes.saturating_add(bytes);
    }
}

/// Writes all of `bytes`; an error comes with the number of bytes that weren't written.
fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), (Errno, usize)> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err((Errno::IO, bytes.len())),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Somebody who shares the file made it non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(file, PollFlags::OUT)], None);
            }
            Err(error) => return Err((error, bytes.len())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
