//! Reads a host file and hands it to a console device, no faster than the guest takes it.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::io::Errno;
use vmm_sys_util::eventfd::EventFd;

/// How many bytes are read ahead of the guest.
const READ_AHEAD: usize = 4096;

/// A console device that takes input.
pub trait InputTarget: Send + Sync {
    /// Takes as many of the first `bytes` as the device has room for and returns how many. After
    /// taking fewer than all it writes [`room`](Self::room) once it can take more.
    fn offer(&self, bytes: &[u8]) -> usize;

    /// Returns the (non-blocking) eventfd that says "offer again".
    fn room(&self) -> &EventFd;
}

/// How the source can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// epoll tells when.
    Watched,
    /// It is out of the epoll set until there is room: its level would wake the loop for nothing.
    Unwatched,
    /// Always: epoll refuses regular files and `/dev/null`, which never block.
    Ready,
    /// It has ended.
    Ended,
}

/// Carries input from a host file to an [`InputTarget`], on whatever event loop it is added to.
///
/// A read can block that loop only if another process takes the bytes that epoll announced.
pub struct ConsoleInput {
    file: Option<OwnedFd>,
    source: Source,
    target: Arc<dyn InputTarget>,
    pending: VecDeque<u8>,
}

impl ConsoleInput {
    /// Reads `file`: a terminal, pipe, socket, regular file or `/dev/null`. At its end it is closed,
    /// and the guest simply gets no more.
    pub fn new(file: OwnedFd, target: Arc<dyn InputTarget>) -> Self {
        Self { file: Some(file), source: Source::Unwatched, target, pending: VecDeque::new() }
    }

    /// Hands over what is pending, then reads as long as there is room and something to read.
    fn pump(&mut self, ops: &mut EventOps) {
        self.deliver();
        while self.source == Source::Ready && self.pending.len() < READ_AHEAD {
            self.read(ops);
            self.deliver();
        }
        if self.source == Source::Unwatched && self.pending.len() < READ_AHEAD {
            self.watch(ops);
        }
    }

    fn deliver(&mut self) {
        while !self.pending.is_empty() {
            let bytes = self.pending.make_contiguous();
            let offered = bytes.len();
            let taken = self.target.offer(bytes).min(offered);
            self.pending.drain(..taken);
            if taken < offered {
                break;
            }
        }
    }

    /// Reads once, as much as there is room for.
    fn read(&mut self, ops: &mut EventOps) {
        let mut buffer = [0; READ_AHEAD];
        let room = READ_AHEAD.saturating_sub(self.pending.len());
        let (Some(file), Some(buffer)) = (&self.file, buffer.get_mut(..room)) else { return };
        match rustix::io::read(file, &mut *buffer) {
            Ok(0) => self.end(ops),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                self.pending.extend(bytes);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => {
                log::warn!("console input ends: {error}");
                self.end(ops);
            }
        }
    }

    fn watch(&mut self, ops: &mut EventOps) {
        let Some(file) = &self.file else { return };
        self.source = match ops.add(Events::new(file, EventSet::IN)) {
            Ok(()) => Source::Watched,
            Err(event_manager::Error::Epoll(error))
                if error.errno() == Errno::PERM.raw_os_error() =>
            {
                Source::Ready
            }
            Err(error) => {
                log::error!("console input can't be watched: {error}");
                Source::Ended
            }
        };
        if self.source == Source::Ready {
            self.pump(ops);
        }
    }

    fn unwatch(&mut self, ops: &mut EventOps) {
        if let (Source::Watched, Some(file)) = (self.source, &self.file)
            && let Err(error) = ops.remove(Events::empty(file))
        {
            log::error!("console input can't be left alone: {error}");
        }
        self.source = Source::Unwatched;
    }

    fn end(&mut self, ops: &mut EventOps) {
        self.unwatch(ops);
        self.source = Source::Ended;
        self.file = None;
    }
}

impl MutEventSubscriber for ConsoleInput {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.target.room().as_raw_fd() {
            let _ = self.target.room().read();
        } else {
            self.read(ops);
        }
        self.pump(ops);
        if self.source == Source::Watched && self.pending.len() >= READ_AHEAD {
            self.unwatch(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(self.target.room(), EventSet::IN)) {
            log::error!("console input can't be resumed: {error}");
        }
        self.pump(ops);
    }
}

#[cfg(test)]
mod tests;
