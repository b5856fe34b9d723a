//! The function at 00:00.0 that says "this is a PCI bus".

use std::sync::{Mutex, PoisonError};

use super::PciFunction;
use super::config_space::{ConfigSpace, Identity};

/// Red Hat's generic host bridge: an identity for which no guest has a driver or a quirk.
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_00_00,
    subsystem_vendor: 0,
    subsystem: 0,
};

/// A host bridge without registers of its own.
pub struct HostBridge {
    config: Mutex<ConfigSpace>,
}

impl HostBridge {
    /// Creates a host bridge.
    pub fn new() -> Self {
        Self { config: Mutex::new(ConfigSpace::new(&IDENTITY)) }
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
    }
}
