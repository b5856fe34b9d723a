//! The one thing left of the PC's keyboard controller: its reset command.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::{I8042Device, Trigger};

use super::{MachineEvents, each_port};
use crate::bus::BusDevice;

/// Where vm-superio has the command register, counted from port 0x60.
const COMMAND_OFFSET: u8 = 4;

/// "Output buffer full", and never "input buffer full".
///
/// Linux waits for the input buffer before it writes the reset command: it needn't wait. A driver
/// that looks for a keyboard empties the output buffer first, can't, and concludes within a
/// millisecond that there's no controller; a zero here would cost it several timeouts.
const STATUS: u8 = 0x01;

/// An i8042 at its command and status port (0x64) alone, which resets the machine on command 0xfe.
///
/// The data port (0x60) needs no device: nothing there reads as all ones.
pub struct I8042(Mutex<I8042Device<ResetLine>>);

struct ResetLine(Arc<dyn MachineEvents>);

impl Trigger for ResetLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.reset();
        Ok(())
    }
}

impl I8042 {
    /// Number of ports.
    pub const SIZE: u64 = 1;

    /// Creates a controller whose reset command goes to `events`.
    pub fn new(events: Arc<dyn MachineEvents>) -> Self {
        Self(Mutex::new(I8042Device::new(ResetLine(events))))
    }
}

impl BusDevice for I8042 {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        if let Some(status) = data.first_mut() {
            *status = STATUS;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut device = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        each_port(offset, data, |port, value| {
            if port == 0 {
                let Ok(()) = device.write(COMMAND_OFFSET, value);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Seen, SeenEvents};
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let events = Arc::new(SeenEvents::default());
        let device = I8042::new(events.clone());
        for command in 0..=u8::MAX {
            device.write(0, &[command]);
        }
        assert_eq!(events.take(), [Seen::Reset]);
    }

    #[test]
    fn status_lets_a_reset_through_and_hides_the_keyboard() {
        let device = I8042::new(Arc::new(SeenEvents::default()));
        for _ in 0..100 {
            let mut status = [0xff];
            device.read(0, &mut status);
            assert_eq!(status[0] & 0x03, 0x01, "output buffer full, input buffer empty");
        }
    }
}
