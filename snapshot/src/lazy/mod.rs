//! Restoring without reading the memory first: pages come when the guest touches them.
//!
//! The VMM registers the guest's memory with a userfaultfd and hands that over a Unix socket, with a
//! JSON table of the regions, to whoever serves the pages ([`handshake`]; Firecracker's page fault
//! handlers understand it). [`PageServer`] is the handler that comes with `vmctl`. It can note in
//! which order the guest touched its pages ([`WorkingSet`]) and fill these in advance the next time.
//!
//! The handler must outlive the VM: a guest whose pages nobody serves stands still.

pub mod handshake;
mod server;
mod working_set;

pub use handshake::GuestRegionUffdMapping;
pub use server::{LazyError, PageServer};
pub use working_set::WorkingSet;

#[cfg(test)]
mod tests;
