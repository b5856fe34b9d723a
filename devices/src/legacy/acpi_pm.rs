//! The registers of hardware-reduced ACPI: sleep control, sleep status and reset.

use std::sync::Arc;

use super::{MachineEvents, each_port};
use crate::bus::BusDevice;

/// Sleep control register (ACPI 6.5 §4.8.3.7): SLP_TYP in bits 4:2, SLP_EN in bit 5.
const SLEEP_CONTROL: u64 = 0;
const SLEEP_TYPE_MASK: u8 = 0b111 << 2;
const SLEEP_ENABLE: u8 = 1 << 5;
/// Reset register (ACPI 6.5 §4.8.3.6). The sleep status register between them is always 0: a
/// machine that has no state to wake from never wakes.
const RESET: u64 = 2;

/// Sleep control (+0), sleep status (+1) and reset (+2) registers, a byte each.
///
/// The only sleep state is S5, soft off. The power button isn't here: the ACPI tables give it an
/// interrupt of its own (a generic event device), which whoever presses it raises.
pub struct AcpiPm(Arc<dyn MachineEvents>);

impl AcpiPm {
    /// Number of ports.
    pub const SIZE: u64 = 3;
    /// Sleep type that powers off, for the DSDT's `\_S5` package.
    pub const S5_SLEEP_TYPE: u8 = 5;
    /// The value that resets, for the FADT's `RESET_VALUE`.
    pub const RESET_VALUE: u8 = 1;

    /// Creates registers that report to `events`.
    pub fn new(events: Arc<dyn MachineEvents>) -> Self {
        Self(events)
    }

    fn sleep(&self, value: u8) {
        if value & SLEEP_ENABLE == 0 {
            return;
        }
        if value & SLEEP_TYPE_MASK == Self::S5_SLEEP_TYPE << 2 {
            self.0.power_off();
        } else {
            log::debug!("the guest asks for a sleep state that its ACPI tables don't list");
        }
    }
}

impl BusDevice for AcpiPm {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        // Sleep control's defined bits are write-only or read as zero, and so is the reset register.
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        each_port(offset, data, |register, value| match register {
            SLEEP_CONTROL => self.sleep(value),
            RESET if value == Self::RESET_VALUE => self.0.reset(),
            _ => {}
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Seen, SeenEvents};
    use super::*;

    #[test]
    fn only_sleep_type_5_with_sleep_enable_powers_off() {
        let events = Arc::new(SeenEvents::default());
        let device = AcpiPm::new(events.clone());
        for value in 0..=u8::MAX {
            device.write(0, &[value]);
            let off = value & 0x3c == 0x34;
            assert_eq!(
                events.take(),
                if off { vec![Seen::PowerOff] } else { vec![] },
                "{value:#x}"
            );
        }
    }

    #[test]
    fn only_the_reset_value_in_the_reset_register_resets() {
        let events = Arc::new(SeenEvents::default());
        let device = AcpiPm::new(events.clone());
        for value in [0, 2, 0xff] {
            device.write(2, &[value]);
        }
        device.write(1, &[AcpiPm::RESET_VALUE]);
        assert_eq!(events.take(), []);
        device.write(2, &[AcpiPm::RESET_VALUE]);
        assert_eq!(events.take(), [Seen::Reset]);
    }

    #[test]
    fn status_reads_as_not_woken_whatever_is_written() {
        let device = AcpiPm::new(Arc::new(SeenEvents::default()));
        device.write(1, &[0xff]);
        let mut registers = [0xff; 3];
        device.read(0, &mut registers);
        assert_eq!(registers, [0; 3]);
    }
}
