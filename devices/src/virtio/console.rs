//! Virtio console (VIRTIO 1.3 §5.3) of one port, without the multiport feature.

mod port;

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use sys::memory::GuestRam;
use vm_memory::{Address, Bytes};

pub use port::ConsolePort;

use super::device::{ActivateError, Activation, DeviceType, VirtioDevice};
use super::queue::{ChainBuffers, DeviceQueue, Segment};
use super::serve::{RING_FEATURES, ServedQueue};
use super::worker::{QueueWorker, WorkerHandler};
use crate::log_limit::LogLimit;
use crate::state::{RestoreError, SaveError, from_value, to_value};

const QUEUE_SIZES: [u16; 2] = [128; 2];
const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

/// `VIRTIO_CONSOLE_F_SIZE`: the configuration has the console's columns and rows.
const F_SIZE: u64 = 1 << 0;
/// `VIRTIO_CONSOLE_F_EMERG_WRITE`: a byte written to the configuration is printed.
const F_EMERG_WRITE: u64 = 1 << 2;

/// The layout of `struct virtio_console_config`: columns, rows, the number of ports, `emerg_wr`.
const CONFIG_SIZE: usize = 12;
const ONE_PORT: u32 = 1;
const EMERG_WRITE_OFFSET: u64 = 8;

/// How much of the guest's output is copied out of its memory at once.
const COPY_BYTES: usize = 4096;

/// A console device over a [`ConsolePort`], which outlives its activations.
pub struct Console {
    port: Arc<ConsolePort>,
    active: Option<Active>,
}

struct Active {
    /// Ends an output that waits for its reader.
    cancelled: Arc<AtomicBool>,
    worker: QueueWorker,
}

impl Console {
    /// Creates the device side of `port`, not active.
    pub fn new(port: Arc<ConsolePort>) -> Self {
        Self { port, active: None }
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn offered_features(&self) -> u64 {
        RING_FEATURES | F_SIZE | F_EMERG_WRITE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (columns, rows) = self.port.size();
        let mut config = [0; CONFIG_SIZE];
        crate::bytes::write_at(&mut config, 0, &columns.to_le_bytes());
        crate::bytes::write_at(&mut config, 2, &rows.to_le_bytes());
        crate::bytes::write_at(&mut config, 4, &ONE_PORT.to_le_bytes());
        crate::bytes::read_at(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // A driver may do this before anything is negotiated (§5.3.4).
        if offset == EMERG_WRITE_OFFSET
            && let Some(byte) = data.first()
        {
            self.port.output().write(&[*byte]);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let (mut receive, mut transmit) = (None, None);
        for queue in activation.queues {
            match queue.index() {
                RECEIVE_QUEUE => receive = Some(queue),
                TRANSMIT_QUEUE => transmit = Some(queue),
                _ => {}
            }
        }
        let receive = receive.ok_or(ActivateError::MissingQueue(RECEIVE_QUEUE))?;
        let transmit = transmit.ok_or(ActivateError::MissingQueue(TRANSMIT_QUEUE))?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let handler = ConsoleHandler::new(
            Arc::clone(&self.port),
            Arc::clone(&cancelled),
            &activation.memory,
            receive,
            transmit,
        );
        let worker = QueueWorker::spawn(
            "virtio-console".to_owned(),
            Box::new(handler),
            &activation.notifier,
        )
        .map_err(ActivateError::Worker)?;
        self.port.attach(Some(activation.notifier));
        self.active = Some(Active { cancelled, worker });
        Ok(())
    }

    fn reset(&mut self) {
        self.port.attach(None);
        if let Some(active) = self.active.take() {
            self.port.output().interrupt(&active.cancelled);
        }
    }

    fn workers(&self) -> &[QueueWorker] {
        self.active.as_ref().map_or(&[], |active| std::slice::from_ref(&active.worker))
    }

    fn save(&self) -> Result<serde_json::Value, SaveError> {
        to_value(&self.port.save())
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), RestoreError> {
        self.port.restore(&from_value("a console", state)?)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reset();
    }
}

/// The worker's side: moves input into received buffers and transmitted buffers to the output.
struct ConsoleHandler {
    port: Arc<ConsolePort>,
    cancelled: Arc<AtomicBool>,
    receive: ServedQueue,
    transmit: ServedQueue,
}

impl ConsoleHandler {
    fn new(
        port: Arc<ConsolePort>,
        cancelled: Arc<AtomicBool>,
        memory: &GuestRam,
        receive: DeviceQueue,
        transmit: DeviceQueue,
    ) -> Self {
        Self {
            port,
            cancelled,
            receive: ServedQueue::new(receive, memory.clone()),
            transmit: ServedQueue::new(transmit, memory.clone()),
        }
    }

    /// Pops buffers only for input that is there: a driver's buffers stay its own until then.
    fn serve_receive(&mut self) {
        let port = &self.port;
        self.receive.serve_while(
            || port.has_input(),
            |memory, buffers| port.take_input(|input| receive(memory, buffers, input)),
        );
    }

    fn serve_transmit(&mut self) {
        let (port, cancelled) = (&self.port, &self.cancelled);
        self.transmit.serve(|memory, buffers| {
            for segment in &buffers.readable {
                if cancelled.load(Ordering::Acquire) {
                    break;
                }
                transmit(memory, *segment, |bytes| {
                    port.output().write_unless(bytes, cancelled);
                    !cancelled.load(Ordering::Acquire)
                });
            }
            0
        });
    }
}

/// Between two events nothing is in flight.
impl WorkerHandler for ConsoleHandler {}

impl MutEventSubscriber for ConsoleHandler {
    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if self.transmit.owns(events) {
            self.serve_transmit();
            return;
        }
        if events.fd() == self.port.arrived().as_raw_fd() {
            let _ = self.port.arrived().read();
        }
        self.serve_receive();
    }

    fn init(&mut self, ops: &mut EventOps) {
        self.receive.watch(ops);
        self.transmit.watch(ops);
        if let Err(error) = ops.add(Events::new(self.port.arrived(), EventSet::IN)) {
            log::error!("the console can't take input: {error}");
        }
    }
}

/// Moves input into the chain's buffers, as much as they hold, and returns how much it was.
fn receive(memory: &GuestRam, buffers: &ChainBuffers, input: &mut VecDeque<u8>) -> u32 {
    let mut written: u32 = 0;
    for segment in &buffers.writable {
        let room = usize::try_from(segment.len).unwrap_or(usize::MAX);
        let bytes = input.make_contiguous();
        let (now, _) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        if now.is_empty() || !is_done(memory.write_slice(now, segment.address)) {
            break;
        }
        written = written.saturating_add(u32::try_from(now.len()).unwrap_or(segment.len));
        let moved = now.len();
        input.drain(..moved);
    }
    written
}

/// Copies what a buffer holds to `sink`, piece by piece, until that returns `false`.
fn transmit(memory: &GuestRam, segment: Segment, mut sink: impl FnMut(&[u8]) -> bool) {
    let mut copy = [0; COPY_BYTES];
    let (mut address, mut left) = (segment.address, u64::from(segment.len));
    loop {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(COPY_BYTES);
        let Some(piece) = copy.get_mut(..count).filter(|piece| !piece.is_empty()) else { return };
        if !is_done(memory.read_slice(piece, address)) || !sink(piece) {
            return;
        }
        let moved = u64::try_from(count).unwrap_or(left);
        address = address.unchecked_add(moved);
        left = left.saturating_sub(moved);
    }
}

/// Logs an access to guest memory that failed although the buffer had been checked.
fn is_done(result: Result<(), vm_memory::GuestMemoryError>) -> bool {
    static LOG: LogLimit = LogLimit::new();
    if let Err(error) = &result {
        LOG.warn(format_args!("a console buffer can't be accessed: {error}"));
    }
    result.is_ok()
}

#[cfg(test)]
mod tests;
