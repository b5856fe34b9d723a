//! How a driver finds a device and talks to it: one core under two register layouts.
//!
//! [`VirtioTransportCore`] owns status, features, queues and reset; [`VirtioMmio`] and
//! [`VirtioPci`] decode registers and deliver interrupts.

mod core;
mod mmio;
mod pci;
mod rings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::device::DeviceType;

pub use self::core::{TransportOps, VirtioTransportCore, status};
pub use mmio::VirtioMmio;
pub use pci::{VirtioPci, VirtioPciResources};
pub use rings::{Half, QueueSetup, Ring};

/// What whoever assembles the machine needs of a virtio device behind any transport.
pub trait VirtioTransport: Send + Sync {
    /// Names the device type.
    fn device_type(&self) -> DeviceType;

    /// Lists where the driver's writes notify the queues, in the order of their indices.
    fn notify_points(&self) -> Vec<NotifyPoint>;

    /// Resets the device as a driver that writes 0 to its status would: its workers are joined.
    fn reset(&self);
}

/// Where a write notifies one queue. With an ioeventfd there, KVM writes the eventfd itself;
/// without one, the write exits and the transport does the same.
#[derive(Clone, Debug)]
pub struct NotifyPoint {
    /// The queue's index.
    pub queue: u16,
    /// What the device's worker waits for. Stays the same for the device's whole life.
    pub kick: Arc<EventFd>,
    /// Offset in bytes from the start of the device's window or BAR.
    pub offset: u64,
    /// The value that must be written, as 32 bits; `None` when any write of any width counts.
    pub datamatch: Option<u32>,
}
