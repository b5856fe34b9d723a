//! A machine: built out of a configuration or a snapshot, run, paused, saved, and taken down.
//!
//! ```text
//! MachineBuilder ──build──▶ created ──start──▶ running ──pause──▶ paused ──save──▶ MachineState
//!        └─────────restore───────────────────────│◀────resume──────┘ ▲                │
//!                  └────────────────────────────────────────────────-┘◀───────────────┘
//! ```

mod attach;
mod balloon;
mod boot;
mod boot_timer;
mod builder;
mod change;
mod console;
mod counters;
mod cpu_template;
mod device_memory;
mod filesystem;
mod fork;
mod legacy;
mod overlay;
mod pluggable;
mod registry;
mod state;
mod virtio;

use std::sync::Arc;

use api::config::{VmConfig, VmSpec};
use api::ext::DeviceDetails;
use devices::legacy::VmGenId;
use devices::mmds::Mmds;
use devices::{EventFdLine, GuestRam, InterruptLine};
use event_manager::MutEventSubscriber;
use kvm_ioctls::VmFd;
use snapshot::CpuSummary;

use crate::error::VmmError;
use crate::status::Status;
use crate::stop::StopSignal;
use crate::vcpu::{self, Buses, Vcpu, VcpuHandle};
use crate::x86_64::{HostCpuid, StateReader};

use console::Console;
use legacy::Legacy;
use registry::Devices;

pub use builder::MachineBuilder;
pub(crate) use fork::ForkedDrives;
pub(crate) use overlay::Overlays;
pub(crate) use state::MachineState;

/// The architecture of the host and so of its guests.
type HostArch = arch_x86_64::X86_64;

/// What a machine shares with the process around it.
#[derive(Clone)]
pub struct Surroundings {
    /// How the machine's parts end it.
    pub stop: Arc<StopSignal>,
    /// The metadata service.
    pub mmds: Arc<Mmds>,
    /// Where events go.
    pub status: Status,
    /// Since when the boot timer counts, by `CLOCK_MONOTONIC` in nanoseconds, if there is one.
    pub boot_timer_since_ns: Option<u64>,
}

/// A machine with everything in place.
///
/// The fields are dropped in this order: no vCPU runs when the devices go, and no device works when
/// the memory goes.
pub struct Machine {
    vcpus: Vec<VcpuHandle>,
    /// Those that have no thread yet.
    created: Vec<Vcpu>,
    devices: Devices,
    generation_id: VmGenId,
    legacy: Legacy,
    console: Console,
    power_button: EventFdLine,
    config: VmConfig,
    around: Surroundings,
    reader: StateReader,
    cpuid: HostCpuid,
    _buses: Buses,
    vm: Arc<VmFd>,
    memory: GuestRam,
}

impl Machine {
    /// Lets the vCPUs of a machine that was built into the guest.
    ///
    /// # Errors
    /// When a thread can't be made.
    pub fn start(&mut self) -> Result<(), VmmError> {
        // The boot vCPU last: the others wait in KVM until it starts them.
        for vcpu in self.created.drain(..).rev() {
            self.vcpus.push(vcpu::spawn(vcpu)?);
        }
        self.vcpus.sort_by_key(VcpuHandle::index);
        Ok(())
    }

    /// Parks vCPUs and device workers; afterwards nothing touches guest memory.
    ///
    /// # Errors
    /// When a vCPU has ended the machine instead; the others go on then.
    pub(crate) fn pause(&self) -> Result<(), VmmError> {
        self.vcpus.iter().for_each(VcpuHandle::request_pause);
        let parked = self.vcpus.iter().try_for_each(VcpuHandle::wait_paused);
        if let Err(error) = parked {
            self.vcpus.iter().for_each(VcpuHandle::resume);
            return Err(error.into());
        }
        // After the vCPUs: one could still have notified a queue.
        self.devices.pause();
        // What the guest printed is its reader's, not a snapshot's.
        self.console.drain();
        Ok(())
    }

    /// Lets a paused machine go on.
    pub(crate) fn resume(&self) {
        self.devices.resume();
        self.vcpus.iter().for_each(VcpuHandle::resume);
    }

    /// Saves all of a paused machine but its memory.
    ///
    /// # Errors
    /// When KVM doesn't tell, or a device can't be saved.
    pub(crate) fn save(&self) -> Result<MachineState, VmmError> {
        let vcpus = self.reader.read_vcpus(&self.vcpus)?;
        let guest_cpuid = vcpus.first().map(|vcpu| vcpu.cpuid().to_vec()).unwrap_or_default();
        Ok(MachineState {
            config: VmSpec::from(self.config.clone()),
            cpu: self.cpuid.snapshot(&guest_cpuid),
            vm: self.reader.read_vm()?,
            vcpus,
            legacy: self.legacy.save(),
            pci: self.devices.attacher().save_root(),
            devices: self.devices.save()?,
        })
    }

    /// Raises every interrupt that may have been on its way when the machine was saved.
    fn revive(&self) {
        self.legacy.revive();
        self.devices.revive();
    }

    /// Presses the guest's power button.
    pub(crate) fn press_power_button(&self) {
        self.power_button.trigger();
    }

    /// Gives up the console's input, for an event loop to serve.
    pub(crate) fn take_console_input(&mut self) -> Option<Box<dyn MutEventSubscriber>> {
        self.console.take_input()
    }

    /// Returns the configuration as it is now.
    pub(crate) fn config(&self) -> &VmConfig {
        &self.config
    }

    /// Returns guest memory.
    pub(crate) fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// Describes the guest's CPU in short.
    pub(crate) fn cpu_summary(&self) -> CpuSummary {
        self.cpuid.summary()
    }

    /// Returns KVM's handle, for the log of dirty pages.
    pub(crate) fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// Describes all devices.
    pub(crate) fn devices(&self) -> Vec<DeviceDetails> {
        self.devices.details()
    }

    /// Returns what becomes readable when the guest has given devices up.
    pub(crate) fn ejections(&self) -> Option<std::os::fd::RawFd> {
        use std::os::fd::AsRawFd;
        self.devices.attacher().ejections().map(|ejections| ejections.event().as_raw_fd())
    }

    /// Stops the vCPUs, then every device's work, then what is left of the console's output.
    pub(crate) fn take_down(&mut self) {
        self.vcpus.iter().for_each(VcpuHandle::request_stop);
        self.vcpus.clear();
        self.devices.reset();
        self.console.flush();
    }
}

/// The machine isn't left half taken down when its event loop fails.
impl Drop for Machine {
    fn drop(&mut self) {
        if !self.vcpus.is_empty() {
            self.take_down();
        }
    }
}
