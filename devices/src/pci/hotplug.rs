//! Announces functions that come and go: registers that the machine's own AML reads and writes.
//!
//! | offset | register | access |
//! | --- | --- | --- |
//! | 0 | slots to look at: a function came | read, which clears it |
//! | 4 | slots to give up: a function is to go | read, which clears it |
//! | 8 | slots given up (`_EJ0`, ACPI 6.5 §6.3.3) | write |
//!
//! Each is 32 bits wide with one bit per slot. After a change of the first two an interrupt is
//! raised; the generic event device's AML then reads both and notifies the slots' devices (ACPI 6.5
//! Table 5.162: 1 device check, 3 eject request). A guest that doesn't listen yet loses nothing:
//! it finds new functions as it starts, and requests to go can be repeated.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{PciError, SLOTS};
use crate::bus::BusDevice;
use crate::bytes;
use crate::interrupt::InterruptLine;

/// Offsets of the registers.
mod register {
    pub(super) const CAME: u64 = 0;
    pub(super) const TO_GO: u64 = 4;
    pub(super) const EJECT: u64 = 8;
}

/// Learns what the guest has given up.
pub trait EjectListener: Send + Sync {
    /// The guest doesn't use the function in `slot` any more, as it was asked: the function can be
    /// removed.
    ///
    /// Called on the vCPU thread whose access it was; must not block.
    fn ejected(&self, slot: u8);
}

/// What the guest hasn't seen or done yet, with one bit per slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PciHotplugState {
    /// A function came, and the guest hasn't been told.
    pub came: u32,
    /// A function is to go, and the guest hasn't been told.
    pub to_go: u32,
    /// A function is to go, and the guest hasn't given it up.
    pub awaited: u32,
}

/// The hot-plug registers of one bus.
pub struct PciHotplug {
    line: Arc<dyn InterruptLine>,
    listener: Arc<dyn EjectListener>,
    state: Mutex<PciHotplugState>,
}

impl PciHotplug {
    /// Length of the registers in bytes.
    pub const SIZE: u64 = 12;

    /// Creates registers that interrupt by `line` and tell `listener` what the guest gives up.
    pub fn new(line: Arc<dyn InterruptLine>, listener: Arc<dyn EjectListener>) -> Self {
        Self { line, listener, state: Mutex::default() }
    }

    /// Has the guest look at `slot`, where a function was inserted. May be called from any thread.
    ///
    /// # Errors
    /// [`PciError::NoSuchSlot`]; nothing can come into slot 0, the host bridge's.
    pub fn request_plug(&self, slot: u8) -> Result<(), PciError> {
        let bit = slot_bit(slot)?;
        {
            let mut state = self.state();
            state.came |= bit;
            // Whatever was asked of the slot before was about another function.
            state.to_go &= !bit;
            state.awaited &= !bit;
        }
        self.line.trigger();
        Ok(())
    }

    /// Asks the guest to give up the function in `slot`; the listener hears when it has. A guest
    /// may never do it. Asking again tells it again. May be called from any thread.
    ///
    /// # Errors
    /// [`PciError::NoSuchSlot`]; the host bridge in slot 0 can't go.
    pub fn request_unplug(&self, slot: u8) -> Result<(), PciError> {
        let bit = slot_bit(slot)?;
        {
            let mut state = self.state();
            state.to_go |= bit;
            state.awaited |= bit;
        }
        self.line.trigger();
        Ok(())
    }

    /// Returns what has to survive a snapshot.
    pub fn save(&self) -> PciHotplugState {
        *self.state()
    }

    /// Takes up where [`save`](Self::save) left off, and tells the guest again what it may not have
    /// heard. Bits of slots that can't be hot-plugged are dropped.
    pub fn restore(&self, saved: PciHotplugState) {
        let PciHotplugState { came, to_go, awaited } = saved;
        *self.state() = PciHotplugState {
            came: came & HOTPLUG_SLOTS,
            to_go: to_go & HOTPLUG_SLOTS,
            awaited: awaited & HOTPLUG_SLOTS,
        };
        self.line.trigger();
    }

    /// Takes the guest's word that it has given up `slots`. Only what was asked for counts: a guest
    /// that switches a slot off by itself finds its function again when it switches it on.
    fn eject(&self, slots: u32) {
        let given_up = {
            let mut state = self.state();
            let given_up = slots & state.awaited;
            state.awaited &= !given_up;
            state.to_go &= !given_up;
            given_up
        };
        for slot in (0..SLOTS).filter(|slot| given_up & bit(*slot) != 0) {
            self.listener.ejected(slot);
        }
    }

    fn state(&self) -> MutexGuard<'_, PciHotplugState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for PciHotplug {
    /// Reads a register as a whole; other accesses read as zero and change nothing.
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if data.len() != 4 {
            return;
        }
        let mut state = self.state();
        let slots = match offset {
            register::CAME => std::mem::take(&mut state.came),
            register::TO_GO => std::mem::take(&mut state.to_go),
            _ => return,
        };
        bytes::write_at(data, 0, &slots.to_le_bytes());
    }

    /// Writes a register as a whole; other accesses do nothing.
    fn write(&self, offset: u64, data: &[u8]) {
        if offset == register::EJECT
            && let Some(slots) = bytes::value_u32(data)
        {
            self.eject(slots);
        }
    }
}

/// All slots but the host bridge's.
const HOTPLUG_SLOTS: u32 = !1;

fn bit(slot: u8) -> u32 {
    1_u32.checked_shl(slot.into()).unwrap_or_default()
}

fn slot_bit(slot: u8) -> Result<u32, PciError> {
    match bit(slot) & HOTPLUG_SLOTS {
        0 => Err(PciError::NoSuchSlot(slot)),
        bit => Ok(bit),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Machine {
        interrupts: AtomicU32,
        ejected: Mutex<Vec<u8>>,
    }

    impl InterruptLine for Machine {
        fn trigger(&self) {
            self.interrupts.fetch_add(1, Ordering::AcqRel);
        }
    }

    impl EjectListener for Machine {
        fn ejected(&self, slot: u8) {
            self.ejected.lock().unwrap().push(slot);
        }
    }

    impl Machine {
        fn take_interrupts(&self) -> u32 {
            self.interrupts.swap(0, Ordering::AcqRel)
        }

        fn take_ejected(&self) -> Vec<u8> {
            std::mem::take(&mut self.ejected.lock().unwrap())
        }
    }

    fn hotplug() -> (PciHotplug, Arc<Machine>) {
        let machine = Arc::new(Machine::default());
        (PciHotplug::new(machine.clone(), machine.clone()), machine)
    }

    fn read(hotplug: &PciHotplug, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        hotplug.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn eject(hotplug: &PciHotplug, slots: u32) {
        hotplug.write(register::EJECT, &slots.to_le_bytes());
    }

    #[test]
    fn plugged_slots_interrupt_and_are_told_once() {
        let (hotplug, machine) = hotplug();
        for slot in [1, 31] {
            hotplug.request_plug(slot).unwrap();
            assert_eq!(machine.take_interrupts(), 1);
        }
        assert_eq!(read(&hotplug, register::TO_GO), 0);
        assert_eq!(read(&hotplug, register::CAME), 1 << 31 | 1 << 1);
        assert_eq!(read(&hotplug, register::CAME), 0);
    }

    #[test]
    fn unplug_ends_with_the_guests_eject() {
        let (hotplug, machine) = hotplug();
        hotplug.request_unplug(5).unwrap();
        assert_eq!(machine.take_interrupts(), 1);
        assert_eq!(read(&hotplug, register::TO_GO), 1 << 5);
        assert_eq!(read(&hotplug, register::TO_GO), 0);
        assert!(machine.take_ejected().is_empty());
        eject(&hotplug, 1 << 5);
        assert_eq!(machine.take_ejected(), [5]);
        eject(&hotplug, 1 << 5);
        assert!(machine.take_ejected().is_empty(), "given up twice");
        assert_eq!(hotplug.save(), PciHotplugState::default());
    }

    #[test]
    fn guest_is_asked_again_as_long_as_it_has_not_given_up() {
        let (hotplug, machine) = hotplug();
        for _ in 0..3 {
            hotplug.request_unplug(2).unwrap();
            assert_eq!((machine.take_interrupts(), read(&hotplug, register::TO_GO)), (1, 1 << 2));
        }
    }

    #[test]
    fn only_what_was_asked_for_can_be_given_up() {
        let (hotplug, machine) = hotplug();
        hotplug.request_unplug(3).unwrap();
        hotplug.request_unplug(4).unwrap();
        eject(&hotplug, !(1 << 4));
        assert_eq!(machine.take_ejected(), [3]);
        // Another function came meanwhile: the old request was not about it.
        hotplug.request_plug(4).unwrap();
        eject(&hotplug, u32::MAX);
        assert!(machine.take_ejected().is_empty());
        assert_eq!((read(&hotplug, register::CAME), read(&hotplug, register::TO_GO)), (1 << 4, 0));
    }

    #[test]
    fn slots_that_do_not_exist_or_hold_the_bridge_are_refused() {
        let (hotplug, machine) = hotplug();
        for slot in [0, 32, 33, 64, 255] {
            assert_eq!(hotplug.request_plug(slot), Err(PciError::NoSuchSlot(slot)));
            assert_eq!(hotplug.request_unplug(slot), Err(PciError::NoSuchSlot(slot)));
        }
        assert_eq!((machine.take_interrupts(), hotplug.save()), (0, PciHotplugState::default()));
    }

    #[test]
    fn accesses_of_other_widths_and_places_change_nothing() {
        let (hotplug, machine) = hotplug();
        hotplug.request_plug(1).unwrap();
        hotplug.request_unplug(1).unwrap();
        let before = hotplug.save();
        for (offset, width) in
            [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (4, 1), (8, 4), (11, 1), (12, 4), (!0, 4)]
        {
            let mut data = vec![0xff; width];
            hotplug.read(offset, &mut data);
            assert_eq!(data, vec![0; width], "{width} bytes at {offset}");
        }
        for (offset, width) in [(0, 4), (4, 4), (8, 1), (8, 2), (8, 8), (9, 4), (!0, 4)] {
            hotplug.write(offset, &vec![0xff; width]);
        }
        assert_eq!((hotplug.save(), machine.take_ejected()), (before, vec![]));
    }

    #[test]
    fn restored_registers_go_on_and_tell_again() {
        let (hotplug, _) = self::hotplug();
        hotplug.request_plug(1).unwrap();
        hotplug.request_unplug(2).unwrap();
        let (restored, machine) = self::hotplug();
        restored.restore(hotplug.save());
        assert_eq!(machine.take_interrupts(), 1);
        assert_eq!(
            (read(&restored, register::CAME), read(&restored, register::TO_GO)),
            (1 << 1, 1 << 2)
        );
        eject(&restored, 1 << 2);
        assert_eq!(machine.take_ejected(), [2]);
    }

    #[test]
    fn restored_bits_of_the_host_bridge_are_dropped() {
        let (hotplug, machine) = hotplug();
        hotplug.restore(PciHotplugState { came: !0, to_go: !0, awaited: !0 });
        assert_eq!(read(&hotplug, register::CAME), !1);
        eject(&hotplug, u32::MAX);
        assert_eq!(machine.take_ejected(), (1..32).collect::<Vec<_>>());
    }
}
