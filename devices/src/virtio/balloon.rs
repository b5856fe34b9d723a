//! Virtio memory balloon (VIRTIO 1.3 §5.5) with statistics, free page reporting and hinting.
//!
//! The host asks for pages by [`BalloonPort::set_target_pages`]; the driver hands them over by page
//! frame numbers (inflate) or as buffers (reporting, hinting), and their memory goes back to the host. A page
//! taken back (deflate) needs nothing: the host gives memory when the guest touches it.

mod hinting;
mod pages;
mod port;
mod stats;

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use sys::memory::GuestRam;
use vm_memory::Bytes;

pub use hinting::HintingStatus;
pub use port::BalloonPort;
use port::BalloonState;
pub use stats::BalloonStats;

use super::device::{ActivateError, Activation, DeviceType, VirtioDevice};
use super::queue::{ChainBuffers, DeviceQueue};
use super::serve::{RING_FEATURES, ServedQueue};
use super::worker::{QueueWorker, WorkerHandler};
use crate::bytes::{read_at, value_u32};
use crate::state::{RestoreError, SaveError, from_value, to_value};
use pages::PageList;

/// `VIRTIO_BALLOON_F_STATS_VQ`, `_DEFLATE_ON_OOM`, `_FREE_PAGE_HINT` and `_PAGE_REPORTING`.
const F_STATS_VQ: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_FREE_PAGE_HINT: u64 = 1 << 3;
const F_PAGE_REPORTING: u64 = 1 << 5;

/// Inflate, deflate, statistics, free page hints, reporting.
const QUEUE_SIZES: [u16; 5] = [128; 5];
const INFLATE_QUEUE: u16 = 0;
const DEFLATE_QUEUE: u16 = 1;
const STATS_QUEUE: u16 = 2;

/// Where `struct virtio_balloon_config` has the driver's number of pages.
const ACTUAL_OFFSET: u64 = 4;

/// A balloon device over a [`BalloonPort`], which outlives its activations.
pub struct Balloon {
    port: Arc<BalloonPort>,
    features: u64,
    worker: Option<QueueWorker>,
}

/// What a balloon offers beyond taking and returning pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonOptions {
    /// The driver may take pages back when it would run out of memory.
    pub deflate_on_oom: bool,
    /// The driver may report pages as it frees them.
    pub free_page_reporting: bool,
    /// The driver can be asked to name the pages that it has free.
    pub free_page_hinting: bool,
    /// The driver gives statistics of its memory.
    pub stats: bool,
}

impl Balloon {
    /// Creates the device side of `port`, not active.
    pub fn new(port: Arc<BalloonPort>, options: BalloonOptions) -> Self {
        let offered = [
            (options.deflate_on_oom, F_DEFLATE_ON_OOM),
            (options.free_page_reporting, F_PAGE_REPORTING),
            (options.free_page_hinting, F_FREE_PAGE_HINT),
            (options.stats, F_STATS_VQ),
        ];
        let wanted = offered.into_iter().filter(|(wanted, _)| *wanted);
        let features = wanted.fold(RING_FEATURES, |features, (_, feature)| features | feature);
        Self { port, features, worker: None }
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn offered_features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let target = self.port.target_pages();
        let actual = self.port.actual_pages();
        let hinting = self.port.hinting_status().host_command;
        let mut config = [0; 12];
        for (to, from) in config.as_chunks_mut().0.iter_mut().zip([target, actual, hinting]) {
            *to = from.to_le_bytes();
        }
        read_at(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (ACTUAL_OFFSET, Some(pages)) = (offset, value_u32(data)) {
            self.port.set_actual_pages(pages);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let handler = BalloonHandler::new(
            Arc::clone(&self.port),
            activation.features,
            &activation.memory,
            activation.queues,
        )?;
        let worker = QueueWorker::spawn(
            "virtio-balloon".to_owned(),
            Box::new(handler),
            &activation.notifier,
        )
        .map_err(ActivateError::Worker)?;
        self.worker = Some(worker);
        let hints = activation.features & F_FREE_PAGE_HINT != 0;
        self.port.attach(activation.notifier, hints);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
        self.port.detach();
    }

    fn workers(&self) -> &[QueueWorker] {
        self.worker.as_slice()
    }

    fn save(&self) -> Result<serde_json::Value, SaveError> {
        to_value(&self.port.save())
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        let state: BalloonState = from_value("a balloon", state)?;
        let size = QUEUE_SIZES.get(usize::from(STATS_QUEUE)).copied().unwrap_or_default();
        if let Some(head) = state.held_stats().filter(|head| *head >= size) {
            return Err(RestoreError::invalid("chain of statistics", head));
        }
        self.port.restore(&state);
        Ok(())
    }
}

/// What a queue is for, in the order of their indices (§5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Stats,
    Hinting,
    Reporting,
}

impl Role {
    const ALL: [(Self, u64); 5] = [
        (Self::Inflate, 0),
        (Self::Deflate, 0),
        (Self::Stats, F_STATS_VQ),
        (Self::Hinting, F_FREE_PAGE_HINT),
        (Self::Reporting, F_PAGE_REPORTING),
    ];

    /// Tells what each of the queues of these indices is for, if anything.
    ///
    /// Each has an index of its own, whatever was negotiated. Linux before 6.11 numbers the queues in
    /// use without gaps instead. The order is the same either way: a driver that has as many queues
    /// as it negotiated has them in it.
    fn of_queues(indices: &[u16], features: u64) -> Vec<Option<Self>> {
        let negotiated = |feature: u64| features & feature == feature;
        let used = || Self::ALL.into_iter().filter(|(_, feature)| negotiated(*feature));
        if used().count() == indices.len() && indices.is_sorted() {
            return used().map(|(role, _)| Some(role)).collect();
        }
        let own = |index: &u16| Self::ALL.get(usize::from(*index));
        indices
            .iter()
            .map(|index| {
                own(index).filter(|(_, feature)| negotiated(*feature)).map(|(role, _)| *role)
            })
            .collect()
    }
}

/// The worker's side.
struct BalloonHandler {
    port: Arc<BalloonPort>,
    queues: Vec<(Role, ServedQueue)>,
    pages: PageList,
}

impl BalloonHandler {
    fn new(
        port: Arc<BalloonPort>,
        features: u64,
        memory: &GuestRam,
        queues: Vec<DeviceQueue>,
    ) -> Result<Self, ActivateError> {
        for required in [INFLATE_QUEUE, DEFLATE_QUEUE] {
            if !queues.iter().any(|queue| queue.index() == required) {
                return Err(ActivateError::MissingQueue(required));
            }
        }
        let indices: Vec<_> = queues.iter().map(DeviceQueue::index).collect();
        let queues = queues
            .into_iter()
            .zip(Role::of_queues(&indices, features))
            .filter_map(|(queue, role)| Some((role?, ServedQueue::new(queue, memory.clone()))))
            .collect();
        Ok(Self { port, queues, pages: PageList::default() })
    }

    fn serve(&mut self, notification: Events) {
        let Self { port, queues, pages } = self;
        for (role, queue) in queues.iter_mut().filter(|(_, queue)| queue.owns(notification)) {
            match role {
                Role::Inflate => queue.serve(|memory, buffers| {
                    port.count_refused(pages.discard_listed(memory, &buffers.readable));
                    0
                }),
                Role::Deflate => queue.serve(|_, _| 0),
                Role::Stats => take_stats(queue, port),
                Role::Hinting => queue.serve(|memory, buffers| {
                    take_hints(memory, buffers, port);
                    0
                }),
                Role::Reporting => queue.serve(|memory, buffers| {
                    report(memory, buffers);
                    0
                }),
            }
        }
    }

    /// Returns the held statistics buffer, for the driver to fill it anew.
    fn request_stats(&mut self) {
        let Some(head) = self.port.take_held_stats() else { return };
        for (_, queue) in self.queues.iter_mut().filter(|(role, _)| *role == Role::Stats) {
            queue.give_back(head);
        }
    }
}

/// Between two events nothing is in flight but the statistics, which the port keeps.
impl WorkerHandler for BalloonHandler {}

impl MutEventSubscriber for BalloonHandler {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.port.stats_wanted().as_raw_fd() {
            let _ = self.port.stats_wanted().read();
            self.request_stats();
        } else if events.fd() == self.port.stats_timer() {
            self.port.acknowledge_timer();
            self.request_stats();
        } else {
            self.serve(events);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        for (_, queue) in &self.queues {
            queue.watch(ops);
        }
        let wanted = [self.port.stats_wanted().as_raw_fd(), self.port.stats_timer()];
        for wanted in wanted {
            if let Err(error) = ops.add(Events::new_raw(wanted, EventSet::IN)) {
                log::error!("the balloon can't ask for statistics: {error}");
            }
        }
    }
}

/// Reads the statistics that the driver has put in, and keeps its buffer.
fn take_stats(queue: &mut ServedQueue, port: &BalloonPort) {
    queue.serve_requests(
        || true,
        |memory, request| {
            if let Some(buffers) = request.buffers {
                port.set_stats(BalloonStats::read(memory, &buffers.readable));
            }
            // A driver has one buffer; should it add a second, the first goes back.
            port.hold_stats(request.head).map(|previous| (previous, 0))
        },
    );
}

/// Discards free pages that the driver reports (§5.5.6.6): the buffers themselves.
fn report(memory: &GuestRam, buffers: &ChainBuffers) {
    for segment in &buffers.writable {
        pages::discard(memory, segment.address, u64::from(segment.len));
    }
}

/// Takes what a driver says of its free pages: commands in buffers that the device reads, pages as
/// buffers that it could write (§5.5.6.5).
///
/// Each page is discarded while its chain isn't used yet, and so before the driver hears of it. A
/// driver that takes a page for itself before that, as Linux does when it's out of memory, loses the
/// page's content: hinting is for guests that are told to stand still meanwhile, or can spare memory.
fn take_hints(memory: &GuestRam, buffers: &ChainBuffers, port: &BalloonPort) {
    let mut command = [0; size_of::<u32>()];
    if let [segment] = buffers.readable.as_slice()
        && usize::try_from(segment.len) == Ok(command.len())
    {
        match memory.read_slice(&mut command, segment.address) {
            Ok(()) => port.guest_hinting_command(u32::from_le_bytes(command)),
            // The segment was checked: this can't happen.
            Err(error) => log::error!("a hinting command can't be read: {error}"),
        }
    }
    for segment in &buffers.writable {
        port.discard_hinted(|| {
            pages::discard(memory, segment.address, u64::from(segment.len));
        });
    }
}

#[cfg(test)]
mod tests;
