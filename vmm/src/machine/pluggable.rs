//! Memory that is plugged while the guest runs: where it lies, its KVM slots, and the API's view.
//!
//! Each slot is a region of [`GuestRam`] of its own, behind those of RAM: what goes over guest memory
//! by its regions (snapshots, dirty pages) takes plugged memory along. A region that isn't shown to
//! the guest has no slot in KVM, and reads as zeros.

use std::io;
use std::sync::Arc;

use api::ApiError;
use api::config::{MemoryHotplugConfig, VmConfig};
use api::v1::{MemoryHotplugStatus, MemoryHotplugUpdate};
use arch::{GuestRange, MemoryLayout};
use devices::GuestRam;
use devices::virtio::mem::{MemPort, MemRegion, MemorySlots};
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::Machine;
use super::registry::Handle;
use super::state::DeviceKey;
use crate::error::VmmError;
use crate::memory_slots;

/// How many slots pluggable memory may have: KVM has about 32 thousand, and other devices need some.
const MAX_SLOTS: u64 = 8192;

/// Where a machine's memory is.
#[derive(Debug)]
pub(super) struct MemoryPlan {
    /// RAM, then the slots of pluggable memory.
    pub(super) ranges: Vec<(GuestAddress, u64)>,
    /// How many of them are RAM.
    pub(super) ram: usize,
    /// Pluggable memory.
    pub(super) pluggable: Option<MemRegion>,
    /// What is left for other devices' memory.
    pub(super) window: GuestRange,
}

impl MemoryPlan {
    /// Plans the memory that `config` asks for.
    ///
    /// # Errors
    /// [`VmmError::Memory`] when pluggable memory has no room in the guest's addresses, or too many
    /// slots.
    pub(super) fn new(layout: &MemoryLayout, config: &VmConfig) -> Result<Self, VmmError> {
        let ranges: Vec<_> = layout.ram.iter().map(|ram| (ram.start(), ram.size())).collect();
        let (ram, window) = (ranges.len(), layout.device_memory);
        let mut plan = Self { ranges, ram, pluggable: None, window };
        if let Some(memory) = &config.memory_hotplug {
            plan.add(memory)?;
        }
        Ok(plan)
    }

    fn add(&mut self, memory: &MemoryHotplugConfig) -> Result<(), VmmError> {
        let fail = |reason: String| {
            Err(VmmError::Memory { size_mib: memory.total_mib, huge: false, reason })
        };
        let slots = memory.total_mib / memory.slot_mib;
        if slots > MAX_SLOTS {
            return fail(format!(
                "pluggable memory can have {MAX_SLOTS} slots, not {slots}: choose a larger \
                 slot_size_mib"
            ));
        }
        let [size, block_size, slot_size] =
            [memory.total_mib, memory.block_mib, memory.slot_mib].map(|mib| mib << 20);
        let start = self.window.start().0.checked_next_multiple_of(block_size);
        let range = start.and_then(|start| GuestRange::new(GuestAddress(start), size));
        let Some(range) = range.filter(|range| self.window.encloses(range)) else {
            return fail(format!("the guest's addresses have room for it in {}", self.window));
        };
        let slots =
            (0..slots).map(|slot| (GuestAddress(range.start().0 + slot * slot_size), slot_size));
        self.ranges.extend(slots);
        self.window = GuestRange::from_bounds(range.end(), self.window.end());
        self.pluggable = Some(MemRegion { start: range.start(), size, block_size, slot_size });
        Ok(())
    }
}

/// The KVM slots of pluggable memory: those of its regions' numbers.
pub(super) struct KvmSlots {
    vm: Arc<VmFd>,
    memory: GuestRam,
    /// The number of the first.
    first: usize,
}

impl KvmSlots {
    /// Prepares the slots of the regions of `memory` from `first` on.
    pub(super) fn new(vm: Arc<VmFd>, memory: GuestRam, first: usize) -> Self {
        Self { vm, memory, first }
    }
}

impl MemorySlots for KvmSlots {
    fn show(&self, index: u64, shown: bool) -> io::Result<()> {
        let index = usize::try_from(index).map_err(io::Error::other)?;
        let number = self.first.saturating_add(index);
        let slot = u32::try_from(number).map_err(io::Error::other)?;
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let region = self.memory.iter().nth(number).ok_or_else(missing)?;
        match shown {
            true => memory_slots::set(&self.vm, slot, region)?,
            false => memory_slots::remove(&self.vm, slot)?,
        }
        Ok(())
    }
}

impl Machine {
    /// Returns how much memory is plugged.
    pub(crate) fn memory_hotplug(&self) -> Result<MemoryHotplugStatus, ApiError> {
        let (port, config) = self.pluggable()?;
        Ok(MemoryHotplugStatus {
            total_size_mib: config.total_mib,
            slot_size_mib: config.slot_mib,
            block_size_mib: config.block_mib,
            plugged_size_mib: port.plugged() >> 20,
            requested_size_mib: port.requested() >> 20,
        })
    }

    /// Changes how much memory the guest should plug.
    pub(crate) fn update_memory_hotplug(
        &mut self,
        update: MemoryHotplugUpdate,
    ) -> Result<(), ApiError> {
        let (port, config) = self.pluggable()?;
        let MemoryHotplugUpdate { requested_size_mib: wanted } = update;
        let MemoryHotplugConfig { total_mib, block_mib, .. } = *config;
        if wanted > total_mib || !wanted.is_multiple_of(block_mib) {
            return Err(ApiError::bad_request(format!(
                "requested_size_mib can't be {wanted}: it's a multiple of block_size_mib \
                 ({block_mib}), and at most total_size_mib ({total_mib})"
            )));
        }
        port.set_requested(wanted << 20);
        Ok(())
    }

    fn pluggable(&self) -> Result<(&Arc<MemPort>, &MemoryHotplugConfig), ApiError> {
        match (self.devices.handle(&DeviceKey::Memory), &self.config.memory_hotplug) {
            (Some(Handle::Memory(port)), Some(config)) => Ok((port, config)),
            _ => Err(ApiError::bad_request(
                "this VM has no memory to plug: PUT /hotplug/memory before it starts",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::config::{BootSourceSpec, MemoryHotplugSpec, VmSpec};
    use arch::Arch;
    use kvm_ioctls::Kvm;

    use super::*;
    use crate::machine::HostArch;
    use crate::memory::{self, Backing, DirtyPages};

    const MIB: u64 = 1 << 20;

    fn config(total_mib: u64, slot_mib: u64) -> VmConfig {
        let boot_source = BootSourceSpec {
            kernel_image_path: Some("/kernel".into()),
            ..BootSourceSpec::default()
        };
        let memory = MemoryHotplugSpec {
            total_size_mib: total_mib,
            block_size_mib: None,
            slot_size_mib: Some(slot_mib),
        };
        let spec = VmSpec {
            boot_source: Some(boot_source),
            memory_hotplug: Some(memory),
            ..VmSpec::default()
        };
        spec.validate().unwrap()
    }

    fn plan(total_mib: u64, slot_mib: u64, bits: u8) -> Result<MemoryPlan, VmmError> {
        let layout = HostArch::memory_layout(128 * MIB, bits).unwrap();
        MemoryPlan::new(&layout, &config(total_mib, slot_mib))
    }

    #[test]
    fn each_slot_is_a_range_behind_ram_and_files_come_behind() {
        let plan = plan(512, 256, 46).unwrap();
        let start = plan.pluggable.unwrap().start.0;
        let expected = [(0, 128 * MIB), (start, 256 * MIB), (start + 256 * MIB, 256 * MIB)];
        assert!(plan.ranges.iter().map(|(start, size)| (start.0, *size)).eq(expected));
        assert_eq!((plan.ram, plan.window.start().0), (1, start + 512 * MIB));
    }

    #[test]
    fn memory_that_has_no_room_is_refused() {
        for (total_mib, slot_mib, bits) in [(8193 * 128, 128, 46), (1 << 20, 1 << 18, 36)] {
            assert!(matches!(plan(total_mib, slot_mib, bits), Err(VmmError::Memory { .. })));
        }
    }

    #[test]
    fn hidden_slots_are_unknown_to_kvm_and_have_no_dirty_pages() {
        let Ok(kvm) = Kvm::new() else {
            println!("SKIPPED: /dev/kvm can't be opened");
            return;
        };
        let vm = Arc::new(kvm.create_vm().unwrap());
        let plan = plan(256, 128, 46).unwrap();
        let backing = Backing { tracked: true, ..Backing::default() };
        let ram = memory::allocate(&plan.ranges, &backing).unwrap();
        memory::register(&vm, &ram, plan.ram).unwrap();
        let slots = KvmSlots::new(Arc::clone(&vm), ram.clone(), plan.ram);
        for shown in [true, false] {
            slots.show(1, shown).unwrap();
            assert_eq!(vm.get_dirty_log(2, 128 << 20).is_ok(), shown);
            let dirty = DirtyPages::take(&vm, &ram).unwrap().unwrap();
            assert_eq!((dirty.regions().len(), dirty.count()), (3, 0));
        }
        assert!(slots.show(2, true).is_err());
    }
}
