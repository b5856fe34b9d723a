//! Assembles a machine out of a configuration, starts it and waits for its end.
//!
//! ```text
//! MachineBuilder ──build──> Machine (created) ──start──> (running) ──run──> why it ended
//! ```

mod attach;
mod boot;
mod console;
mod legacy;
mod virtio;

use std::sync::Arc;
use std::time::Duration;

use api::config::{HugePages, VmConfig};
use arch::{Arch, BootInfo, MemoryLayout};
use arch_x86_64::Platform;
use arch_x86_64::cpuid::VcpuPlace;
use arch_x86_64::layout::gsi;
use devices::legacy::VmGenId;
use devices::{EventFdLine, GuestRam};
use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::{Kvm, VmFd};
use sys::signal::SignalFd;

use crate::control::Control;
use crate::error::VmmError;
use crate::interrupts::InterruptRouter;
use crate::memory::{self, Pages};
use crate::stop::{StopReason, StopSignal};
use crate::vcpu::{self, Buses, Vcpu, VcpuHandle};
use crate::x86_64::{self, HostCpuid};

use attach::{Attacher, VirtioPlaces};
use boot::Loaded;
use console::Console;

/// The architecture of the host and so of its guests.
type HostArch = arch_x86_64::X86_64;

/// How many bytes of randomness a guest's kernel starts with.
const RNG_SEED_BYTES: usize = 64;

/// Builds one machine.
pub struct MachineBuilder<'c> {
    config: &'c VmConfig,
    stop: Arc<StopSignal>,
}

/// A machine with everything in place.
///
/// The fields are dropped in this order: no vCPU runs when the devices go, and no device works when
/// the memory goes.
pub struct Machine {
    running: Vec<VcpuHandle>,
    created: Vec<Vcpu>,
    virtio: Attacher,
    _generation_id: VmGenId,
    console: Console,
    power_button: Option<EventFdLine>,
    stop: Arc<StopSignal>,
    _buses: Buses,
    _vm: Arc<VmFd>,
    _memory: GuestRam,
}

/// What the steps of a build hand to each other.
struct Hypervisor {
    kvm: Kvm,
    vm: Arc<VmFd>,
    cpuid: HostCpuid,
    layout: MemoryLayout,
    memory: GuestRam,
    router: Arc<InterruptRouter>,
}

impl<'c> MachineBuilder<'c> {
    /// Prepares to build what `config` describes; `stop` is how the machine's parts end it.
    pub fn new(config: &'c VmConfig, stop: Arc<StopSignal>) -> Self {
        Self { config, stop }
    }

    /// Builds the machine: memory, VM, kernel, devices, boot tables, vCPUs.
    ///
    /// # Errors
    /// [`VmmError`]; whatever was made until then is gone again.
    pub fn build(self) -> Result<Machine, VmmError> {
        let hypervisor = self.create_vm()?;
        let loaded = boot::load(&self.config.boot, &hypervisor.memory, &hypervisor.layout)?;
        let buses = attach::empty_buses();
        legacy::attach(&buses.pio, &self.stop)?;
        let mut attacher = Attacher::new(
            Arc::clone(&hypervisor.vm),
            hypervisor.memory.clone(),
            Arc::clone(&hypervisor.router),
            buses.clone(),
            &hypervisor.layout,
            self.config.machine.transport,
        )?;
        let console =
            console::attach(&self.config.console, &buses.pio, &hypervisor.router, &mut attacher)?;
        virtio::attach_all(self.config, &mut attacher)?;
        let generation_id = legacy::generation_id(&hypervisor.router)?;
        generation_id
            .generate(&hypervisor.memory)
            .map_err(|source| VmmError::os("write the VM generation ID", source))?;
        let power_button = hypervisor.router.line(gsi::GED)?;
        let boot_state = self.write_boot_data(&hypervisor, &loaded, &attacher.places())?;
        let created = self.create_vcpus(&hypervisor, &buses, &boot_state)?;
        Ok(Machine {
            running: Vec::new(),
            created,
            virtio: attacher,
            _generation_id: generation_id,
            console,
            power_button: Some(power_button),
            stop: self.stop,
            _buses: buses,
            _vm: hypervisor.vm,
            _memory: hypervisor.memory,
        })
    }

    /// Maps guest memory and creates the VM around it.
    fn create_vm(&self) -> Result<Hypervisor, VmmError> {
        let kvm = Kvm::new().map_err(|source| VmmError::kvm("opening /dev/kvm", source))?;
        let cpuid = HostCpuid::read(&kvm)?;
        let layout =
            HostArch::memory_layout(self.config.machine.mem_bytes(), cpuid.address_bits())?;
        let pages = match self.config.machine.huge_pages {
            HugePages::None => Pages::Ordinary,
            HugePages::Size2M => Pages::Huge2M,
        };
        let ranges: Vec<_> = layout.ram.iter().map(|ram| (ram.start(), ram.size())).collect();
        let memory = memory::allocate(&ranges, pages)?;
        let vm = kvm.create_vm().map_err(|source| VmmError::kvm("KVM_CREATE_VM", source))?;
        x86_64::prepare_vm(&vm)?;
        memory::register(&vm, &memory)?;
        let vm = Arc::new(vm);
        let router = InterruptRouter::new(Arc::clone(&vm));
        Ok(Hypervisor { kvm, vm, cpuid, layout, memory, router })
    }

    /// Writes what the kernel reads at its start, and returns the boot vCPU's registers.
    fn write_boot_data(
        &self,
        hypervisor: &Hypervisor,
        loaded: &Loaded,
        places: &VirtioPlaces,
    ) -> Result<<HostArch as Arch>::BootState, VmmError> {
        let config = self.config;
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

    fn create_vcpus(
        &self,
        hypervisor: &Hypervisor,
        buses: &Buses,
        boot_state: &<HostArch as Arch>::BootState,
    ) -> Result<Vec<Vcpu>, VmmError> {
        let count = self.config.machine.vcpus;
        let run_size_bytes = hypervisor
            .kvm
            .get_vcpu_mmap_size()
            .map_err(|source| VmmError::kvm("KVM_GET_VCPU_MMAP_SIZE", source))?;
        (0..count)
            .map(|index| {
                let fd = hypervisor
                    .vm
                    .create_vcpu(index.into())
                    .map_err(|source| VmmError::kvm("KVM_CREATE_VCPU", source))?;
                let boot_state = (index == 0).then_some(boot_state);
                let place = VcpuPlace { index, count };
                x86_64::set_up_vcpu(&fd, &hypervisor.cpuid, place, boot_state)?;
                let (buses, stop) = (buses.clone(), Arc::clone(&self.stop));
                Ok(Vcpu { index, fd, run_size_bytes, buses, stop })
            })
            .collect()
    }
}

impl Machine {
    /// Lets the vCPUs into the guest.
    ///
    /// # Errors
    /// When a thread can't be made.
    pub fn start(&mut self) -> Result<(), VmmError> {
        // The boot vCPU last: the others wait in KVM until it starts them.
        for vcpu in self.created.drain(..).rev() {
            self.running.push(vcpu::spawn(vcpu)?);
        }
        Ok(())
    }

    /// Serves signals and console input until the machine ends, takes it down, and returns why.
    ///
    /// # Errors
    /// When a vCPU can't go on, or the event loop can't be made or fails.
    pub fn run(
        mut self,
        signals: SignalFd,
        shutdown_timeout: Duration,
    ) -> Result<StopReason, VmmError> {
        let failed = |error: event_manager::Error| {
            VmmError::os("run the event loop", std::io::Error::other(error))
        };
        let mut events =
            EventManager::<Box<dyn MutEventSubscriber>>::new_with_capacity(16).map_err(failed)?;
        if let Some(power_button) = self.power_button.take() {
            let stop = Arc::clone(&self.stop);
            let control = Control::new(signals, stop, Box::new(power_button), shutdown_timeout)
                .map_err(|source| VmmError::os("create a timer", source))?;
            events.add_subscriber(Box::new(control));
        }
        if let Some(input) = self.console.take_input() {
            events.add_subscriber(input);
        }
        loop {
            if let Some(reason) = self.stop.reason() {
                let reason = reason.clone();
                self.take_down();
                return match reason {
                    StopReason::Fault(reason) => Err(VmmError::VcpuFailed { reason }),
                    reason => Ok(reason),
                };
            }
            events.run().map_err(failed)?;
        }
    }

    /// Stops the vCPUs, then every device's work, then what is left of the console's output.
    fn take_down(&mut self) {
        for vcpu in &self.running {
            vcpu.request_stop();
        }
        self.running.clear();
        for (_, device) in self.virtio.devices() {
            device.reset();
        }
        self.console.flush();
    }
}

/// The machine isn't left half taken down when its event loop fails.
impl Drop for Machine {
    fn drop(&mut self) {
        if !self.running.is_empty() {
            self.take_down();
        }
    }
}
