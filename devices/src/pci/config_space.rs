//! The 256 bytes that say what a function is, and what of them software may write.

use serde::{Deserialize, Serialize};

use super::PciError;
use crate::bytes;
use crate::state::RestoreError;

/// Offsets in a type 0 header (§6.1).
mod offset {
    pub(super) const COMMAND: u16 = 0x04;
    pub(super) const STATUS: u16 = 0x06;
    pub(super) const REVISION: u16 = 0x08;
    pub(super) const CACHE_LINE_SIZE: u16 = 0x0c;
    pub(super) const BARS: u16 = 0x10;
    pub(super) const SUBSYSTEM: u16 = 0x2c;
    pub(super) const CAPABILITIES: u16 = 0x34;
    pub(super) const INTERRUPT_LINE: u16 = 0x3c;
    pub(super) const FIRST_CAPABILITY: u16 = 0x40;
}

/// Command: the function decodes accesses to its memory BARs.
const COMMAND_MEMORY: u16 = 1 << 1;

/// Command bits that software may write: memory decoding, bus mastering, INTx off. There are no
/// I/O BARs, so that I/O decoding can't be turned on (§6.2.2).
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 10;

/// Status: there is a capability list.
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// BAR: memory, anywhere in 64 bits, not prefetchable (§6.2.5.1).
const BAR_MEMORY_64: u32 = 0b100;

/// The smallest BAR, so that no two share a page.
const MIN_BAR_SIZE: u64 = 4096;

const SIZE: usize = 256;

/// What a function is and who made it.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor of the function.
    pub vendor: u16,
    /// Device number, the vendor's own.
    pub device: u16,
    /// Revision of the device.
    pub revision: u8,
    /// Class, subclass and programming interface, 8 bits each.
    pub class: u32,
    /// Vendor of the card.
    pub subsystem_vendor: u16,
    /// Number of the card, its vendor's own.
    pub subsystem: u16,
}

/// The bytes of a saved header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSpaceState(Vec<u8>);

/// A type 0 header with memory BARs and capabilities, without extended space and without INTx.
#[derive(Clone)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// Which bits of `bytes` software may write.
    writable: [u8; SIZE],
    /// Where the pointer to the next capability goes.
    link: u16,
    /// The first byte without a meaning.
    end: u16,
}

impl ConfigSpace {
    /// Creates the header of a function without BARs or capabilities.
    pub fn new(identity: &Identity) -> Self {
        let mut config = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            link: offset::CAPABILITIES,
            end: offset::FIRST_CAPABILITY,
        };
        config.set(0, &identity.vendor.to_le_bytes());
        config.set(2, &identity.device.to_le_bytes());
        let class = identity.class << 8 | u32::from(identity.revision);
        config.set(offset::REVISION, &class.to_le_bytes());
        config.set(offset::SUBSYSTEM, &identity.subsystem_vendor.to_le_bytes());
        config.set(offset::SUBSYSTEM.saturating_add(2), &identity.subsystem.to_le_bytes());
        config.allow(offset::COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        config.allow(offset::CACHE_LINE_SIZE, &[0xff]);
        config.allow(offset::INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Adds a 64-bit memory BAR: `index` 0, 2 or 4, `size` bytes at guest-physical `base`.
    ///
    /// # Errors
    /// [`PciError::InvalidBar`].
    pub fn add_bar(&mut self, index: u8, size: u64, base: u64) -> Result<(), PciError> {
        let error = PciError::InvalidBar { index, size, base };
        let valid = matches!(index, 0 | 2 | 4)
            && size.is_power_of_two()
            && size >= MIN_BAR_SIZE
            && base.is_multiple_of(size)
            && base.checked_add(size).is_some();
        if !valid {
            return Err(error);
        }
        let at = bar_offset(index);
        // The type bits lie below the smallest size.
        self.set(at, &(base | u64::from(BAR_MEMORY_64)).to_le_bytes());
        self.allow(at, &size.wrapping_neg().to_le_bytes());
        Ok(())
    }

    /// Returns where BAR `index` shall be on the bus: nowhere while memory decoding is off, and
    /// while an address half is all ones (software asks for the size) or the address is 0
    /// (software hasn't chosen one).
    pub fn bar_window(&self, index: u8) -> Option<u64> {
        let at = bar_offset(index);
        let mut mask = [0; 8];
        bytes::read_at(&self.writable, u64::from(at), &mut mask);
        let mask = u64::from_le_bytes(mask);
        let base = u64::from_le_bytes(self.get(at)) & mask;
        let half_is_probed = |half: u64| mask & half != 0 && base & half == mask & half;
        let probed = half_is_probed(u64::from(u32::MAX)) || half_is_probed(!u64::from(u32::MAX));
        let decoded = self.command() & COMMAND_MEMORY != 0;
        (decoded && base != 0 && !probed).then_some(base)
    }

    /// Appends capability `id` with `body` after its two bytes of header; software may write the
    /// bits that `writable` has set. Returns the capability's offset.
    ///
    /// # Errors
    /// [`PciError::NoRoom`].
    pub fn add_capability(
        &mut self,
        id: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Result<u16, PciError> {
        let at = self.end.next_multiple_of(4);
        let body_at = at.saturating_add(2);
        let end = usize::from(body_at).saturating_add(body.len());
        let (Ok(pointer), true) = (u8::try_from(at), end <= SIZE) else {
            return Err(PciError::NoRoom(id));
        };
        self.set(at, &[id, 0]);
        self.set(body_at, body);
        self.allow(body_at, writable);
        let status = STATUS_CAPABILITIES.to_le_bytes();
        self.set(offset::STATUS, &status);
        self.set(self.link, &[pointer]);
        self.link = at.saturating_add(1);
        self.end = u16::try_from(end).unwrap_or(u16::MAX);
        Ok(at)
    }

    /// Reads at `offset`; bytes past the end stay as they are.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        bytes::read_at(&self.bytes, u64::from(offset), data);
    }

    /// Writes what software may write at `offset`.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let places = self.bytes.iter_mut().zip(&self.writable).skip(usize::from(offset));
        for ((byte, mask), value) in places.zip(data) {
            *byte = *byte & !mask | value & mask;
        }
    }

    /// Returns the whole header, for [`restore`](Self::restore).
    pub fn save(&self) -> ConfigSpaceState {
        ConfigSpaceState(self.bytes.to_vec())
    }

    /// Takes over what software wrote into the header that `state` was saved of. What it can't
    /// write stays as it is.
    ///
    /// # Errors
    /// [`RestoreError`] when the state isn't one of such a function; nothing is changed then.
    pub fn restore(&mut self, state: &ConfigSpaceState) -> Result<(), RestoreError> {
        let ConfigSpaceState(saved) = state;
        RestoreError::expect("configuration space of size", saved.len(), SIZE)?;
        let identity = |bytes: &[u8]| {
            let mut id = [0; 4];
            bytes::read_at(bytes, 0, &mut id);
            format!("{:#010x}", u32::from_le_bytes(id))
        };
        RestoreError::expect("PCI device and vendor", identity(saved), identity(&self.bytes))?;
        self.write(0, saved);
        Ok(())
    }

    /// Returns `N` bytes at `offset`; zeroes past the end.
    pub fn get<const N: usize>(&self, offset: u16) -> [u8; N] {
        let mut data = [0; N];
        self.read(offset, &mut data);
        data
    }

    /// Sets bytes for software to read, whether it may write them or not.
    pub fn set(&mut self, offset: u16, data: &[u8]) {
        bytes::write_at(&mut self.bytes, usize::from(offset), data);
    }

    fn allow(&mut self, offset: u16, mask: &[u8]) {
        bytes::write_at(&mut self.writable, usize::from(offset), mask);
    }

    fn command(&self) -> u16 {
        u16::from_le_bytes(self.get(offset::COMMAND))
    }
}

fn bar_offset(index: u8) -> u16 {
    u16::from(index).saturating_mul(4).saturating_add(offset::BARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: 0x01_80_00,
        subsystem_vendor: 0x1af4,
        subsystem: 0x42,
    };

    fn config() -> ConfigSpace {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.add_bar(0, 0x8000, 0x4_0001_0000).unwrap();
        config
    }

    fn read(config: &ConfigSpace, offset: u16) -> u32 {
        u32::from_le_bytes(config.get(offset))
    }

    #[test]
    fn header_shows_who_it_is_and_ignores_writes_to_that() {
        let mut config = config();
        for offset in (0..0x40).step_by(4) {
            if !(0x10..0x18).contains(&offset) {
                config.write(offset, &[0xff; 4]);
            }
        }
        assert_eq!(read(&config, 0x00), 0x1042_1af4);
        assert_eq!(read(&config, 0x04), 0x0000_0406, "memory, bus master, INTx off");
        assert_eq!(read(&config, 0x08), 0x0180_0001);
        assert_eq!(read(&config, 0x0c), 0x0000_00ff, "type 0 header, one function");
        assert_eq!(read(&config, 0x2c), 0x0042_1af4);
        assert_eq!(read(&config, 0x30), 0, "no ROM");
        assert_eq!(read(&config, 0x3c), 0x0000_00ff, "no interrupt pin");
    }

    #[test]
    fn bar_shows_its_size_when_probed_and_keeps_its_type() {
        let mut config = config();
        assert_eq!((read(&config, 0x10), read(&config, 0x14)), (0x0001_0004, 4));
        config.write(0x10, &[0xff; 8]);
        assert_eq!((read(&config, 0x10), read(&config, 0x14)), (0xffff_8004, 0xffff_ffff));
        config.write(0x18, &[0xff; 8]);
        assert_eq!((read(&config, 0x18), read(&config, 0x1c)), (0, 0), "not implemented");
    }

    #[test]
    fn bar_is_nowhere_while_off_probed_or_unset() {
        let mut config = config();
        assert_eq!(config.bar_window(0), None);
        config.write(0x04, &[2]);
        assert_eq!(config.bar_window(0), Some(0x4_0001_0000));
        config.write(0x10, &[0xff; 4]);
        assert_eq!(config.bar_window(0), None);
        config.write(0x10, &0x0002_0000u32.to_le_bytes());
        config.write(0x14, &[0xff; 4]);
        assert_eq!(config.bar_window(0), None);
        config.write(0x14, &[0; 4]);
        assert_eq!(config.bar_window(0), Some(0x2_0000));
        config.write(0x10, &[0; 4]);
        assert_eq!(config.bar_window(0), None);
        assert_eq!(config.bar_window(2), None);
        assert_eq!(config.bar_window(255), None);
    }

    #[test]
    fn bar_larger_than_its_low_half_is_mapped_too() {
        let mut config = config();
        config.add_bar(2, 1 << 33, 1 << 34).unwrap();
        config.write(0x04, &[2]);
        assert_eq!(config.bar_window(2), Some(1 << 34));
        config.write(0x18, &[0xff; 8]);
        assert_eq!(config.bar_window(2), None);
    }

    #[test]
    fn impossible_bars_are_refused() {
        let mut config = config();
        for (index, size, base) in [
            (1, 0x1000, 0),
            (6, 0x1000, 0),
            (2, 0, 0),
            (2, 0x800, 0),
            (2, 0x3000, 0),
            (2, 0x2000, 0x1000),
            (2, 0x1000, 0u64.wrapping_sub(0x1000)),
        ] {
            let error = PciError::InvalidBar { index, size, base };
            assert_eq!(config.add_bar(index, size, base), Err(error));
        }
    }

    #[test]
    fn capabilities_are_linked_and_stop_where_the_space_does() {
        let mut config = config();
        assert_eq!(config.add_capability(9, &[1; 3], &[0, 0xff]), Ok(0x40));
        assert_eq!(config.add_capability(0x11, &[2; 10], &[]), Ok(0x48));
        assert_eq!(read(&config, 0x34), 0x40);
        assert_eq!(config.get(0x40), [9, 0x48, 1, 1, 1]);
        assert_eq!(config.get(0x48), [0x11, 0, 2, 2]);
        assert_eq!(read(&config, 0x04) >> 16, u32::from(STATUS_CAPABILITIES));
        config.write(0x40, &[0xaa; 5]);
        assert_eq!(config.get(0x40), [9, 0x48, 1, 0xaa, 1]);

        assert_eq!(config.add_capability(9, &[0; 0xaa], &[]), Ok(0x54));
        assert_eq!(config.add_capability(9, &[0], &[]), Err(PciError::NoRoom(9)));
    }

    #[test]
    fn accesses_past_the_end_read_nothing_and_write_nothing() {
        let mut config = config();
        for offset in [0x100, 0xfff, u16::MAX] {
            let mut data = [0xff; 8];
            config.read(offset, &mut data);
            assert_eq!(data, [0xff; 8]);
            config.write(offset, &[0; 8]);
        }
        let mut data = [0xff; 8];
        config.read(0xfc, &mut data);
        assert_eq!(data, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    }
}
