//! Serves a queue whose chains are each answered in one go: entropy, console, balloon.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, EventSet, Events};
use sys::memory::GuestRam;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::queue::{ChainBuffers, DeviceQueue, QueueError};
use crate::log_limit::LogLimit;

/// The ring features that every device can offer whose queues are served here.
pub(super) const RING_FEATURES: u64 =
    1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// A queue with what its worker needs to answer one chain after the other.
pub(super) struct ServedQueue {
    queue: DeviceQueue,
    memory: GuestRam,
    buffers: ChainBuffers,
    /// The driver broke the ring: nothing more is served before a reset.
    broken: bool,
}

/// A chain that was popped.
pub(super) struct Request<'q> {
    /// Its first descriptor: its name towards the driver.
    pub(super) head: u16,
    /// Its buffers; `None` for a chain that breaks the rules, which only goes back.
    pub(super) buffers: Option<&'q ChainBuffers>,
}

impl ServedQueue {
    pub(super) fn new(queue: DeviceQueue, memory: GuestRam) -> Self {
        Self { queue, memory, buffers: ChainBuffers::default(), broken: false }
    }

    /// Has the event loop report the driver's notifications, and one for what it made available
    /// before: a handler is initialised on the thread that activates its device, a vCPU's, which
    /// mustn't wait for requests.
    pub(super) fn watch(&self, ops: &mut EventOps) {
        let _ = self.queue.kick().write(1);
        if let Err(error) = ops.add(Events::new(self.queue.kick(), EventSet::IN)) {
            log::error!("queue {} can't be served: {error}", self.queue.index());
        }
    }

    /// Tells whether `events` is a notification for this queue.
    pub(super) fn owns(&self, events: Events) -> bool {
        events.fd() == self.queue.kick().as_raw_fd()
    }

    /// Answers all chains; `answer` returns how many bytes it wrote.
    pub(super) fn serve(&mut self, answer: impl FnMut(&GuestRam, &ChainBuffers) -> u32) {
        self.serve_while(|| true, answer);
    }

    /// Answers chains as long as `ready` says so.
    pub(super) fn serve_while(
        &mut self,
        ready: impl FnMut() -> bool,
        mut answer: impl FnMut(&GuestRam, &ChainBuffers) -> u32,
    ) {
        self.serve_requests(ready, |memory, request| {
            let written = request.buffers.map_or(0, |buffers| answer(memory, buffers));
            Some((request.head, written))
        });
    }

    /// Takes a notification back and hands chains to `answer` as long as `ready` says so. It
    /// returns a chain to give back (this one or another that it kept) and how much it wrote there.
    ///
    /// A driver that adds chains as fast as they are answered doesn't keep the worker from its other
    /// events: after as many as the ring holds, the rest is left to the next turn of the loop.
    pub(super) fn serve_requests(
        &mut self,
        ready: impl FnMut() -> bool,
        answer: impl FnMut(&GuestRam, Request<'_>) -> Option<(u16, u32)>,
    ) {
        // It fails only when there is none.
        let _ = self.queue.kick().read();
        self.guarded(|this| this.try_serve(ready, answer));
    }

    /// Returns a kept chain, into which nothing was written, to the driver.
    pub(super) fn give_back(&mut self, head: u16) {
        self.guarded(|this| {
            this.queue.add_used(&this.memory, head, 0)?;
            this.queue.signal_used(&this.memory)
        });
    }

    /// Runs a step unless the ring is broken, and asks for a reset when the step finds that it is.
    fn guarded(&mut self, step: impl FnOnce(&mut Self) -> Result<(), QueueError>) {
        if self.broken {
            return;
        }
        if let Err(error) = step(self) {
            self.broken = true;
            self.queue.needs_reset(&error);
        }
    }

    fn try_serve(
        &mut self,
        mut ready: impl FnMut() -> bool,
        mut answer: impl FnMut(&GuestRam, Request<'_>) -> Option<(u16, u32)>,
    ) -> Result<(), QueueError> {
        self.queue.disable_notification(&self.memory)?;
        for _ in 0..self.queue.size() {
            if !ready() {
                return self.queue.signal_used(&self.memory);
            }
            if let Some((head, valid)) = self.next()? {
                let request = Request { head, buffers: valid.then_some(&self.buffers) };
                if let Some((head, written)) = answer(&self.memory, request) {
                    self.queue.add_used(&self.memory, head, written)?;
                }
                continue;
            }
            self.queue.signal_used(&self.memory)?;
            if !self.queue.enable_notification(&self.memory)? {
                return Ok(());
            }
        }
        let _ = self.queue.kick().write(1);
        self.queue.signal_used(&self.memory)
    }

    /// Pops a chain; returns its head and whether its buffers are such that it can be answered.
    fn next(&mut self) -> Result<Option<(u16, bool)>, QueueError> {
        static LOG: LogLimit = LogLimit::new();
        let Some(chain) = self.queue.pop(&self.memory)? else { return Ok(None) };
        let head = chain.head_index();
        let filled = self.buffers.fill(&self.memory, chain);
        if let Err(error) = filled {
            LOG.warn(format_args!("queue {} has a bad request: {error}", self.queue.index()));
        }
        Ok(Some((head, filled.is_ok())))
    }
}

#[cfg(test)]
pub(super) mod testing {
    use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};

    /// Runs a handler on the test's own thread.
    pub(crate) struct Loop(EventManager<Box<dyn MutEventSubscriber + Send>>);

    impl Loop {
        pub(crate) fn new(handler: impl MutEventSubscriber + Send + 'static) -> Self {
            let mut manager = EventManager::<Box<dyn MutEventSubscriber + Send>>::new().unwrap();
            manager.add_subscriber(Box::new(handler));
            Self(manager)
        }

        /// Handles events until there are none; panics when they never end.
        pub(crate) fn settle(&mut self) {
            for _ in 0..10_000 {
                if self.0.run_with_timeout(0).unwrap() == 0 {
                    return;
                }
            }
            panic!("the loop spins");
        }
    }
}
