//! Gives virtio devices their place in the machine: a transport, addresses, interrupts, doorbells.

use std::fmt;
use std::sync::Arc;

use api::config::Transport;
use arch::{GuestRange, MemoryLayout};
use arch_x86_64::layout::{self, gsi};
use devices::pci::{BarObserver, ConfigPorts, Ecam, PciBus, SLOTS};
use devices::virtio::VirtioDevice;
use devices::virtio::transport::{
    NotifyPoint, VirtioMmio, VirtioPci, VirtioPciResources, VirtioTransport,
};
use devices::{Bus, BusDevice, GuestRam, InterruptLine, LogLimit};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vm_memory::GuestAddress;

use crate::error::VmmError;
use crate::interrupts::InterruptRouter;
use crate::vcpu::Buses;

/// What the guest has to be told about where virtio devices are.
#[derive(Debug)]
pub(super) enum VirtioPlaces {
    /// On PCI, where it finds them itself.
    Pci,
    /// In register windows with one interrupt each.
    Mmio(Vec<(GuestRange, u32)>),
}

impl VirtioPlaces {
    /// Returns the register windows and their interrupts; none on PCI.
    pub(super) fn windows(&self) -> &[(GuestRange, u32)] {
        match self {
            Self::Pci => &[],
            Self::Mmio(windows) => windows,
        }
    }
}

/// Attaches virtio devices one after the other.
pub(super) struct Attacher {
    vm: Arc<VmFd>,
    memory: GuestRam,
    router: Arc<InterruptRouter>,
    buses: Buses,
    place: Place,
    attached: Vec<Arc<dyn VirtioTransport>>,
}

enum Place {
    Pci { bus: Arc<PciBus>, next_slot: u8, bars: GuestRange },
    Mmio { windows: GuestRange, places: Vec<(GuestRange, u32)> },
}

impl Attacher {
    /// Prepares the transport: for PCI, its bus appears in the guest's address spaces.
    pub(super) fn new(
        vm: Arc<VmFd>,
        memory: GuestRam,
        router: Arc<InterruptRouter>,
        buses: Buses,
        layout: &MemoryLayout,
        transport: Transport,
    ) -> Result<Self, VmmError> {
        let place = match transport {
            Transport::Pci => {
                let bus = Arc::new(PciBus::new());
                let ecam = Arc::new(Ecam::new(Arc::clone(&bus)));
                buses.mmio.insert(layout.pci_ecam.start().0, Ecam::SIZE, ecam)?;
                let ports = Arc::new(ConfigPorts::new(Arc::clone(&bus)));
                buses.pio.insert(ConfigPorts::BASE, ConfigPorts::SIZE, ports)?;
                Place::Pci { bus, next_slot: 1, bars: layout.pci_mmio64 }
            }
            Transport::Mmio => Place::Mmio { windows: layout.virtio_mmio, places: Vec::new() },
        };
        Ok(Self { vm, memory, router, buses, place, attached: Vec::new() })
    }

    /// Attaches `device` at the next free place.
    ///
    /// # Errors
    /// [`VmmError::TooManyDevices`] when there is none, or what KVM or the host refused.
    pub(super) fn attach(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), VmmError> {
        let transport = match self.place {
            Place::Pci { .. } => self.attach_pci(device)?,
            Place::Mmio { .. } => self.attach_mmio(device)?,
        };
        log::debug!("attached {:?}", transport.device_type());
        self.attached.push(transport);
        Ok(())
    }

    /// Ends attaching: returns all devices, and where the guest finds them.
    pub(super) fn finish(self) -> (Vec<Arc<dyn VirtioTransport>>, VirtioPlaces) {
        let places = match self.place {
            Place::Pci { .. } => VirtioPlaces::Pci,
            Place::Mmio { places, .. } => VirtioPlaces::Mmio(places),
        };
        (self.attached, places)
    }

    fn attach_pci(
        &mut self,
        device: Box<dyn VirtioDevice>,
    ) -> Result<Arc<dyn VirtioTransport>, VmmError> {
        let Place::Pci { bus, next_slot, bars } = &mut self.place else {
            return Err(VmmError::TooManyDevices { what: "PCI devices", max: 0 });
        };
        let full = VmmError::TooManyDevices { what: "devices on PCI", max: usize::from(SLOTS) - 1 };
        let index = u64::from(*next_slot) - 1;
        let bar = GuestRange::new(
            GuestAddress(bars.start().0 + index * VirtioPci::BAR_SIZE),
            VirtioPci::BAR_SIZE,
        );
        let Some(bar) = bar.filter(|bar| *next_slot < SLOTS && bars.encloses(bar)) else {
            return Err(full);
        };
        let msi = self.router.msi_sender(VirtioPci::vector_count(&*device))?;
        let resources =
            VirtioPciResources { msi, mmio: Arc::clone(&self.buses.mmio), bar_base: bar.start().0 };
        let function = VirtioPci::new(device, self.memory.clone(), resources)
            .map_err(|source| VmmError::os("make a virtio PCI function", source))?;
        let function = Arc::new(function);
        let points = function.notify_points();
        function.observe_bar(Arc::new(Doorbells { vm: Arc::clone(&self.vm), points }));
        bus.insert(*next_slot, Arc::clone(&function) as _).map_err(|_| full)?;
        *next_slot += 1;
        Ok(function)
    }

    fn attach_mmio(
        &mut self,
        device: Box<dyn VirtioDevice>,
    ) -> Result<Arc<dyn VirtioTransport>, VmmError> {
        let full = VmmError::TooManyDevices {
            what: "devices on virtio-mmio",
            max: gsi::VIRTIO_MMIO.len(),
        };
        let Place::Mmio { windows, places } = &mut self.place else { return Err(full) };
        let index = places.len();
        let Some(&line) = gsi::VIRTIO_MMIO.get(index) else { return Err(full) };
        let base = windows.start().0 + index as u64 * layout::VIRTIO_MMIO_SLOT_SIZE;
        let window = GuestRange::new(GuestAddress(base), VirtioMmio::WINDOW_SIZE);
        let Some(window) = window.filter(|window| windows.encloses(window)) else {
            return Err(full);
        };
        let interrupt: Arc<dyn InterruptLine> = Arc::new(self.router.line(line)?);
        let transport = VirtioMmio::new(device, self.memory.clone(), interrupt)
            .map_err(|source| VmmError::os("make a virtio-mmio device", source))?;
        let transport = Arc::new(transport);
        self.buses.mmio.insert(
            base,
            VirtioMmio::WINDOW_SIZE,
            Arc::clone(&transport) as Arc<dyn BusDevice>,
        )?;
        for point in transport.notify_points() {
            doorbell(&self.vm, &point, base, Change::Add)
                .map_err(|source| VmmError::kvm("KVM_IOEVENTFD", source))?;
        }
        places.push((window, line));
        Ok(transport)
    }
}

/// Keeps KVM's doorbells where a device's BAR is.
struct Doorbells {
    vm: Arc<VmFd>,
    points: Vec<NotifyPoint>,
}

impl BarObserver for Doorbells {
    fn moved(&self, old: Option<u64>, new: Option<u64>) {
        static LOG: LogLimit = LogLimit::new();
        for (base, change) in [(old, Change::Remove), (new, Change::Add)] {
            let Some(base) = base else { continue };
            for point in &self.points {
                if let Err(error) = doorbell(&self.vm, point, base, change) {
                    // The transport notifies the queue itself when the write exits: only slower.
                    LOG.warn(format_args!(
                        "queue {}: can't {change} the ioeventfd at {base:#x}: {error}",
                        point.queue
                    ));
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Remove,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "add",
            Self::Remove => "remove",
        })
    }
}

/// Has KVM write the queue's eventfd itself when the guest writes the doorbell, or no longer.
fn doorbell(
    vm: &VmFd,
    point: &NotifyPoint,
    base: u64,
    change: Change,
) -> Result<(), kvm_ioctls::Error> {
    let address = IoEventAddress::Mmio(base.wrapping_add(point.offset));
    match (change, point.datamatch) {
        (Change::Add, Some(value)) => vm.register_ioevent(&point.kick, &address, value),
        (Change::Add, None) => vm.register_ioevent(&point.kick, &address, NoDatamatch),
        (Change::Remove, Some(value)) => vm.unregister_ioevent(&point.kick, &address, value),
        (Change::Remove, None) => vm.unregister_ioevent(&point.kick, &address, NoDatamatch),
    }
}

/// Creates both address spaces with nothing in them.
pub(super) fn empty_buses() -> Buses {
    Buses { pio: Arc::new(Bus::new()), mmio: Arc::new(Bus::new()) }
}
