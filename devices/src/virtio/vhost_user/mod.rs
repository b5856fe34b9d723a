//! Block devices whose requests another process serves (vhost-user, the front end's side).
//!
//! The other process, the back end, maps guest memory and works on the queues. The driver's
//! notifications go to it without us, its interrupts come by a worker here. What it says is
//! trusted no more than the guest: it can harm the guest, whose memory it has, and keep us waiting for
//! [`link::PATIENCE`] at most.

mod link;

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

pub use link::{VhostUserControl, VhostUserError, is_shared};

use super::device::{ActivateError, Activation, DeviceType, Notifier, VirtioDevice};
use super::worker::{QueueWorker, WorkerHandler};
use crate::bytes::read_at;
use crate::state::{RestoreError, SaveError};
use link::Ring;

/// A block device that a back end serves.
pub struct VhostUserBlock {
    control: Arc<VhostUserControl>,
    queue_sizes: Vec<u16>,
    rings: Vec<Ring>,
    worker: Option<QueueWorker>,
}

impl VhostUserBlock {
    /// Connects to the back end that listens at `path`, and agrees with it on what the device offers.
    ///
    /// # Errors
    /// [`VhostUserError`].
    pub fn connect(path: &Path, num_queues: u16, queue_size: u16) -> Result<Self, VhostUserError> {
        Ok(Self {
            control: Arc::new(VhostUserControl::connect(path, num_queues)?),
            queue_sizes: vec![queue_size; usize::from(num_queues)],
            rings: Vec::new(),
            worker: None,
        })
    }

    /// Returns what reads the device's configuration anew.
    pub fn control(&self) -> &Arc<VhostUserControl> {
        &self.control
    }
}

impl VirtioDevice for VhostUserBlock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn offered_features(&self) -> u64 {
        self.control.offered_features()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_at(&self.control.config(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, features, queues, notifier } = activation;
        if queues.is_empty() {
            return Err(ActivateError::MissingQueue(0));
        }
        let mut rings = queues
            .into_iter()
            .map(|queue| Ring::new(queue, &memory))
            .collect::<Result<Vec<_>, _>>()
            .map_err(ActivateError::Backend)?;
        let handler = CallHandler::new(&rings, Arc::clone(&self.control), notifier.clone())
            .map_err(ActivateError::Worker)?;
        let worker = QueueWorker::spawn("vhost-user".to_owned(), Box::new(handler), &notifier)
            .map_err(ActivateError::Worker)?;
        let started = self.control.start(&memory, features, &mut rings, notifier);
        (self.rings, self.worker) = (rings, Some(worker));
        started.map_err(|error| {
            self.reset();
            ActivateError::Backend(std::io::Error::other(error))
        })
    }

    /// Stops the rings first: once the back end has said that it did, it leaves guest memory alone.
    fn reset(&mut self) {
        self.control.stop(&mut self.rings);
        self.rings.clear();
        self.worker = None;
    }

    fn workers(&self) -> &[QueueWorker] {
        self.worker.as_slice()
    }

    fn pause(&mut self) {
        self.control.pause(&mut self.rings);
        self.request_pause();
        self.workers().iter().for_each(QueueWorker::wait_paused);
    }

    fn resume(&mut self) {
        self.control.resume(&mut self.rings);
        self.workers().iter().for_each(QueueWorker::resume);
    }

    fn save(&self) -> Result<serde_json::Value, SaveError> {
        Err(SaveError::Unsupported {
            device: "a vhost-user drive",
            reason: "its state is in another process",
        })
    }

    fn restore(&mut self, _state: serde_json::Value) -> Result<(), RestoreError> {
        Err(RestoreError::invalid("vhost-user drive", "it can't be restored"))
    }
}

impl Drop for VhostUserBlock {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Interrupts the driver when the back end calls, and notices its end.
struct CallHandler {
    calls: Vec<(u16, EventFd)>,
    control: Arc<VhostUserControl>,
    notifier: Notifier,
}

impl CallHandler {
    fn new(
        rings: &[Ring],
        control: Arc<VhostUserControl>,
        notifier: Notifier,
    ) -> std::io::Result<Self> {
        let calls = rings
            .iter()
            .map(|ring| Ok((ring.queue.index(), ring.call.try_clone()?)))
            .collect::<std::io::Result<_>>()?;
        Ok(Self { calls, control, notifier })
    }
}

/// What the back end has in flight, it brings to an end when its rings are stopped.
impl WorkerHandler for CallHandler {}

impl MutEventSubscriber for CallHandler {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if let Some((index, call)) = self.calls.iter().find(|(_, fd)| fd.as_raw_fd() == events.fd())
        {
            let _ = call.read();
            self.notifier.signal_queue(*index);
            return;
        }
        // Nothing will be served any more, and the hang-up stays.
        self.notifier.needs_reset(&"its vhost-user back end is gone");
        let _ = ops.remove(events);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let calls = self.calls.iter().map(|(_, call)| Events::new(call, EventSet::IN));
        let hang_up = Events::new_raw(self.control.raw_fd(), EventSet::READ_HANG_UP);
        for events in calls.chain([hang_up]) {
            if let Err(error) = ops.add(events) {
                log::error!("a vhost-user back end can't be heard: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
