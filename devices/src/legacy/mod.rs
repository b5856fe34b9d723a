//! The few PC devices that a kernel expects at fixed ports.

mod acpi_pm;
mod i8042;
mod pvpanic;
mod rtc;
mod serial;
mod vmgenid;

pub use acpi_pm::AcpiPm;
pub use i8042::I8042;
pub use pvpanic::Pvpanic;
pub use rtc::{Rtc, RtcState};
pub use serial::{SerialPort, SerialPortState};
pub use vmgenid::VmGenId;

/// What a guest asks of its whole machine.
///
/// Called on the vCPU thread whose access it was, possibly several times and on several threads;
/// must not block.
pub trait MachineEvents: Send + Sync {
    /// The guest powered itself off.
    fn power_off(&self);

    /// The guest asked for a reset.
    fn reset(&self);

    /// The guest's kernel panicked. With `crash_loaded` it goes on into a crash kernel by itself.
    fn panicked(&self, crash_loaded: bool);
}

/// Splits an access of several bytes into one per port, as the ISA bus does for 8-bit devices.
fn each_port(offset: u64, data: &[u8], mut write: impl FnMut(u64, u8)) {
    for (port, &value) in (offset..).zip(data) {
        write(port, value);
    }
}

#[cfg(test)]
mod testing {
    use std::sync::Mutex;

    use super::MachineEvents;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Seen {
        PowerOff,
        Reset,
        Panicked { crash_loaded: bool },
    }

    #[derive(Default)]
    pub(super) struct SeenEvents(Mutex<Vec<Seen>>);

    impl SeenEvents {
        pub(super) fn take(&self) -> Vec<Seen> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl MachineEvents for SeenEvents {
        fn power_off(&self) {
            self.0.lock().unwrap().push(Seen::PowerOff);
        }

        fn reset(&self) {
            self.0.lock().unwrap().push(Seen::Reset);
        }

        fn panicked(&self, crash_loaded: bool) {
            self.0.lock().unwrap().push(Seen::Panicked { crash_loaded });
        }
    }
}
