//! How a driver finds a device and talks to it: one core under two register layouts.
//!
//! [`VirtioTransportCore`] owns status, features, queues and reset; [`VirtioMmio`] and
//! [`VirtioPci`] decode registers and deliver interrupts.
//!
//! # Pause, save, restore
//! Of a machine whose vCPUs stand still:
//!
//! ```text
//!  request_pause (all) ─► pause (all) ─► save ─► resume, or drop
//!                              │ nothing is in flight, every worker is parked where it was
//!  a fresh machine, its memory restored ─► restore (all) ─► interrupt controllers, vCPUs
//!                                                   ─► revive (all) ─► resume (all)
//! ```
//!
//! A plain pause and resume changes nothing that a guest or a host program could notice but the time.
//! A restore starts new workers at the saved cursors; connections with the host are gone, and
//! drivers that can be told so are told.

mod core;
mod mmio;
mod pci;
mod rings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::device::DeviceType;
use crate::state::{RestoreError, SaveError};

pub use self::core::{CoreState, QueueState, TransportOps, VirtioTransportCore, status};
pub use mmio::{MmioState, VirtioMmio};
pub use pci::{PciInterruptState, PciState, VirtioPci, VirtioPciResources};
pub use rings::{Half, QueueSetup, Ring};

/// What whoever assembles the machine needs of a virtio device behind any transport.
pub trait VirtioTransport: Send + Sync {
    /// Names the device type.
    fn device_type(&self) -> DeviceType;

    /// Lists where the driver's writes notify the queues, in the order of their indices.
    fn notify_points(&self) -> Vec<NotifyPoint>;

    /// Tells whether a driver has taken the device into use (DRIVER_OK).
    fn is_active(&self) -> bool;

    /// Resets the device as a driver that writes 0 to its status would: its workers are joined.
    fn reset(&self);

    /// Asks the device's workers to finish what is in flight and to park; doesn't wait for it. Asked
    /// of all devices before the first [`pause`](Self::pause), it lets them drain side by side.
    fn request_pause(&self);

    /// Waits until the device's workers are parked. Until [`resume`](Self::resume), none of them
    /// touches guest memory or interrupts the driver. vCPUs must have stopped before.
    fn pause(&self);

    /// Lets the device's workers go on. What came meanwhile (kicks, frames, bytes) is served now.
    fn resume(&self);

    /// Returns all that the driver could notice of the device and its transport.
    ///
    /// # Errors
    /// [`SaveError`] unless the device is [paused](Self::pause) and can be saved.
    fn save(&self) -> Result<TransportState, SaveError>;

    /// Takes over what [`save`](Self::save) returned, on a transport that no driver has touched, of
    /// the same kind and with the same device. Guest memory must be restored already. The device is
    /// paused afterwards.
    ///
    /// # Errors
    /// [`RestoreError`]; the device can't be used then.
    fn restore(&self, state: TransportState) -> Result<(), RestoreError>;

    /// Raises each interrupt and each queue's kick once, so that none that was on its way is lost.
    /// To be called after a restore, once interrupt controllers and vCPUs are restored too; before
    /// or after [`resume`](Self::resume).
    fn revive(&self);
}

/// What a transport saves. It comes back from a file, and is checked then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportState {
    /// Of a device behind [`VirtioMmio`].
    Mmio(MmioState),
    /// Of a device behind [`VirtioPci`].
    Pci(PciState),
}

impl TransportState {
    fn kind(&self) -> &'static str {
        match self {
            Self::Mmio(_) => "virtio-mmio",
            Self::Pci(_) => "virtio-pci",
        }
    }
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
