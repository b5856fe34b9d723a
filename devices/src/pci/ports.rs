//! Configuration space through two I/O ports: Linux looks there first (§3.2.2.3.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{ConfigAddress, PciBus};
use crate::bus::BusDevice;
use crate::bytes;

/// CONFIG_ADDRESS: the data port is connected.
const ENABLE: u32 = 1 << 31;

/// CONFIG_ADDRESS bits that exist: enable, bus, slot, function and the double word.
const IMPLEMENTED: u32 = ENABLE | 0x00ff_fffc;

/// Where the data port begins in the range.
const DATA: u64 = 4;

/// CONFIG_ADDRESS and CONFIG_DATA, configuration mechanism 1.
///
/// Address and data are two accesses: guests serialise them, as on any machine.
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    address: AtomicU32,
}

impl ConfigPorts {
    /// The first port.
    pub const BASE: u64 = 0xcf8;

    /// How many ports there are.
    pub const SIZE: u64 = 8;

    /// Creates the ports in front of `bus`.
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self { bus, address: AtomicU32::new(0) }
    }

    /// Returns CONFIG_ADDRESS: a snapshot may fall between a guest's two accesses.
    pub fn save(&self) -> u32 {
        self.address.load(Ordering::Acquire)
    }

    /// Sets CONFIG_ADDRESS to what [`save`](Self::save) returned, of which bits that don't exist
    /// count for nothing.
    pub fn restore(&self, address: u32) {
        self.address.store(address & IMPLEMENTED, Ordering::Release);
    }

    /// Returns what an access to the data port at `offset` means.
    fn target(&self, offset: u64, len: usize) -> Option<ConfigAddress> {
        let address = self.address.load(Ordering::Acquire);
        let byte = offset.checked_sub(DATA)?;
        let end = byte.checked_add(u64::try_from(len).ok()?)?;
        if address & ENABLE == 0 || end > 4 {
            return None;
        }
        let [register, function, bus, _] = address.to_le_bytes();
        Some(ConfigAddress {
            bus,
            slot: function >> 3,
            function: function & 0x7,
            register: u16::from(register).checked_add(u16::try_from(byte).ok()?)?,
        })
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(address) = self.target(offset, data.len()) {
            self.bus.read_config(address, data);
        } else if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.load(Ordering::Acquire).to_le_bytes());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(address) = self.target(offset, data.len()) {
            self.bus.write_config(address, data);
        } else if offset == 0
            && let Some(address) = bytes::value_u32(data)
        {
            // Only a double word counts: narrower accesses are other devices' (§3.2.2.3.2).
            self.restore(address);
        }
    }
}
