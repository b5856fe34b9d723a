//! One PCI bus without bridges: configuration space, BARs, MSI-X, ECAM and the legacy ports.
//!
//! Section numbers are those of the PCI Local Bus Specification 3.0 unless another is named.

mod bar;
mod config_space;
mod ecam;
mod host_bridge;
mod hotplug;
mod msix;
mod ports;

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

pub use bar::{BarObserver, BarWindow};
pub use config_space::{ConfigSpace, ConfigSpaceState, Identity};
pub use ecam::Ecam;
pub use host_bridge::HostBridge;
pub use hotplug::{EjectListener, PciHotplug, PciHotplugState};
pub use msix::{MsixRegion, MsixTable, MsixVectorState};
pub use ports::ConfigPorts;

/// How many devices a bus has room for.
pub const SLOTS: u8 = 32;

/// What of a bus, beside its functions, has to survive a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PciRootState {
    /// [`ConfigPorts::save`]
    pub config_address: u32,
    /// [`PciHotplug::save`]
    pub hotplug: PciHotplugState,
}

/// A PCI function's configuration space. Called on the vCPU thread that made the access.
pub trait PciFunction: Send + Sync {
    /// Reads `data.len()` (1 to 8) bytes at `offset`; all of them lie below 4096.
    ///
    /// Bytes that the function doesn't have are left as they are: the bus passes all ones.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Writes `data` (1 to 8 bytes) at `offset`; all of them lie below 4096.
    fn write_config(&self, offset: u16, data: &[u8]);

    /// Gives up its place on other buses for good: it has been taken off this one. Accesses that
    /// had begun before may still arrive.
    ///
    /// Called on the thread that removes the function.
    fn removed(&self) {}
}

/// Why a function can't be assembled or put on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PciError {
    /// A bus has [`SLOTS`] slots.
    #[error("there is no PCI slot {0}")]
    NoSuchSlot(u8),
    /// Another function is there.
    #[error("PCI slot {0} is taken")]
    SlotTaken(u8),
    /// A BAR's size must be a power of two of at least 4 KiB, its address a multiple of that, and
    /// it must be one of the three that a header has room for.
    #[error("BAR {index} of {size:#x} bytes can't be at {base:#x}")]
    InvalidBar {
        /// Which BAR, from 0.
        index: u8,
        /// Length in bytes.
        size: u64,
        /// Guest-physical address.
        base: u64,
    },
    /// The capability list has outgrown its 192 bytes.
    #[error("no room for PCI capability {0:#x}")]
    NoRoom(u8),
    /// A function can't have that many MSI-X vectors, or none.
    #[error("a PCI function can't have {0} MSI-X vectors")]
    InvalidVectorCount(u16),
}

/// Bus 0: up to [`SLOTS`] devices with one function each.
#[derive(Default)]
pub struct PciBus {
    slots: RwLock<[Option<Arc<dyn PciFunction>>; SLOTS as usize]>,
}

impl PciBus {
    /// Creates a bus with nothing but the host bridge, in slot 0.
    pub fn new() -> Self {
        let bus = Self::default();
        if let Some(slot) = bus.write_slots().first_mut() {
            *slot = Some(Arc::new(HostBridge::new()));
        }
        bus
    }

    /// Puts `function` into `slot`.
    ///
    /// # Errors
    /// [`PciError::NoSuchSlot`] and [`PciError::SlotTaken`].
    pub fn insert(&self, slot: u8, function: Arc<dyn PciFunction>) -> Result<(), PciError> {
        let mut slots = self.write_slots();
        let place = slots.get_mut(usize::from(slot)).ok_or(PciError::NoSuchSlot(slot))?;
        if place.is_some() {
            return Err(PciError::SlotTaken(slot));
        }
        *place = Some(function);
        Ok(())
    }

    /// Takes the function in `slot` off the bus, with all of its BARs, and returns it. vCPUs that
    /// are in the middle of an access to it finish that.
    pub fn remove(&self, slot: u8) -> Option<Arc<dyn PciFunction>> {
        let function = self.write_slots().get_mut(usize::from(slot))?.take()?;
        function.removed();
        Some(function)
    }

    /// Reads configuration space; `data` becomes all ones where nothing answers.
    pub fn read_config(&self, address: ConfigAddress, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(function) = self.lookup(address, data.len()) {
            function.read_config(address.register, data);
        }
    }

    /// Writes configuration space, if anything is there.
    pub fn write_config(&self, address: ConfigAddress, data: &[u8]) {
        if let Some(function) = self.lookup(address, data.len()) {
            function.write_config(address.register, data);
        }
    }

    /// Finds who answers all of `len` bytes. The lock is released before the function is called.
    fn lookup(&self, address: ConfigAddress, len: usize) -> Option<Arc<dyn PciFunction>> {
        let end = usize::from(address.register).checked_add(len)?;
        if address.bus != 0 || address.function != 0 || end > ConfigAddress::SPACE_SIZE {
            return None;
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(usize::from(address.slot))?.clone()
    }

    fn write_slots(
        &self,
    ) -> std::sync::RwLockWriteGuard<'_, [Option<Arc<dyn PciFunction>>; SLOTS as usize]> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names one place in configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAddress {
    /// The bus, from 0.
    pub bus: u8,
    /// The device on the bus, 0 to 31.
    pub slot: u8,
    /// The function of the device, 0 to 7.
    pub function: u8,
    /// The byte in the function's space, 0 to 4095.
    pub register: u16,
}

impl ConfigAddress {
    /// How many bytes a function's configuration space has with ECAM.
    pub const SPACE_SIZE: usize = 4096;

    /// Splits an address of which bits 0 to 11 are the register, and function, slot and bus follow
    /// (PCI Express 3.0 §7.2.2); `None` past bus 255.
    pub fn from_ecam(offset: u64) -> Option<Self> {
        let field = |shift: u32, mask: u64| u8::try_from(offset >> shift & mask).ok();
        Some(Self {
            bus: u8::try_from(offset >> 20).ok()?,
            slot: field(15, 0x1f)?,
            function: field(12, 0x7)?,
            register: u16::try_from(offset & 0xfff).ok()?,
        })
    }
}

#[cfg(test)]
mod tests;
