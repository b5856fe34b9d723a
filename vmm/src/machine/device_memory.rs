//! Guest-physical addresses and KVM's slots for memory that devices bring.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arch::GuestRange;
use devices::GuestRam;
use devices::virtio::mem::{MemRegion, MemorySlots};
use kvm_ioctls::VmFd;
use sys::file_mapping::FileMapping;
use vm_memory::GuestAddress;

use super::pluggable::{KvmSlots, MemoryPlan};
use crate::memory_slots;

/// KVM's slots from here on are for devices. Those below are guest RAM's.
const FIRST_SLOT: u32 = 16384;
/// How many slots devices may use: there are no more places for devices than this.
const MAX_SLOTS: u32 = 64;
/// Where every piece of memory starts, and how long it is, in bytes.
const ALIGNMENT: u64 = 2 << 20;

/// Why a device's memory has no place.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// The window is full.
    #[error("{size_bytes} bytes don't fit in the guest's addresses for devices' memory, {window}")]
    NoRoom {
        /// How much was asked for.
        size_bytes: u64,
        /// Where it would have to be.
        window: GuestRange,
    },
    /// The place that was asked for isn't free, or can't be one.
    #[error("there can't be {size_bytes} bytes of a device's memory at {address:#x}")]
    Taken {
        /// Where it was to be.
        address: u64,
        /// How much was asked for.
        size_bytes: u64,
    },
    /// There are more pieces than places.
    #[error("there are {MAX_SLOTS} pieces of devices' memory already")]
    NoSlot,
    /// KVM refuses.
    #[error("KVM_SET_USER_MEMORY_REGION fails")]
    Kvm(#[source] kvm_ioctls::Error),
}

/// What devices bring into guest memory: files in a window, and memory that is plugged.
pub(super) struct DeviceMemory {
    vm: Arc<VmFd>,
    window: GuestRange,
    pluggable: Option<Pluggable>,
    /// Slots and lengths by first addresses.
    pieces: Mutex<BTreeMap<u64, (u32, u64)>>,
}

/// Memory that can be plugged.
#[derive(Clone)]
pub(super) struct Pluggable {
    /// Where it is.
    pub(super) region: MemRegion,
    /// Guest memory, of which it is a part.
    pub(super) memory: GuestRam,
    /// What shows it to the guest.
    pub(super) slots: Arc<dyn MemorySlots>,
}

/// A file in guest memory, until it's dropped.
pub(super) struct MappedFile {
    owner: Arc<DeviceMemory>,
    start: GuestAddress,
    slot: u32,
    _mapping: FileMapping,
}

impl DeviceMemory {
    /// Creates what `plan` has room for: an empty window, and memory of which nothing is plugged.
    pub(super) fn new(vm: Arc<VmFd>, plan: &MemoryPlan, memory: &GuestRam) -> Arc<Self> {
        let pluggable = plan.pluggable.map(|region| {
            let slots = Arc::new(KvmSlots::new(Arc::clone(&vm), memory.clone(), plan.ram));
            Pluggable { region, memory: memory.clone(), slots }
        });
        Arc::new(Self { vm, window: plan.window, pluggable, pieces: Mutex::default() })
    }

    /// Returns the memory that can be plugged, if there is any.
    pub(super) fn pluggable(&self) -> Option<&Pluggable> {
        self.pluggable.as_ref()
    }

    /// Shows `mapping` to the guest `at` an address, or wherever there's room.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(super) fn map(
        self: &Arc<Self>,
        mapping: FileMapping,
        at: Option<u64>,
    ) -> Result<MappedFile, PlaceError> {
        let mut pieces = self.lock();
        let start = find_place(&self.window, &pieces, mapping.len(), at)?;
        let free = |slot: &u32| !pieces.values().any(|(taken, _)| taken == slot);
        let slot = (FIRST_SLOT..FIRST_SLOT + MAX_SLOTS).find(free).ok_or(PlaceError::NoSlot)?;
        memory_slots::set_mapping(&self.vm, slot, GuestAddress(start), &mapping)
            .map_err(PlaceError::Kvm)?;
        pieces.insert(start, (slot, mapping.len()));
        let owner = Arc::clone(self);
        Ok(MappedFile { owner, start: GuestAddress(start), slot, _mapping: mapping })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (u32, u64)>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MappedFile {
    /// Returns where the guest finds it.
    pub(super) fn start(&self) -> GuestAddress {
        self.start
    }
}

impl Drop for MappedFile {
    /// Takes it away from the guest, and then unmaps it.
    fn drop(&mut self) {
        let mut pieces = self.owner.lock();
        match memory_slots::remove(&self.owner.vm, self.slot) {
            Ok(()) => {
                pieces.remove(&self.start.0);
            }
            // KVM knows the slot, so this can't happen. The guest loses the memory either way; its
            // place stays taken.
            Err(error) => log::error!("KVM doesn't give memory slot {} up: {error}", self.slot),
        }
    }
}

/// Finds where `size_bytes` fit in `window` beside `pieces`, lowest first, or checks that they do
/// `at` an address, which may come from a file.
fn find_place(
    window: &GuestRange,
    pieces: &BTreeMap<u64, (u32, u64)>,
    size_bytes: u64,
    at: Option<u64>,
) -> Result<u64, PlaceError> {
    let no_room = || PlaceError::NoRoom { size_bytes, window: *window };
    let fits = |start: u64| {
        GuestRange::new(GuestAddress(start), size_bytes)
            .filter(|piece| window.encloses(piece))
            .filter(|piece| {
                let taken = |(start, (_, len)): (&u64, &(u32, u64))| {
                    GuestRange::new(GuestAddress(*start), *len)
                };
                !pieces.iter().filter_map(taken).any(|taken| taken.overlaps(piece))
            })
            .map(|piece| piece.start().0)
    };
    if let Some(address) = at {
        let aligned = address.is_multiple_of(ALIGNMENT);
        let place = fits(address).filter(|_| aligned);
        return place.ok_or(PlaceError::Taken { address, size_bytes });
    }
    let ends = pieces.iter().map(|(start, (_, len))| start + len);
    let mut candidates: Vec<_> =
        ends.chain([window.start().0]).map(|start| start.next_multiple_of(ALIGNMENT)).collect();
    candidates.sort_unstable();
    candidates.into_iter().find_map(fits).ok_or_else(no_room)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use kvm_ioctls::Kvm;

    use super::*;

    const MIB: u64 = 1 << 20;
    const WINDOW: u64 = 64 << 30;

    fn window(size: u64) -> GuestRange {
        GuestRange::new(GuestAddress(WINDOW), size).unwrap()
    }

    #[test]
    fn lowest_gap_that_is_large_enough_is_taken() {
        let pieces = BTreeMap::from([(WINDOW, (64, 2 * MIB)), (WINDOW + 4 * MIB, (65, 3 * MIB))]);
        let place = |size, at| find_place(&window(16 * MIB), &pieces, size, at).ok();
        assert_eq!(place(2 * MIB, None), Some(WINDOW + 2 * MIB));
        assert_eq!(place(4 * MIB, None), Some(WINDOW + 8 * MIB));
        assert_eq!(place(8 * MIB, None), Some(WINDOW + 8 * MIB));
        assert_eq!(place(8 * MIB + 1, None), None);
        assert_eq!(place(2 * MIB, Some(WINDOW + 2 * MIB)), Some(WINDOW + 2 * MIB));
    }

    #[test]
    fn impossible_addresses_are_refused() {
        let pieces = BTreeMap::from([(WINDOW + 4 * MIB, (64, 2 * MIB))]);
        for (at, size) in [
            (0, 2 * MIB),
            (WINDOW + MIB, MIB),
            (WINDOW + 2 * MIB, 4 * MIB),
            (WINDOW + 4 * MIB, 2 * MIB),
            (WINDOW + 14 * MIB, 4 * MIB),
            (u64::MAX - 2 * MIB + 1, 2 * MIB),
            (WINDOW, u64::MAX),
        ] {
            let found = find_place(&window(16 * MIB), &pieces, size, Some(at));
            assert!(matches!(found, Err(PlaceError::Taken { .. })), "{at:#x}");
        }
        let nowhere = find_place(&window(0), &BTreeMap::new(), 2 * MIB, None);
        assert!(matches!(nowhere, Err(PlaceError::NoRoom { .. })));
    }

    #[test]
    fn slot_and_place_are_free_again_once_the_file_is_dropped() {
        let Ok(kvm) = Kvm::new() else {
            println!("SKIPPED: /dev/kvm can't be opened");
            return;
        };
        let plan =
            MemoryPlan { ranges: Vec::new(), ram: 0, pluggable: None, window: window(4 * MIB) };
        let vm = Arc::new(kvm.create_vm().unwrap());
        let memory = DeviceMemory::new(vm, &plan, &GuestRam::new());
        let file = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        file.set_len(4096).unwrap();
        let mapping = |writable| FileMapping::new(&file, 4096, 2 << 20, writable).unwrap();
        for _ in 0..3 {
            let first = memory.map(mapping(true), None).unwrap();
            let second = memory.map(mapping(false), None).unwrap();
            assert_eq!((first.start().0, second.start().0), (WINDOW, WINDOW + 2 * MIB));
            assert_ne!(first.slot, second.slot);
            assert!(memory.map(mapping(true), None).is_err());
            drop(first);
            let again = memory.map(mapping(true), Some(WINDOW)).unwrap();
            assert_eq!(again.start().0, WINDOW);
        }
    }
}
