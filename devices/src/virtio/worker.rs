//! Threads that serve queues: one event loop each, paused, stopped and joined by their device.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use event_manager::{
    EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps,
};
use sys::thread_start::{self, Role};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::device::Notifier;

/// How many ready file descriptors one wake-up handles at most. A worker has a handful in all.
const READY_EVENTS: usize = 16;

/// What the event loop of a worker serves: queue kicks, backend files, timers.
///
/// Everything is called on the worker's thread but [`init`](MutEventSubscriber::init), which runs
/// on the thread that activates the device.
pub trait WorkerHandler: MutEventSubscriber + Send {
    /// Brings everything in flight to its end before the worker parks: completions are awaited and
    /// returned to the driver, and interrupts are raised. What can't come to an end (buffers held
    /// for a frame that hasn't come) must be shown as not taken by the queue's cursor.
    ///
    /// Afterwards nothing touches guest memory until [`resumed`](Self::resumed). A handler that has
    /// nothing in flight between two events does nothing.
    fn quiesce(&mut self) {}

    /// Goes on after having been parked for `paused`. Events that came meanwhile follow.
    fn resumed(&mut self, paused: Duration) {
        let _ = paused;
    }
}

/// A worker's handler, whatever the device.
pub type Handler = Box<dyn WorkerHandler>;

/// A thread that runs one event loop over one handler.
///
/// It can be parked between two batches of events: kicks, timers and sockets that become ready
/// meanwhile stay ready in its epoll set, level- and edge-triggered alike. Dropping it, parked or
/// not, stops the loop and joins the thread, so that nothing of the handler runs afterwards.
///
/// A loop that fails or panics sets DEVICE_NEEDS_RESET: its driver would wait for ever.
pub struct QueueWorker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the worker and its thread share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the loop for a look at the state.
    wake: EventFd,
}

struct State {
    wanted: Wanted,
    phase: Phase,
}

/// What the thread is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Run,
    Park,
    Stop,
}

/// What the thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Parked,
    Ended,
}

impl QueueWorker {
    /// Starts a thread called `name` (at most 15 bytes are shown by Linux) that serves `handler`;
    /// parked, if `notifier` says that [workers start so](Notifier::workers_start_paused).
    ///
    /// # Errors
    /// When the thread, its epoll instance or its eventfd can't be made.
    pub fn spawn(name: String, handler: Handler, notifier: &Notifier) -> io::Result<Self> {
        Self::spawn_as(Role::Worker, name, handler, notifier)
    }

    /// The same for a thread that may do what `role` says.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub(super) fn spawn_as(
        role: Role,
        name: String,
        handler: Handler,
        notifier: &Notifier,
    ) -> io::Result<Self> {
        let wake = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let mut manager =
            EventManager::<Handler>::new_with_capacity(READY_EVENTS).map_err(io::Error::other)?;
        manager.add_subscriber(Box::new(WakeSubscriber { wake: wake.try_clone()? }));
        let handler = manager.add_subscriber(handler);
        let wanted = if notifier.workers_start_paused() { Wanted::Park } else { Wanted::Run };
        let state = Mutex::new(State { wanted, phase: Phase::Running });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), wake });
        let end = End { shared: Arc::clone(&shared), notifier: notifier.clone() };
        let thread = Builder::new().name(name).spawn(move || {
            thread_start::begin(role);
            end.shared.serve(manager, handler);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Asks the thread to park, and returns at once: several workers then drain side by side.
    pub fn request_pause(&self) {
        self.shared.ask(Wanted::Park);
    }

    /// Waits until the thread has parked, which [`request_pause`](Self::request_pause) must have
    /// asked for. Returns at once if its loop has failed: nothing of the handler runs then either.
    pub fn wait_paused(&self) {
        let mut state = self.shared.lock();
        while state.phase == Phase::Running && state.wanted != Wanted::Run {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets a parked thread go on.
    pub fn resume(&self) {
        self.shared.ask(Wanted::Run);
    }
}

impl Drop for QueueWorker {
    fn drop(&mut self) {
        self.shared.ask(Wanted::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a device worker had panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, wanted: Wanted) {
        self.lock().wanted = wanted;
        self.changed.notify_all();
        // An eventfd's write fails only when it is full, and then it wakes the loop just as well.
        let _ = self.wake.write(1);
    }

    /// The thread: alternates between a look at what is wanted and a batch of events.
    fn serve(&self, mut manager: EventManager<Handler>, handler: SubscriberId) {
        loop {
            let wanted = self.lock().wanted;
            match wanted {
                Wanted::Stop => return,
                Wanted::Park => {
                    if let Ok(handler) = manager.subscriber_mut(handler) {
                        self.park(handler);
                    }
                }
                Wanted::Run => {
                    if let Err(error) = manager.run() {
                        log::error!("a device worker ends: {error}");
                        return;
                    }
                }
            }
        }
    }

    /// Drains the handler and waits until something else is wanted.
    fn park(&self, handler: &mut Handler) {
        let since = Instant::now();
        handler.quiesce();
        let mut state = self.lock();
        state.phase = Phase::Parked;
        self.changed.notify_all();
        while state.wanted == Wanted::Park {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.phase = Phase::Running;
        let wanted = state.wanted;
        drop(state);
        if wanted == Wanted::Run {
            handler.resumed(since.elapsed());
        }
    }
}

/// Says, when the thread is left in whatever way, that it has ended.
struct End {
    shared: Arc<Shared>,
    notifier: Notifier,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.phase = Phase::Ended;
        let failed = state.wanted != Wanted::Stop || std::thread::panicking();
        drop(state);
        self.shared.changed.notify_all();
        if failed {
            self.notifier.needs_reset(&"its worker has failed");
        }
    }
}

/// Wakes the loop; what is wanted says why.
struct WakeSubscriber {
    wake: EventFd,
}

impl WorkerHandler for WakeSubscriber {}

impl MutEventSubscriber for WakeSubscriber {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let _ = self.wake.read();
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.wake, EventSet::IN)) {
            log::error!("a device worker can't be stopped: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{TestQueue, guest_ram};
    use std::sync::mpsc;

    enum Seen {
        Kick(u64),
        Quiesce,
        Resumed,
    }

    /// Tells what happens to it; panics when kicked with 13.
    struct Echo {
        kick: EventFd,
        flags: EventSet,
        seen: mpsc::Sender<Seen>,
    }

    impl WorkerHandler for Echo {
        fn quiesce(&mut self) {
            self.seen.send(Seen::Quiesce).unwrap();
        }

        fn resumed(&mut self, _paused: Duration) {
            self.seen.send(Seen::Resumed).unwrap();
        }
    }

    impl MutEventSubscriber for Echo {
        fn process(&mut self, _events: Events, _ops: &mut EventOps) {
            let value = self.kick.read().unwrap();
            assert_ne!(value, 13, "the test says so");
            self.seen.send(Seen::Kick(value)).unwrap();
        }

        fn init(&mut self, ops: &mut EventOps) {
            ops.add(Events::new(&self.kick, EventSet::IN | self.flags)).unwrap();
        }
    }

    struct Setup {
        queue: TestQueue,
        kick: EventFd,
        seen: mpsc::Receiver<Seen>,
        worker: QueueWorker,
    }

    fn start(flags: EventSet, paused: bool) -> Setup {
        let queue = TestQueue::new(guest_ram(), 8);
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let (sender, seen) = mpsc::channel();
        let handler = Box::new(Echo { kick: kick.try_clone().unwrap(), flags, seen: sender });
        let notifier = queue.notifier();
        let notifier = if paused { notifier.with_paused_workers() } else { notifier };
        let worker = QueueWorker::spawn("echo".to_owned(), handler, &notifier).unwrap();
        Setup { queue, kick, seen, worker }
    }

    #[test]
    fn worker_serves_kicks_until_dropped_and_then_frees_its_handler() {
        let Setup { queue, kick, seen, worker } = start(EventSet::empty(), false);
        kick.write(3).unwrap();
        assert!(matches!(seen.recv().unwrap(), Seen::Kick(3)));
        drop(worker);
        assert!(seen.recv().is_err(), "the handler, and its sender, outlived the worker");
        assert!(!queue.needs_reset());
    }

    #[test]
    fn parked_worker_has_quiesced_and_serves_what_came_meanwhile_once_resumed() {
        for flags in [EventSet::empty(), EventSet::EDGE_TRIGGERED] {
            let Setup { kick, seen, worker, .. } = start(flags, false);
            for round in 1..4 {
                worker.request_pause();
                worker.wait_paused();
                assert!(matches!(seen.try_recv(), Ok(Seen::Quiesce)));
                kick.write(round).unwrap();
                assert!(matches!(seen.try_recv(), Err(mpsc::TryRecvError::Empty)));
                worker.resume();
                assert!(matches!(seen.recv().unwrap(), Seen::Resumed));
                assert!(matches!(seen.recv().unwrap(), Seen::Kick(value) if value == round));
            }
        }
    }

    #[test]
    fn worker_that_starts_paused_serves_nothing_before_it_is_resumed() {
        let Setup { kick, seen, worker, .. } = start(EventSet::empty(), true);
        kick.write(1).unwrap();
        worker.wait_paused();
        assert!(matches!(seen.recv().unwrap(), Seen::Quiesce));
        worker.resume();
        assert!(matches!(seen.recv().unwrap(), Seen::Resumed));
        assert!(matches!(seen.recv().unwrap(), Seen::Kick(1)));
    }

    #[test]
    fn parked_worker_can_be_dropped() {
        let Setup { queue, seen, worker, .. } = start(EventSet::empty(), false);
        worker.request_pause();
        worker.wait_paused();
        drop(worker);
        assert!(matches!(seen.recv().unwrap(), Seen::Quiesce));
        assert!(seen.recv().is_err());
        assert!(!queue.needs_reset());
    }

    #[test]
    fn worker_that_panics_asks_for_a_reset_and_counts_as_paused() {
        let Setup { queue, kick, seen, worker } = start(EventSet::empty(), false);
        kick.write(13).unwrap();
        assert!(seen.recv().is_err());
        worker.request_pause();
        worker.wait_paused();
        drop(worker);
        assert!(queue.needs_reset());
        assert_eq!(queue.config_interrupts(), 1);
    }
}
