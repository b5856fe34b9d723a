//! Configuration space as memory (PCI Express 3.0 §7.2.2).

use std::sync::Arc;

use super::{ConfigAddress, PciBus};
use crate::bus::BusDevice;

/// The memory window over the configuration space of bus 0.
pub struct Ecam {
    bus: Arc<PciBus>,
}

impl Ecam {
    /// The size of the window in bytes: 4 KiB for each of 8 functions of 32 devices.
    pub const SIZE: u64 = 1 << 20;

    /// Creates the window over `bus`.
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self { bus }
    }
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(address) = ConfigAddress::from_ecam(offset) {
            self.bus.read_config(address, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(address) = ConfigAddress::from_ecam(offset) {
            self.bus.write_config(address, data);
        }
    }
}
