//! The event loop's side of the socket device.

use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use sys::memory::GuestRam;
use virtio_vsock::packet::VsockPacket;
use vm_memory::Bytes;
use vmm_sys_util::eventfd::EventFd;

use super::muxer::Muxer;
use super::packet::GuestPacket;
use crate::virtio::worker::WorkerHandler;
use crate::virtio::{ChainBuffers, DeviceQueue, Notifier, QueueError};

const RX_KICK: u32 = 0;
const TX_KICK: u32 = 1;
const EVENT_KICK: u32 = 2;
const LISTENER: u32 = 3;
const TIMER: u32 = 4;

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, as a `struct virtio_vsock_event`, and the size of that.
const TRANSPORT_RESET: [u8; 4] = [0; 4];
const EVENT_SIZE: u32 = 4;

/// How many packets one direction moves before other events have their turn.
const BUDGET: usize = 256;

/// How far a driver is with giving up the connections that it had before its machine was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransportReset {
    /// It has none that are gone.
    Done,
    /// It has yet to be told, once it has a buffer for that.
    Due,
    /// It was told. Until it gives that buffer back, after which it has made more chains available
    /// than these, it may not have looked yet: it would give up new connections with the old ones.
    Told { available: u16 },
}

/// Serves the three queues and the host's sockets.
pub(super) struct VsockWorker {
    pub(super) memory: GuestRam,
    pub(super) rx: DeviceQueue,
    pub(super) tx: DeviceQueue,
    pub(super) event: Option<DeviceQueue>,
    pub(super) muxer: Muxer,
    pub(super) transport_reset: TransportReset,
    pub(super) notifier: Notifier,
    pub(super) chain: ChainBuffers,
    pub(super) packet: GuestPacket,
}

impl VsockWorker {
    fn handle(&mut self, events: Events, ops: &mut EventOps) -> Result<(), QueueError> {
        match events.data() {
            RX_KICK => drain(self.rx.kick()),
            TX_KICK => {
                drain(self.tx.kick());
                self.take_packets(ops)?;
            }
            EVENT_KICK => {
                if let Some(event) = &self.event {
                    drain(event.kick());
                }
                self.announce_reset()?;
                self.finish_reset()?;
            }
            LISTENER => self.muxer.note_acceptable(),
            TIMER => self.muxer.expire(ops),
            token => self.muxer.handle_events(token, events.event_set(), ops),
        }
        if self.transport_reset == TransportReset::Done {
            self.muxer.accept(ops);
        }
        self.give_packets(ops)
    }

    /// Tells the driver, once it has a buffer for that, that its connections are gone
    /// (VIRTIO 1.3 §5.10.6.7).
    fn announce_reset(&mut self) -> Result<(), QueueError> {
        let due = self.transport_reset == TransportReset::Due;
        let Some(event) = self.event.as_mut().filter(|_| due) else { return Ok(()) };
        let memory = &self.memory;
        loop {
            let Some(chain) = event.pop(memory)? else {
                if event.enable_notification(memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let filled = self.chain.fill(memory, chain);
            let room = filled.ok().and_then(|()| self.chain.writable.first());
            let room = room.filter(|room| room.len >= EVENT_SIZE);
            let written =
                room.is_some_and(|room| memory.write_obj(TRANSPORT_RESET, room.address).is_ok());
            // Before the driver can have given it back.
            let available = event.notify_of_more(memory)?;
            event.add_used(memory, head, if written { EVENT_SIZE } else { 0 })?;
            if written {
                self.transport_reset = TransportReset::Told { available };
                break;
            }
        }
        event.signal_used(memory)
    }

    /// Lets host programs connect once the driver has given up its old connections.
    fn finish_reset(&mut self) -> Result<(), QueueError> {
        if let (Some(event), TransportReset::Told { available }) =
            (&self.event, self.transport_reset)
            && event.available_index(&self.memory)? != available
        {
            self.transport_reset = TransportReset::Done;
        }
        Ok(())
    }

    /// Handles what the guest sent.
    fn take_packets(&mut self, ops: &mut EventOps) -> Result<(), QueueError> {
        let memory = self.memory.clone();
        self.tx.disable_notification(&memory)?;
        for _ in 0..BUDGET {
            let Some(chain) = self.tx.pop(&memory)? else {
                if self.tx.enable_notification(&memory)? {
                    continue;
                }
                return self.tx.signal_used(&memory);
            };
            let head = chain.head_index();
            let filled = self.chain.fill(&memory, chain);
            match filled.ok().and_then(|()| self.packet.parse(&memory, &self.chain)) {
                Some(()) => self.muxer.handle_packet(&self.packet, &memory, ops),
                None => self.muxer.metrics().bad_packets.add(1),
            }
            self.tx.add_used(&memory, head, 0)?;
        }
        // Comes back after other events had their turn.
        let _ = self.tx.kick().write(1);
        self.tx.signal_used(&memory)
    }

    /// Sends the guest what there is for it and its buffers take.
    fn give_packets(&mut self, ops: &mut EventOps) -> Result<(), QueueError> {
        let memory = self.memory.clone();
        let mut budget = BUDGET;
        while self.muxer.has_packets() {
            let Some(left) = budget.checked_sub(1) else {
                // Comes back after other events had their turn.
                let _ = self.rx.kick().write(1);
                break;
            };
            budget = left;
            let Some(mut chain) = self.rx.pop(&memory)? else {
                if self.rx.enable_notification(&memory)? {
                    continue;
                }
                return self.rx.signal_used(&memory);
            };
            let head = chain.head_index();
            let packet = VsockPacket::from_rx_virtq_chain(&memory, &mut chain, u32::MAX).ok();
            // Without room for a payload it could only be used for some packets.
            let room = packet.as_ref().and_then(|packet| packet.data_slice().cloned());
            let (Some(mut packet), Some(room)) = (packet, room) else {
                self.muxer.metrics().bad_buffers.add(1);
                self.rx.add_used(&memory, head, 0)?;
                continue;
            };
            match self.muxer.next_packet(&mut packet, &room, ops) {
                Some(len) => self.rx.add_used(&memory, head, len)?,
                None => self.rx.undo_pop(),
            }
        }
        self.rx.disable_notification(&memory)?;
        self.rx.signal_used(&memory)
    }

    /// Lists what is waited for at all times.
    fn permanent_sources(&self) -> Vec<Events> {
        let event = |fd: RawFd, data| Events::with_data_raw(fd, data, EventSet::IN);
        let listener = self.muxer.host().listener().as_raw_fd();
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let mut sources = vec![
            event(self.rx.kick().as_raw_fd(), RX_KICK),
            event(self.tx.kick().as_raw_fd(), TX_KICK),
            Events::with_data_raw(listener, LISTENER, edge),
            event(self.muxer.timer_fd(), TIMER),
        ];
        sources
            .extend(self.event.as_ref().map(|queue| event(queue.kick().as_raw_fd(), EVENT_KICK)));
        sources
    }

    /// Stops serving queues that the driver broke, until the reset that it is asked for.
    fn give_up(&mut self, error: &QueueError, ops: &mut EventOps) {
        self.notifier.needs_reset(error);
        self.muxer.close(ops);
        for source in self.permanent_sources() {
            if let Err(error) = ops.remove(source) {
                log::error!("a socket device can't stop waiting: {error}");
            }
        }
    }
}

impl WorkerHandler for VsockWorker {
    /// The guest couldn't do anything meanwhile: it gets as much longer for what it has to do.
    fn resumed(&mut self, paused: Duration) {
        self.muxer.postpone(paused);
    }
}

impl MutEventSubscriber for VsockWorker {
    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if let Err(error) = self.handle(events, ops) {
            self.give_up(&error, ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        for source in self.permanent_sources() {
            if let Err(error) = ops.add(source) {
                log::error!("a socket device can't wait for its driver: {error}");
            }
        }
        // Whatever came before this worker did.
        let _ = self.tx.kick().write(1);
        if let Some(event) = &self.event {
            let _ = event.kick().write(1);
        }
    }
}

fn drain(eventfd: &EventFd) {
    // It fails only when nothing was written, and then there is nothing to drain.
    let _ = eventfd.read();
}
