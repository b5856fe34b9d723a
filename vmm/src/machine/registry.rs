//! The virtio devices of a machine: where each is, and what changes it while it works.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::ext::DeviceDetails;
use devices::rate_limiter::RateLimitControl;
use devices::state::RestoreError;
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::BalloonPort;
use devices::virtio::block::{BlockControl, BlockMetrics};
use devices::virtio::mem::MemPort;
use devices::virtio::net::{NetControl, NetMetrics};
use devices::virtio::pmem::PmemMetrics;
use devices::virtio::transport::TransportState;
use devices::virtio::vhost_user::VhostUserControl;
use devices::virtio::vsock::VsockMetrics;

use super::attach::Attacher;
use super::device_memory::{DeviceMemory, MappedFile};
use super::state::{DeviceKey, DeviceState};
use crate::error::VmmError;

/// What reaches a device behind its transport.
pub(super) enum Handle {
    /// A drive.
    Block {
        /// Changes it.
        control: Arc<BlockControl>,
        /// Counts.
        metrics: Arc<BlockMetrics>,
    },
    /// A drive that another process serves.
    VhostUser(Arc<VhostUserControl>),
    /// A network interface.
    Net {
        /// Changes it.
        control: NetControl,
        /// Counts.
        metrics: Arc<NetMetrics>,
    },
    /// The socket device.
    Vsock(Arc<VsockMetrics>),
    /// The source of randomness.
    Rng,
    /// The balloon.
    Balloon(Arc<BalloonPort>),
    /// A file system, which nothing changes.
    Fs,
    /// The console, which nothing changes.
    Console,
    /// Memory that is plugged.
    Memory(Arc<MemPort>),
    /// Persistent memory.
    Pmem {
        /// Changes its limit.
        control: RateLimitControl,
        /// Counts.
        metrics: Arc<PmemMetrics>,
        /// What the guest sees.
        mapped: MappedFile,
    },
}

impl Handle {
    /// Returns where the guest has the memory that the device brings, if it does.
    fn memory_address(&self) -> Option<u64> {
        match self {
            Self::Pmem { mapped, .. } => Some(mapped.start().0),
            _ => None,
        }
    }
}

/// A device that isn't attached yet.
pub(super) struct Made {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) handle: Handle,
}

/// A device in its place.
struct Entry {
    key: DeviceKey,
    handle: Handle,
    hotplugged: bool,
    /// The guest was asked to give it up.
    leaving: bool,
}

/// All virtio devices of a machine.
pub(super) struct Devices {
    attacher: Attacher,
    /// What the devices have in guest memory goes when they are reset.
    entries: BTreeMap<u8, Entry>,
    memory: Arc<DeviceMemory>,
}

impl Devices {
    /// Creates none, with `attacher` for their places and `memory` for what they bring.
    pub(super) fn new(attacher: Attacher, memory: Arc<DeviceMemory>) -> Self {
        Self { attacher, entries: BTreeMap::new(), memory }
    }

    /// Returns where memory that devices bring goes.
    pub(super) fn memory(&self) -> &Arc<DeviceMemory> {
        &self.memory
    }

    /// Returns what attaches them.
    pub(super) fn attacher(&self) -> &Attacher {
        &self.attacher
    }

    /// Attaches a device at the lowest free place, before the guest starts.
    ///
    /// # Errors
    /// As [`Attacher::attach`].
    pub(super) fn attach(&mut self, key: DeviceKey, made: Made) -> Result<(), VmmError> {
        let place = self.attacher.attach(made.device)?;
        self.enter(place, key, made.handle, false);
        Ok(())
    }

    /// Attaches a device where a restored guest expects it.
    ///
    /// # Errors
    /// As [`Attacher::attach_at`].
    pub(super) fn attach_at(
        &mut self,
        place: u8,
        key: DeviceKey,
        made: Made,
        hotplugged: bool,
    ) -> Result<(), VmmError> {
        self.attacher.attach_at(place, made.device)?;
        self.enter(place, key, made.handle, hotplugged);
        Ok(())
    }

    /// Attaches a device to a guest that runs, and tells it.
    ///
    /// # Errors
    /// As [`Attacher::plug`].
    pub(super) fn plug(&mut self, key: DeviceKey, made: Made) -> Result<(), VmmError> {
        let place = self.attacher.plug(made.device)?;
        self.enter(place, key, made.handle, true);
        Ok(())
    }

    fn enter(&mut self, place: u8, key: DeviceKey, handle: Handle, hotplugged: bool) {
        self.entries.insert(place, Entry { key, handle, hotplugged, leaving: false });
    }

    /// Asks the guest to give `key` up. Returns whether the device can be given up at all.
    pub(super) fn request_unplug(&mut self, key: &DeviceKey) -> bool {
        let Some((&place, entry)) = self.entries.iter_mut().find(|(_, entry)| entry.key == *key)
        else {
            return false;
        };
        entry.leaving = self.attacher.request_unplug(place);
        entry.leaving
    }

    /// Drops what the guest has given up, and returns what that was.
    pub(super) fn remove_ejected(&mut self) -> Vec<DeviceKey> {
        let Some(ejections) = self.attacher.ejections() else { return Vec::new() };
        let slots: Vec<_> = ejections.take().collect();
        let mut removed = Vec::new();
        for slot in slots {
            self.attacher.detach(slot);
            removed.extend(self.entries.remove(&slot).map(|entry| entry.key));
        }
        removed
    }

    /// Returns what reaches the device `key`.
    pub(super) fn handle(&self, key: &DeviceKey) -> Option<&Handle> {
        self.entries.values().find(|entry| entry.key == *key).map(|entry| &entry.handle)
    }

    /// Lists the devices with what reaches them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&DeviceKey, &Handle)> {
        self.entries.values().map(|entry| (&entry.key, &entry.handle))
    }

    /// Has all workers finish what is in flight and park. vCPUs are parked.
    pub(super) fn pause(&self) {
        // All drain side by side.
        for (_, transport) in self.attacher.devices() {
            transport.request_pause();
        }
        for (_, transport) in self.attacher.devices() {
            transport.pause();
        }
    }

    /// Lets all workers go on.
    pub(super) fn resume(&self) {
        for (_, transport) in self.attacher.devices() {
            transport.resume();
        }
    }

    /// Raises each interrupt and each doorbell once, after a restore.
    pub(super) fn revive(&self) {
        for (_, transport) in self.attacher.devices() {
            transport.revive();
        }
    }

    /// Resets all devices, which joins their workers.
    pub(super) fn reset(&self) {
        for (_, transport) in self.attacher.devices() {
            transport.reset();
        }
    }

    /// Saves all devices, which are paused.
    ///
    /// # Errors
    /// [`VmmError::Snapshot`] names the device that can't be saved.
    pub(super) fn save(&self) -> Result<Vec<DeviceState>, VmmError> {
        self.attacher
            .devices()
            .filter_map(|(place, transport)| {
                self.entries.get(&place).map(|entry| (place, transport, entry))
            })
            .map(|(place, transport, entry)| {
                let name = entry.key.name();
                let transport = transport.save().map_err(|source| {
                    VmmError::snapshot(format!("save device {name:?}"), source)
                })?;
                Ok(DeviceState {
                    key: entry.key.clone(),
                    place,
                    hotplugged: entry.hotplugged,
                    memory_address: entry.handle.memory_address(),
                    transport,
                })
            })
            .collect()
    }

    /// Gives the device in `place` its saved state. Nothing happens where there is none.
    ///
    /// # Errors
    /// [`RestoreError`] when the state doesn't fit the device.
    pub(super) fn restore(&self, place: u8, state: TransportState) -> Result<(), RestoreError> {
        match self.attacher.devices().find(|(at, _)| *at == place) {
            Some((_, transport)) => transport.restore(state),
            None => Ok(()),
        }
    }

    /// Describes all devices, in the order of their places.
    pub(super) fn details(&self) -> Vec<DeviceDetails> {
        let active = |place: u8| {
            self.attacher.devices().any(|(at, transport)| at == place && transport.is_active())
        };
        self.entries
            .iter()
            .map(|(&place, entry)| DeviceDetails {
                id: entry.key.name().to_owned(),
                kind: entry.key.kind().to_owned(),
                address: self.attacher.address(place),
                active: active(place),
                hotplugged: entry.hotplugged,
            })
            .collect()
    }
}
