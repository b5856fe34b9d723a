//! Virtual CPUs: one thread each, in and out of the guest.
//!
//! `thread.rs` starts and stops them, `control.rs` is where they are paused, `run.rs` is the loop,
//! `exit.rs` serves what the guest asked.

mod control;
mod exit;
mod run;
#[cfg(test)]
pub(crate) mod testing;
mod thread;

pub use control::VcpuError;
pub use thread::{VcpuHandle, spawn, spawn_paused};

use std::sync::Arc;

use devices::Bus;
use kvm_ioctls::VcpuFd;

use crate::stop::StopSignal;

/// A virtual CPU that is set up and not running yet.
pub struct Vcpu {
    /// Its number, from 0.
    pub index: u8,
    /// KVM's handle.
    pub fd: VcpuFd,
    /// Length of the page shared with KVM, in bytes.
    pub run_size_bytes: usize,
    /// Where its exits go.
    pub buses: Buses,
    /// How it ends the machine.
    pub stop: Arc<StopSignal>,
}

/// The address spaces that a vCPU's exits reach.
#[derive(Clone)]
pub struct Buses {
    /// Port I/O.
    pub pio: Arc<Bus>,
    /// Memory-mapped I/O.
    pub mmio: Arc<Bus>,
}
