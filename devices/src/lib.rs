//! Everything that a guest sees as hardware: buses, interrupts, legacy devices, PCI, virtio, disks.
//!
//! Devices never choose an address, an interrupt or a thread's CPU: whoever assembles the machine
//! hands these in. Whatever a guest does wrong stays inside its own device: a request fails, or the
//! device asks for a reset, and the machine goes on.
#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used)]
#![deny(clippy::cast_possible_truncation, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::expect_used,
        clippy::cast_possible_truncation,
        clippy::arithmetic_side_effects
    )
)]

pub mod bus;
mod bytes;
pub mod console;
pub mod disk;
pub mod interrupt;
pub mod legacy;
mod log_limit;
pub mod mmds;
pub mod pci;
pub mod rate_limiter;
pub mod state;
pub mod virtio;

pub use bus::{Bus, BusDevice, BusError};
pub use interrupt::{EventFdLine, InterruptLine, MsiMessage, MsiSender};
pub use log_limit::LogLimit;
pub use state::{RestoreError, SaveError};
pub use sys::memory::GuestRam;
