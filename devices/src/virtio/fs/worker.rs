//! The thread that serves a device's queues.
//!
//! It's there before the driver is: what it may ask of the host's kernel is more than a vCPU may, and
//! a vCPU, which activates the device, could only start one that may do no more than itself. So the
//! device hands it the queues, and takes them back.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use sys::guest_io::GuestIo;
use sys::memory::GuestRam;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::server::FileServer;
use crate::virtio::serve::ServedQueue;
use crate::virtio::{DeviceQueue, Notifier, WorkerHandler};

/// What the device and its worker share.
pub(super) struct Desk {
    state: Mutex<State>,
    /// Tells the worker that there are other queues, or none.
    changed: EventFd,
}

struct State {
    server: FileServer,
    session: Option<Session>,
    /// Whether the worker has yet to wait for the session's queues.
    is_new: bool,
}

/// What there is between a driver's DRIVER_OK and its reset.
struct Session {
    queues: Vec<ServedQueue>,
    /// Second owners of the queues' notifications: the event loop's.
    kicks: Vec<EventFd>,
    io: GuestIo,
    notifier: Notifier,
}

impl Desk {
    pub(super) fn new(server: FileServer) -> io::Result<Self> {
        let changed = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let state = Mutex::new(State { server, session: None, is_new: false });
        Ok(Self { state, changed })
    }

    /// Hands queues to the worker.
    ///
    /// # Errors
    /// When their notifications can't be had twice.
    pub(super) fn give(
        &self,
        queues: Vec<DeviceQueue>,
        memory: GuestRam,
        notifier: Notifier,
    ) -> io::Result<()> {
        let kicks =
            queues.iter().map(|queue| queue.kick().try_clone()).collect::<io::Result<_>>()?;
        let served = |queue| ServedQueue::new(queue, memory.clone());
        let queues = queues.into_iter().map(served).collect();
        let io = GuestIo::new(memory.clone());
        let mut state = self.lock();
        state.session = Some(Session { queues, kicks, io, notifier });
        state.is_new = true;
        drop(state);
        self.wake();
        Ok(())
    }

    /// Takes the queues back, after the request that's being served: nothing touches guest memory
    /// afterwards. What the guest had open is closed.
    pub(super) fn take_back(&self) {
        let mut state = self.lock();
        if state.session.take().is_some() {
            state.server.clear();
            state.is_new = true;
        }
        drop(state);
        self.wake();
    }

    fn wake(&self) {
        // It fails only when it is full, and then it is readable already.
        let _ = self.changed.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves whatever queues are on the desk.
pub(super) struct Handler {
    desk: Arc<Desk>,
    /// What the event loop waits for besides the desk.
    kicks: Vec<EventFd>,
}

impl Handler {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self { desk, kicks: Vec::new() }
    }

    /// Waits for the present session's notifications in place of the last one's.
    fn change_session(kicks: &mut Vec<EventFd>, state: &mut State, ops: &mut EventOps) {
        if !std::mem::take(&mut state.is_new) {
            return;
        }
        for kick in kicks.drain(..) {
            if let Err(error) = ops.remove(Events::new(&kick, EventSet::IN)) {
                log::error!("a queue that's gone is still waited for: {error}");
            }
        }
        let Some(session) = &mut state.session else { return };
        kicks.append(&mut session.kicks);
        for kick in kicks {
            // What the driver made available before counts, too.
            let _ = kick.write(1);
            if let Err(error) = ops.add(Events::new(kick, EventSet::IN)) {
                session.notifier.needs_reset(&error);
            }
        }
    }
}

impl MutEventSubscriber for Handler {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let Self { desk, kicks } = self;
        if events.fd() == desk.changed.as_raw_fd() {
            // It fails only when there is none.
            let _ = desk.changed.read();
        }
        let mut state = desk.lock();
        let state = &mut *state;
        Self::change_session(kicks, state, ops);
        if let Some(Session { queues, io, .. }) = &mut state.session {
            for queue in queues {
                queue.serve(|memory, buffers| state.server.serve(memory, io, buffers));
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.desk.changed, EventSet::IN)) {
            log::error!("a file system can't be served: {error}");
        }
    }
}

/// Between two events nothing is in flight.
impl WorkerHandler for Handler {}

impl Drop for Handler {
    fn drop(&mut self) {
        // Its own notifier is nobody's: it was there before the driver.
        if std::thread::panicking()
            && let Some(session) = &self.desk.lock().session
        {
            session.notifier.needs_reset(&"its worker has failed");
        }
    }
}
