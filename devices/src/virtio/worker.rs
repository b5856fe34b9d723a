//! Threads that serve queues: one event loop each, stopped and joined by their device.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// How many ready file descriptors one wake-up handles at most. A worker has a handful in all.
const READY_EVENTS: usize = 16;

/// What the event loop of a worker serves: queue kicks, backend files, timers.
pub type Handler = Box<dyn MutEventSubscriber + Send>;

/// A thread that runs one event loop over one handler.
///
/// Dropping it stops the loop and joins the thread, so that nothing of the handler runs afterwards.
pub struct QueueWorker {
    stop: EventFd,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl QueueWorker {
    /// Starts a thread called `name` (at most 15 bytes are shown by Linux) that serves `handler`.
    ///
    /// # Errors
    /// When the thread, its epoll instance or its eventfd can't be made.
    pub fn spawn(name: String, handler: Handler) -> io::Result<Self> {
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let mut manager =
            EventManager::<Handler>::new_with_capacity(READY_EVENTS).map_err(io::Error::other)?;
        manager.add_subscriber(Box::new(StopSubscriber { stop: stop.try_clone()? }));
        manager.add_subscriber(handler);
        let seen = Arc::clone(&stopping);
        let thread = Builder::new().name(name).spawn(move || {
            while !seen.load(Ordering::Acquire) {
                if let Err(error) = manager.run() {
                    log::error!("a device worker ends: {error}");
                    break;
                }
            }
        })?;
        Ok(Self { stop, stopping, thread: Some(thread) })
    }
}

impl Drop for QueueWorker {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // An eventfd's write fails only when it is full, and then it wakes the loop just as well.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a device worker had panicked");
        }
    }
}

/// Wakes the loop; the flag beside it says why.
struct StopSubscriber {
    stop: EventFd,
}

impl MutEventSubscriber for StopSubscriber {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let _ = self.stop.read();
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.stop, EventSet::IN)) {
            log::error!("a device worker can't be stopped: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Echo {
        kick: EventFd,
        seen: mpsc::Sender<u64>,
    }

    impl MutEventSubscriber for Echo {
        fn process(&mut self, _events: Events, _ops: &mut EventOps) {
            self.seen.send(self.kick.read().unwrap()).unwrap();
        }

        fn init(&mut self, ops: &mut EventOps) {
            ops.add(Events::new(&self.kick, EventSet::IN)).unwrap();
        }
    }

    #[test]
    fn worker_serves_kicks_until_dropped_and_then_frees_its_handler() {
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let (sender, receiver) = mpsc::channel();
        let handler = Box::new(Echo { kick: kick.try_clone().unwrap(), seen: sender });
        let worker = QueueWorker::spawn("echo".to_owned(), handler).unwrap();
        kick.write(3).unwrap();
        assert_eq!(receiver.recv().unwrap(), 3);
        drop(worker);
        assert!(receiver.recv().is_err(), "the handler, and its sender, outlived the worker");
    }
}
