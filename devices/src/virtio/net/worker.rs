//! The event loop's side of one queue pair.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use super::control::Control;
use super::mmds::MmdsPort;
use super::pair::Pair;
use super::rx::{Receiver, RxProgress};
use super::tx::{Transmitter, TxProgress};
use crate::virtio::worker::WorkerHandler;
use crate::virtio::{Notifier, QueueError};

const RX_KICK: u32 = 0;
const TX_KICK: u32 = 1;
const BACKEND: u32 = 2;
const RX_TIMER: u32 = 3;
const TX_TIMER: u32 = 4;
const PAIR_CHANGED: u32 = 5;
const CONTROL_KICK: u32 = 6;
const MMDS_TIMER: u32 = 7;

/// Serves one queue pair, and the control queue if it is the first.
pub(super) struct PairWorker {
    pub(super) pair: Arc<Pair>,
    pub(super) rx: Receiver,
    pub(super) tx: Transmitter,
    pub(super) control: Option<Control>,
    pub(super) notifier: Notifier,
    /// Cleared when the host's side is gone.
    pub(super) link_up: Arc<AtomicBool>,
    pub(super) waits: Waits,
    /// The metadata service, if it answers on this pair.
    pub(super) mmds: Option<Arc<MmdsPort>>,
}

/// What the worker waits for on the host's side.
#[derive(Debug, Default)]
pub(super) struct Waits {
    readable: bool,
    writable: bool,
    lost: bool,
    /// What epoll knows of it; nothing when it isn't registered.
    registered: Option<EventSet>,
}

impl PairWorker {
    fn handle(&mut self, events: Events) -> Result<(), QueueError> {
        match events.data() {
            RX_KICK => {
                drain(self.rx.queue().kick());
                self.receive()
            }
            TX_KICK => {
                drain(self.tx.queue().kick());
                self.transmit()
            }
            BACKEND => self.serve_backend(events.event_set()),
            RX_TIMER => {
                self.rx.limiter().acknowledge();
                self.receive()
            }
            TX_TIMER => {
                self.tx.limiter().acknowledge();
                self.transmit()
            }
            MMDS_TIMER => {
                if let Some(mmds) = &self.mmds {
                    mmds.timer_expired();
                }
                self.receive()
            }
            PAIR_CHANGED => {
                drain(self.pair.changed());
                self.receive()
            }
            CONTROL_KICK => self.control.as_mut().map_or(Ok(()), |control| {
                drain(control.queue().kick());
                control.run()
            }),
            _ => Ok(()),
        }
    }

    fn serve_backend(&mut self, set: EventSet) -> Result<(), QueueError> {
        let broken = set.intersects(EventSet::ERROR | EventSet::HANG_UP);
        if set.contains(EventSet::OUT) || broken && self.waits.writable {
            self.transmit()?;
        }
        if set.contains(EventSet::IN) || broken && self.waits.readable {
            self.receive()?;
        }
        // An error that neither reading nor writing makes go away would wake us for ever.
        if broken && (self.waits.readable || self.waits.writable) {
            self.lose_link();
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), QueueError> {
        let enabled = self.pair.lock_enabled();
        if !*enabled || self.waits.lost {
            self.waits.readable = false;
            return Ok(());
        }
        let progress = self.rx.run(self.pair.backend())?;
        drop(enabled);
        self.waits.readable = matches!(progress, RxProgress::BackendEmpty | RxProgress::More);
        match progress {
            RxProgress::BackendLost => self.lose_link(),
            // Comes back after the other direction had its turn. Frames that the backend has read
            // ahead don't make it readable.
            RxProgress::More => {
                let _ = self.rx.queue().kick().write(1);
            }
            _ => {}
        }
        Ok(())
    }

    fn transmit(&mut self) -> Result<(), QueueError> {
        let progress = self.tx.run(self.pair.backend())?;
        let flushed = self.pair.backend().flush();
        let is_stuck = flushed.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.waits.writable = (is_stuck || progress == TxProgress::BackendFull) && !self.waits.lost;
        if progress == TxProgress::More {
            // Comes back after the other direction had its turn.
            let _ = self.tx.queue().kick().write(1);
        }
        Ok(())
    }

    /// Stops waiting for the host's side, and tells the driver that its cable is out.
    fn lose_link(&mut self) {
        self.waits.readable = false;
        self.waits.writable = false;
        self.waits.lost = true;
        if self.link_up.swap(false, Ordering::AcqRel) {
            self.notifier.config_changed();
        }
    }

    /// Tells epoll what is waited for. Errors are always reported: without anything to wait for,
    /// the file descriptor must not be registered at all.
    fn update_interest(&mut self, ops: &mut EventOps) {
        let mut wanted = EventSet::empty();
        wanted.set(EventSet::IN, self.waits.readable);
        wanted.set(EventSet::OUT, self.waits.writable);
        let wanted = Some(wanted).filter(|wanted| !wanted.is_empty());
        if wanted == self.waits.registered {
            return;
        }
        let fd = self.backend_fd();
        let event = |set| Events::with_data_raw(fd, BACKEND, set);
        let result = match (self.waits.registered, wanted) {
            (Some(old), None) => ops.remove(event(old)),
            (None, Some(new)) => ops.add(event(new)),
            (_, Some(new)) => ops.modify(event(new)),
            (None, None) => Ok(()),
        };
        match result {
            Ok(()) => self.waits.registered = wanted,
            Err(error) => log::error!("a network card can't wait for its host side: {error}"),
        }
    }

    fn backend_fd(&self) -> RawFd {
        std::os::fd::AsFd::as_fd(self.pair.backend()).as_raw_fd()
    }

    /// Lists what is waited for at all times.
    fn permanent_sources(&mut self) -> Vec<Events> {
        let event = |fd: RawFd, data| Events::with_data_raw(fd, data, EventSet::IN);
        let mut sources = vec![
            event(self.rx.queue().kick().as_raw_fd(), RX_KICK),
            event(self.tx.queue().kick().as_raw_fd(), TX_KICK),
            event(self.pair.changed().as_raw_fd(), PAIR_CHANGED),
        ];
        for (limiter, data) in [(self.rx.limiter(), RX_TIMER), (self.tx.limiter(), TX_TIMER)] {
            sources.extend(limiter.timer().map(|timer| event(timer.as_raw_fd(), data)));
        }
        let control = self.control.as_ref().map(|control| control.queue().kick().as_raw_fd());
        sources.extend(control.map(|fd| event(fd, CONTROL_KICK)));
        sources.extend(self.mmds.as_ref().map(|mmds| event(mmds.raw_fd(), MMDS_TIMER)));
        sources
    }

    /// Stops serving queues that the driver broke, until the reset that it is asked for.
    fn give_up(&mut self, error: &QueueError, ops: &mut EventOps) {
        self.notifier.needs_reset(error);
        self.waits.readable = false;
        self.waits.writable = false;
        self.update_interest(ops);
        for source in self.permanent_sources() {
            if let Err(error) = ops.remove(source) {
                log::error!("a network card can't stop waiting: {error}");
            }
        }
    }
}

impl WorkerHandler for PairWorker {
    /// Frames are sent and received in one go; buffers that wait for one count as not taken.
    fn quiesce(&mut self) {
        self.rx.show_held_as_available();
    }
}

impl MutEventSubscriber for PairWorker {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match self.handle(events) {
            Ok(()) => self.update_interest(ops),
            Err(error) => self.give_up(&error, ops),
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        for source in self.permanent_sources() {
            if let Err(error) = ops.add(source) {
                log::error!("a network card can't wait for its driver: {error}");
            }
        }
        // Whatever came before this worker did.
        let _ = self.tx.queue().kick().write(1);
        let _ = self.pair.changed().write(1);
        if let Some(control) = &self.control {
            let _ = control.queue().kick().write(1);
        }
    }
}

fn drain(eventfd: &EventFd) {
    // It fails only when nothing was written, and then there is nothing to drain.
    let _ = eventfd.read();
}
