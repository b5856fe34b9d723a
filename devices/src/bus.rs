//! An address space (port I/O or MMIO) that routes guest accesses to devices.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A device that answers accesses to one range of a [`Bus`].
///
/// Called on the vCPU thread that made the access. Several vCPUs may call at once, so a device
/// keeps its state behind a lock of its own.
pub trait BusDevice: Send + Sync {
    /// Reads `data.len()` (1 to 8) bytes at `offset` from the start of the device's range.
    ///
    /// Bytes that the device doesn't define are left as they are: the bus passes all ones.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes `data` (1 to 8 bytes) at `offset` from the start of the device's range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a range can't be put on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is empty or its end overflows.
    #[error("the range of {size:#x} bytes at {base:#x} is empty or passes the end of the bus")]
    InvalidRange {
        /// First address.
        base: u64,
        /// Length in bytes.
        size: u64,
    },
    /// The range shares addresses with a device that is there already.
    #[error("the range of {size:#x} bytes at {base:#x} overlaps a device at {other:#x}")]
    Overlap {
        /// First address of the refused range.
        base: u64,
        /// Length in bytes of the refused range.
        size: u64,
        /// First address of the device in the way.
        other: u64,
    },
}

struct Slot {
    size: u64,
    device: Arc<dyn BusDevice>,
}

/// Routes accesses by address. Ranges may come and go while the guest runs (PCI BARs move).
#[derive(Default)]
pub struct Bus {
    slots: RwLock<BTreeMap<u64, Slot>>,
}

impl Bus {
    /// Creates a bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `base..base + size`.
    ///
    /// # Errors
    /// [`BusError`] when the range is empty, overflows, or overlaps another device's.
    pub fn insert(&self, base: u64, size: u64, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        let last = size
            .checked_sub(1)
            .and_then(|n| base.checked_add(n))
            .ok_or(BusError::InvalidRange { base, size })?;
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((&other, slot)) = slots.range(..=last).next_back()
            && other.saturating_add(slot.size) > base
        {
            return Err(BusError::Overlap { base, size, other });
        }
        slots.insert(base, Slot { size, device });
        Ok(())
    }

    /// Takes the device whose range starts at `base` off the bus and returns it.
    pub fn remove(&self, base: u64) -> Option<Arc<dyn BusDevice>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.remove(&base).map(|slot| slot.device)
    }

    /// Reads from the device at `address`; `data` becomes all ones where nothing answers.
    ///
    /// Returns whether a device was there.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        match self.lookup(address, data.len()) {
            Some((offset, device)) => {
                device.read(offset, data);
                true
            }
            None => false,
        }
    }

    /// Writes to the device at `address`; returns whether a device was there.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.lookup(address, data.len()) {
            Some((offset, device)) => {
                device.write(offset, data);
                true
            }
            None => false,
        }
    }

    /// Finds who answers all of `len` bytes at `address`; an access across a range's end has no one.
    ///
    /// The lock is released before the device is called: a device may change the bus.
    fn lookup(&self, address: u64, len: usize) -> Option<(u64, Arc<dyn BusDevice>)> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let (base, slot) = slots.range(..=address).next_back()?;
        let offset = address.checked_sub(*base)?;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= slot.size).then(|| (offset, Arc::clone(&slot.device)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Probe(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Probe {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data[0] = u8::try_from(offset).unwrap();
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn access_reaches_the_device_with_its_offset() {
        let bus = Bus::new();
        let probe = Arc::new(Probe::default());
        bus.insert(0x100, 0x10, probe.clone()).unwrap();
        let mut data = [0; 2];
        assert!(bus.read(0x104, &mut data));
        assert_eq!(data, [4, 0xff]);
        assert!(bus.write(0x10f, &[7]));
        assert_eq!(*probe.0.lock().unwrap(), [(0xf, vec![7])]);
    }

    #[test]
    fn access_to_nothing_reads_ones() {
        let bus = Bus::new();
        bus.insert(0x100, 0x10, Arc::new(Probe::default())).unwrap();
        for address in [0, 0xff, 0x110, u64::MAX] {
            let mut data = [0];
            assert!(!bus.read(address, &mut data));
            assert_eq!(data, [0xff]);
            assert!(!bus.write(address, &[0]));
        }
    }

    #[test]
    fn access_across_the_end_of_a_range_reaches_no_one() {
        let bus = Bus::new();
        bus.insert(0x100, 0x10, Arc::new(Probe::default())).unwrap();
        assert!(!bus.read(0x10e, &mut [0; 4]));
    }

    #[test]
    fn overlapping_and_invalid_ranges_are_refused() {
        let bus = Bus::new();
        bus.insert(0x100, 0x10, Arc::new(Probe::default())).unwrap();
        for (base, size) in [(0x100, 1), (0x10f, 1), (0xf0, 0x11), (0, 0x1000)] {
            let refused = bus.insert(base, size, Arc::new(Probe::default()));
            assert_eq!(refused, Err(BusError::Overlap { base, size, other: 0x100 }));
        }
        for (base, size) in [(0x200, 0), (u64::MAX, 2)] {
            let refused = bus.insert(base, size, Arc::new(Probe::default()));
            assert_eq!(refused, Err(BusError::InvalidRange { base, size }));
        }
        bus.insert(0x110, 1, Arc::new(Probe::default())).unwrap();
        bus.insert(0xff, 1, Arc::new(Probe::default())).unwrap();
        bus.insert(u64::MAX, 1, Arc::new(Probe::default())).unwrap();
    }

    #[test]
    fn removed_range_is_free_again() {
        let bus = Bus::new();
        bus.insert(0x100, 0x10, Arc::new(Probe::default())).unwrap();
        assert!(bus.remove(0x100).is_some());
        assert!(bus.remove(0x100).is_none());
        assert!(!bus.read(0x100, &mut [0]));
        bus.insert(0x108, 0x10, Arc::new(Probe::default())).unwrap();
    }
}
