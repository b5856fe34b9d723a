//! Builds a machine: out of its configuration, or out of a snapshot as well. Both go the same way
//! but for what is in memory and in the registers.

use std::sync::Arc;

use api::config::{HugePages, VmConfig};
use arch::{Arch, BootInfo, MemoryLayout};
use arch_x86_64::Platform;
use arch_x86_64::cpuid::VcpuPlace;
use arch_x86_64::layout::gsi;
use devices::GuestRam;
use devices::legacy::VmGenId;
use devices::virtio::console::ConsolePort;
use kvm_ioctls::{Kvm, VmFd};

use super::attach::{self, Attacher, VirtioPlaces};
use super::boot::{self, Loaded};
use super::console::{self, Console};
use super::device_memory::DeviceMemory;
use super::legacy::{self, Legacy};
use super::pluggable::MemoryPlan;
use super::registry::Devices;
use super::state::{DeviceState, MachineState};
use super::virtio::MemoryPlace;
use super::{HostArch, Machine, Surroundings, boot_timer, cpu_template, virtio};
use crate::error::VmmError;
use crate::interrupts::InterruptRouter;
use crate::memory::{self, Backing, Pages};
use crate::vcpu::{self, Buses, Vcpu, VcpuHandle};
use crate::x86_64::{self, ClockPolicy, HostCpuid, StateReader};

/// How many bytes of randomness a guest's kernel starts with.
const RNG_SEED_BYTES: usize = 64;

/// Builds one machine.
pub struct MachineBuilder {
    config: VmConfig,
    around: Surroundings,
}

/// What the steps of a build hand to each other.
pub(super) struct Hypervisor {
    pub(super) kvm: Kvm,
    pub(super) vm: Arc<VmFd>,
    pub(super) cpuid: HostCpuid,
    pub(super) layout: MemoryLayout,
    pub(super) memory: GuestRam,
    pub(super) router: Arc<InterruptRouter>,
}

/// The machine around its vCPUs.
struct Board {
    buses: Buses,
    legacy: Legacy,
    console: Console,
    devices: Devices,
    generation_id: VmGenId,
}

impl MachineBuilder {
    /// Prepares to build what `config` describes.
    pub fn new(config: VmConfig, around: Surroundings) -> Self {
        Self { config, around }
    }

    /// Builds the machine: memory, VM, kernel, devices, boot tables, vCPUs.
    ///
    /// # Errors
    /// [`VmmError`]; whatever was made until then is gone again.
    pub fn build(mut self) -> Result<Machine, VmmError> {
        virtio::choose_addresses(&mut self.config)?;
        let hypervisor = self.create_hypervisor(|layout| {
            let pages = match self.config.machine.huge_pages {
                HugePages::None => Pages::Ordinary,
                HugePages::Size2M => Pages::Huge2M,
            };
            let ranges = MemoryPlan::new(layout, &self.config)?.ranges;
            let backing = Backing { pages, tracked: self.config.machine.track_dirty_pages };
            // A vhost-user drive's back end maps it, too.
            match self.config.drives.iter().all(|drive| drive.image().is_some()) {
                true => memory::allocate(&ranges, &backing),
                false => memory::allocate_shared(&ranges, &backing),
            }
        })?;
        let loaded = boot::load(&self.config.boot, &hypervisor.memory, &hypervisor.layout)?;
        let board = self.create_board(&hypervisor, |devices, port| {
            for key in virtio::keys(&self.config) {
                let memory = MemoryPlace { window: devices.memory(), at: None };
                let made = virtio::make(&self.config, &key, &self.around, port, memory)?;
                devices.attach(key, made)?;
            }
            Ok(())
        })?;
        let boot_state =
            self.write_boot_data(&hypervisor, &loaded, &board.devices.attacher().places())?;
        let created = self.create_vcpus(&hypervisor, &board.buses)?;
        for (vcpu, place) in created.iter().zip(self.places()) {
            let boot_state = (place.index == 0).then_some(&boot_state);
            x86_64::set_up_vcpu(&vcpu.fd, &hypervisor.cpuid, place, boot_state)?;
        }
        self.assemble(hypervisor, board, created, Vec::new())
    }

    /// Builds the machine that `state` was saved from, around its `memory`. It's paused.
    ///
    /// # Errors
    /// [`VmmError`] when the state is damaged or doesn't fit this host.
    pub(crate) fn restore(
        self,
        state: MachineState,
        memory: GuestRam,
        clock: ClockPolicy,
    ) -> Result<Machine, VmmError> {
        let hypervisor = self.create_hypervisor(|layout| {
            memory::check_layout(&memory, &MemoryPlan::new(layout, &self.config)?.ranges)?;
            Ok(memory)
        })?;
        check_devices(&self.config, &state.devices)?;
        hypervisor.cpuid.check(&state.cpu).map_err(|source| {
            VmmError::snapshot("run the snapshot's guest on this host", source)
        })?;
        let board = self.create_board(&hypervisor, |devices, port| {
            for device in &state.devices {
                let memory = MemoryPlace { window: devices.memory(), at: device.memory_address };
                let made = virtio::make(&self.config, &device.key, &self.around, port, memory)?;
                devices.attach_at(device.place, device.key.clone(), made, device.hotplugged)?;
            }
            Ok(())
        })?;
        let created = self.create_vcpus(&hypervisor, &board.buses)?;
        x86_64::restore(&hypervisor.vm, &created, &state.vcpus, &state.vm, clock)?;
        // Devices after the interrupt controllers: theirs go into them.
        board.legacy.restore(state.legacy)?;
        for device in state.devices {
            let name = device.key.name().to_owned();
            board
                .devices
                .restore(device.place, device.transport)
                .map_err(|source| VmmError::snapshot(format!("restore device {name:?}"), source))?;
        }
        if let Some(pci) = &state.pci {
            board.devices.attacher().restore_root(pci);
        }
        let parked = created.into_iter().map(vcpu::spawn_paused).collect::<Result<Vec<_>, _>>()?;
        // Their threads have only been started: who saves or forks the machine next needs them there.
        parked.iter().try_for_each(VcpuHandle::wait_paused)?;
        let machine = self.assemble(hypervisor, board, Vec::new(), parked)?;
        machine.generation_id.notify();
        machine.revive();
        Ok(machine)
    }

    /// Creates the VM around the memory that `memory` provides for a layout.
    fn create_hypervisor(
        &self,
        memory: impl FnOnce(&MemoryLayout) -> Result<GuestRam, VmmError>,
    ) -> Result<Hypervisor, VmmError> {
        let kvm = Kvm::new().map_err(|source| VmmError::kvm("opening /dev/kvm", source))?;
        let cpuid = cpu_template::apply(&self.config.cpu_template, &kvm, HostCpuid::read(&kvm)?)?;
        let layout =
            HostArch::memory_layout(self.config.machine.mem_bytes(), cpuid.address_bits())?;
        let memory = memory(&layout)?;
        let vm = kvm.create_vm().map_err(|source| VmmError::kvm("KVM_CREATE_VM", source))?;
        x86_64::prepare_vm(&vm)?;
        memory::register(&vm, &memory, layout.ram.len())?;
        let vm = Arc::new(vm);
        let router = InterruptRouter::new(Arc::clone(&vm));
        Ok(Hypervisor { kvm, vm, cpuid, layout, memory, router })
    }

    /// Creates everything around the vCPUs; `attach` adds the virtio devices in the guest's order.
    fn create_board(
        &self,
        hypervisor: &Hypervisor,
        attach: impl FnOnce(&mut Devices, Option<&Arc<ConsolePort>>) -> Result<(), VmmError>,
    ) -> Result<Board, VmmError> {
        let buses = attach::empty_buses();
        let rtc = legacy::attach(&buses.pio, &self.around.stop)?;
        let attacher = Attacher::new(
            Arc::clone(&hypervisor.vm),
            hypervisor.memory.clone(),
            Arc::clone(&hypervisor.router),
            buses.clone(),
            &hypervisor.layout,
            self.config.machine.transport,
        )?;
        let plan = MemoryPlan::new(&hypervisor.layout, &self.config)?;
        let memory = DeviceMemory::new(Arc::clone(&hypervisor.vm), &plan, &hypervisor.memory);
        let mut devices = Devices::new(attacher, memory);
        let (console, serial) = console::attach(&self.config, &buses.pio, &hypervisor.router)?;
        attach(&mut devices, console.port())?;
        boot_timer::attach(&buses.mmio, &self.around)?;
        let generation_id = legacy::generation_id(&hypervisor.router)?;
        generation_id
            .generate(&hypervisor.memory)
            .map_err(|source| VmmError::os("write the VM generation ID", source))?;
        let legacy = Legacy { serial, rtc };
        Ok(Board { buses, legacy, console, devices, generation_id })
    }

    /// Writes what the kernel reads at its start, and returns the boot vCPU's registers.
    fn write_boot_data(
        &self,
        hypervisor: &Hypervisor,
        loaded: &Loaded,
        places: &VirtioPlaces,
    ) -> Result<<HostArch as Arch>::BootState, VmmError> {
        let config = &self.config;
        let mut rng_seed = [0; RNG_SEED_BYTES];
        rustix::rand::getrandom(&mut rng_seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| VmmError::os("get random bytes", error.into()))?;
        let info = BootInfo {
            kernel: &loaded.kernel,
            initrd: loaded.initrd,
            cmdline: &config.boot.cmdline,
            rng_seed: &rng_seed,
        };
        let platform = Platform {
            vcpus: config.machine.vcpus,
            pci: matches!(places, VirtioPlaces::Pci),
            virtio_mmio: places.windows().to_vec(),
        };
        HostArch::write_boot_data(&hypervisor.memory, &hypervisor.layout, &info, &platform)
            .map_err(|source| boot::boot_error(&config.boot.kernel, source))
    }

    /// Lists the vCPUs by their places.
    fn places(&self) -> impl Iterator<Item = VcpuPlace> {
        let count = self.config.machine.vcpus;
        (0..count).map(move |index| VcpuPlace { index, count })
    }

    /// Creates the vCPUs, with nothing in their registers.
    fn create_vcpus(&self, hypervisor: &Hypervisor, buses: &Buses) -> Result<Vec<Vcpu>, VmmError> {
        let run_size_bytes = hypervisor
            .kvm
            .get_vcpu_mmap_size()
            .map_err(|source| VmmError::kvm("KVM_GET_VCPU_MMAP_SIZE", source))?;
        self.places()
            .map(|VcpuPlace { index, .. }| {
                let fd = hypervisor
                    .vm
                    .create_vcpu(index.into())
                    .map_err(|source| VmmError::kvm("KVM_CREATE_VCPU", source))?;
                let (buses, stop) = (buses.clone(), Arc::clone(&self.around.stop));
                Ok(Vcpu { index, fd, run_size_bytes, buses, stop })
            })
            .collect()
    }

    fn assemble(
        self,
        hypervisor: Hypervisor,
        board: Board,
        created: Vec<Vcpu>,
        vcpus: Vec<VcpuHandle>,
    ) -> Result<Machine, VmmError> {
        let Board { buses, legacy, console, devices, generation_id } = board;
        let power_button = hypervisor.router.line(gsi::GED)?;
        Ok(Machine {
            vcpus,
            created,
            devices,
            generation_id,
            legacy,
            console,
            power_button,
            config: self.config,
            around: self.around,
            reader: StateReader::new(&hypervisor.kvm, Arc::clone(&hypervisor.vm))?,
            cpuid: hypervisor.cpuid,
            _buses: buses,
            vm: hypervisor.vm,
            memory: hypervisor.memory,
        })
    }
}

/// Checks that a snapshot has each device of its configuration once, and no other.
fn check_devices(config: &VmConfig, saved: &[DeviceState]) -> Result<(), VmmError> {
    let mut expected = virtio::keys(config);
    let mut found: Vec<_> = saved.iter().map(|device| device.key.clone()).collect();
    expected.sort_unstable();
    found.sort_unstable();
    if found == expected {
        return Ok(());
    }
    let reason = "its devices aren't those of its configuration";
    Err(VmmError::snapshot("read the machine's state", reason))
}

#[cfg(test)]
mod tests {
    use api::config::VmSpec;
    use serde_json::{Value, json};

    use super::*;

    fn saved(keys: &[Value]) -> Vec<DeviceState> {
        let core = json!({
            "device_type": 4, "status": 0, "needs_reset": false, "config_generation": 0,
            "device_feature_select": 0, "driver_feature_select": 0, "driver_features": 0,
            "queue_select": 0, "queues": [], "device": null,
        });
        let device = |(place, key): (usize, &Value)| {
            let transport = json!({ "mmio": { "core": core, "interrupt_status": 0 } });
            let device = json!({ "key": key, "place": place, "transport": transport });
            serde_json::from_value(device).unwrap()
        };
        keys.iter().enumerate().map(device).collect()
    }

    #[test]
    fn each_device_of_the_configuration_is_in_the_state_once_and_no_other() {
        let spec: VmSpec = serde_json::from_value(json!({
            "boot-source": { "kernel_image_path": "/" },
            "drives": [{ "drive_id": "a", "path_on_host": "/a", "is_root_device": false }],
            "entropy": {},
        }))
        .unwrap();
        let config = spec.validate().unwrap();
        let [a, b] = ["a", "b"].map(|id| json!({ "kind": "block", "id": id }));
        let rng = json!({ "kind": "rng" });
        let check = |keys: &[&Value]| {
            let keys: Vec<_> = keys.iter().copied().cloned().collect();
            check_devices(&config, &saved(&keys))
        };
        check(&[&a, &rng]).unwrap();
        check(&[&rng, &a]).unwrap();
        for wrong in [&[&a][..], &[&a, &rng, &rng], &[&a, &a], &[&b, &rng], &[]] {
            check(wrong).unwrap_err();
        }
    }
}
