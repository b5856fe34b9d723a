//! The port through which a guest's kernel says that it panicked (QEMU's `pvpanic` interface).

use std::sync::Arc;

use super::{MachineEvents, each_port};
use crate::bus::BusDevice;

/// The kernel panicked and stays down.
const PANICKED: u8 = 1 << 0;
/// The kernel panicked and a crash kernel takes over.
const CRASH_LOADED: u8 = 1 << 1;
/// The guest is done and wants to be switched off.
const SHUTDOWN: u8 = 1 << 2;

/// A pvpanic device of one port: reads give the events that it supports, writes report one.
pub struct Pvpanic(Arc<dyn MachineEvents>);

impl Pvpanic {
    /// Number of ports.
    pub const SIZE: u64 = 1;

    /// Creates a device that reports to `events`.
    pub fn new(events: Arc<dyn MachineEvents>) -> Self {
        Self(events)
    }

    /// The gravest of the reported events decides; unknown bits are ignored.
    fn report(&self, reported: u8) {
        if reported & PANICKED != 0 {
            self.0.panicked(false);
        } else if reported & CRASH_LOADED != 0 {
            self.0.panicked(true);
        } else if reported & SHUTDOWN != 0 {
            self.0.power_off();
        }
    }
}

impl BusDevice for Pvpanic {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        if let Some(supported) = data.first_mut() {
            *supported = PANICKED | CRASH_LOADED | SHUTDOWN;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        each_port(offset, data, |port, value| {
            if port == 0 {
                self.report(value);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Seen, SeenEvents};
    use super::*;

    #[test]
    fn every_supported_event_is_reported_and_nothing_else() {
        let events = Arc::new(SeenEvents::default());
        let device = Pvpanic::new(events.clone());
        let mut supported = [0xff];
        device.read(0, &mut supported);
        assert_eq!(supported, [7]);
        for (written, seen) in [
            (0x01, vec![Seen::Panicked { crash_loaded: false }]),
            (0x02, vec![Seen::Panicked { crash_loaded: true }]),
            (0x03, vec![Seen::Panicked { crash_loaded: false }]),
            (0x04, vec![Seen::PowerOff]),
            (0x00, vec![]),
            (0xf8, vec![]),
        ] {
            device.write(0, &[written]);
            assert_eq!(events.take(), seen, "{written:#x}");
        }
    }
}
