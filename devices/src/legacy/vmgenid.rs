//! The VM generation ID: tells a guest that it may be one of several copies of itself.

use std::io;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use crate::GuestRam;
use crate::interrupt::InterruptLine;

/// 16 random bytes in guest memory that change whenever the guest's state is used once more: with
/// each restore of a snapshot. Linux then makes its random numbers anew.
///
/// Where the bytes are and which interrupt tells of a change, the guest knows from its ACPI tables
/// (Microsoft's "Virtual Machine Generation ID", 2012: `VM_Gen_Counter`).
pub struct VmGenId {
    address: GuestAddress,
    line: Arc<dyn InterruptLine>,
}

impl VmGenId {
    /// Length of the ID in bytes.
    pub const SIZE: usize = 16;

    /// Creates a device whose ID is at `address`, which must be a multiple of 8 in a page that the
    /// guest uses for nothing else, and that tells of changes by `line`.
    pub fn new(address: GuestAddress, line: Arc<dyn InterruptLine>) -> Self {
        Self { address, line }
    }

    /// Returns the guest-physical address of the ID.
    pub fn address(&self) -> GuestAddress {
        self.address
    }

    /// Writes a new ID. To be called before the vCPUs of a new or restored machine run, so that the
    /// guest never sees an old one.
    ///
    /// # Errors
    /// When there is no randomness, or no memory at the address.
    pub fn generate(&self, memory: &GuestRam) -> io::Result<()> {
        let mut id = [0; Self::SIZE];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        memory.write_slice(&id, self.address).map_err(io::Error::other)
    }

    /// Tells the guest that its ID has changed.
    pub fn notify(&self) {
        self.line.trigger();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::virtio::testing::guest_ram;

    #[derive(Default)]
    struct Edges(AtomicU32);

    impl InterruptLine for Edges {
        fn trigger(&self) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn id(memory: &GuestRam) -> [u8; 16] {
        memory.read_obj(GuestAddress(0x1000)).unwrap()
    }

    #[test]
    fn each_generation_has_an_id_of_its_own_and_touches_nothing_else() {
        let memory = guest_ram();
        let device = VmGenId::new(GuestAddress(0x1000), Arc::new(Edges::default()));
        let mut seen = vec![[0; 16]];
        for _ in 0..8 {
            device.generate(&memory).unwrap();
            assert!(!seen.contains(&id(&memory)));
            seen.push(id(&memory));
        }
        let around: (u64, u64) = (
            memory.read_obj(GuestAddress(0xff8)).unwrap(),
            memory.read_obj(GuestAddress(0x1010)).unwrap(),
        );
        assert_eq!(around, (0, 0));
    }

    #[test]
    fn notification_is_one_edge() {
        let edges = Arc::new(Edges::default());
        let device = VmGenId::new(GuestAddress(0x1000), edges.clone());
        device.generate(&guest_ram()).unwrap();
        assert_eq!(edges.0.load(Ordering::Acquire), 0, "the guest isn't told before it runs");
        device.notify();
        assert_eq!(edges.0.load(Ordering::Acquire), 1);
    }

    #[test]
    fn address_outside_of_memory_is_an_error() {
        let device = VmGenId::new(GuestAddress(u64::MAX - 8), Arc::new(Edges::default()));
        assert!(device.generate(&guest_ram()).is_err());
    }
}
