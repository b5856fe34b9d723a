//! Snapshots of machines that run Linux: what was saved comes back, on every vCPU and device, and
//! what a moment of bad luck interrupts leaves the older snapshot whole.

mod clock;
mod hotplug;
mod identity;
mod killed;
mod lazy;
mod live;
mod load;
mod memory;
mod platforms;
mod serial;
mod soak;
mod support;
