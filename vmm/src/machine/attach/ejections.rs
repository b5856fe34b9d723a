//! What the guest has given up, from the vCPU thread that heard it to the main thread.

use std::sync::atomic::{AtomicU32, Ordering};

use devices::pci::{EjectListener, SLOTS};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::error::VmmError;

/// Slots that the guest has given up and that nobody has emptied yet.
pub(in crate::machine) struct Ejections {
    slots: AtomicU32,
    event: EventFd,
}

impl Ejections {
    pub(super) fn new() -> Result<Self, VmmError> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
            .map_err(|source| VmmError::os("create an eventfd", source))?;
        Ok(Self { slots: AtomicU32::new(0), event })
    }

    /// Returns what becomes readable when there are any.
    pub(in crate::machine) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Takes all slots that were given up until now, and rearms the event.
    pub(in crate::machine) fn take(&self) -> impl Iterator<Item = u8> + use<> {
        // Before the slots: one that comes in between makes the event readable again.
        let _ = self.event.read();
        let slots = self.slots.swap(0, Ordering::AcqRel);
        (0..SLOTS).filter(move |slot| slots & 1 << slot != 0)
    }
}

impl EjectListener for Ejections {
    fn ejected(&self, slot: u8) {
        self.slots.fetch_or(1 << slot, Ordering::AcqRel);
        // It can fail only when 2^64 - 2 events are unseen: one is pending then already.
        let _ = self.event.write(1);
    }
}
