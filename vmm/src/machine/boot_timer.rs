//! A register by which a guest's `init` says that it runs, as Firecracker's `--boot-timer` has it.

use devices::{Bus, BusDevice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::event::Event;

use super::Surroundings;
use crate::error::VmmError;
use crate::status::{Status, monotonic_ns};

/// Where the register is: in the window for 32-bit BARs, of which no device here has any.
const ADDRESS: u64 = 0xd000_0000;
/// How much address space it takes up.
const SIZE: u64 = 0x1000;
/// What `init` writes.
const BOOTED: u8 = 123;

struct BootTimer {
    since_ns: u64,
    status: Status,
    done: AtomicBool,
}

/// Puts the register on the bus, if there is to be one.
///
/// # Errors
/// When something is there already: a mistake in the layout.
pub(super) fn attach(mmio: &Bus, around: &Surroundings) -> Result<(), VmmError> {
    let Some(since_ns) = around.boot_timer_since_ns else { return Ok(()) };
    let status = around.status.clone();
    let timer = BootTimer { since_ns, status, done: AtomicBool::new(false) };
    mmio.insert(ADDRESS, SIZE, Arc::new(timer))?;
    Ok(())
}

impl BusDevice for BootTimer {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    /// Reports the first write only: a guest could fill the log.
    fn write(&self, offset: u64, data: &[u8]) {
        if offset != 0 || data.first() != Some(&BOOTED) || self.done.swap(true, Ordering::AcqRel) {
            return;
        }
        let now = monotonic_ns();
        let took_us = now.saturating_sub(self.since_ns) / 1000;
        log::info!("Guest-boot-time = {took_us} us {} ms", took_us / 1000);
        self.status.send(&Event::GuestBooted { monotonic_ns: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_write_of_the_right_value_counts() {
        let status = Status::default();
        let timer = BootTimer { since_ns: 0, status: status.clone(), done: false.into() };
        for (offset, value) in [(0, 1), (4, BOOTED), (0, BOOTED), (0, BOOTED)] {
            timer.write(offset, &[value]);
        }
        assert_eq!(status.timeline().events.len(), 1);
    }
}
