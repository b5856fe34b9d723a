//! How devices interrupt the guest, without knowing who delivers it.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// An edge-triggered interrupt line.
pub trait InterruptLine: Send + Sync {
    /// Raises one edge. May be called from any thread; never blocks.
    fn trigger(&self);
}

/// An [`InterruptLine`] whose eventfd KVM turns into an interrupt (irqfd).
#[derive(Debug)]
pub struct EventFdLine(EventFd);

impl EventFdLine {
    /// Wraps a non-blocking eventfd that is bound to an interrupt.
    pub fn new(eventfd: EventFd) -> Self {
        Self(eventfd)
    }
}

impl InterruptLine for EventFdLine {
    fn trigger(&self) {
        // It can fail only when 2^64 - 2 edges are unseen: one is pending then already.
        let _ = self.0.write(1);
    }
}

impl vm_superio::Trigger for EventFdLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        InterruptLine::trigger(self);
        Ok(())
    }
}

/// What a message-signalled interrupt writes and where (PCI 3.0 §6.8.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// The guest-physical address that the message is written to.
    pub address: u64,
    /// The value written.
    pub data: u32,
}

/// Delivers the message-signalled interrupts of one PCI function.
///
/// Vectors are numbered from 0 to the function's MSI-X table size, end-exclusive; the owner of the
/// table checks a guest's vector numbers before it calls.
pub trait MsiSender: Send + Sync {
    /// Binds `vector` to `message`. Until then it's unbound; while it's masked it keeps its message.
    ///
    /// # Errors
    /// When the host refuses the route. The vector is then left unbound.
    fn route(&self, vector: u16, message: MsiMessage) -> io::Result<()>;

    /// Sends `vector`'s message. May be called from any thread; never blocks. A vector that is
    /// unbound sends nothing.
    fn signal(&self, vector: u16);
}
