//! Gives virtio devices their place in the machine: a transport, addresses, interrupts, doorbells.

mod doorbells;
mod ejections;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::config::Transport;
use arch::{GuestRange, MemoryLayout};
use arch_x86_64::layout::{self, gsi, ports};
use devices::pci::{ConfigPorts, Ecam, PciBus, PciHotplug, PciRootState, SLOTS};
use devices::virtio::VirtioDevice;
use devices::virtio::transport::{VirtioMmio, VirtioPci, VirtioPciResources, VirtioTransport};
use devices::{Bus, BusDevice, GuestRam, InterruptLine};
use kvm_ioctls::VmFd;
use vm_memory::GuestAddress;

use crate::error::VmmError;
use crate::interrupts::InterruptRouter;
use crate::vcpu::Buses;
use doorbells::{Change, Doorbells, doorbell};
pub(super) use ejections::Ejections;

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

/// Attaches virtio devices one after the other, and on PCI also takes them off again.
///
/// A place is a slot on PCI, or the index of a register window. The lowest free one is used first.
pub(super) struct Attacher {
    vm: Arc<VmFd>,
    memory: GuestRam,
    router: Arc<InterruptRouter>,
    buses: Buses,
    place: Place,
    attached: BTreeMap<u8, Arc<dyn VirtioTransport>>,
}

enum Place {
    Pci(PciPlace),
    Mmio { windows: GuestRange },
}

/// The bus, and what announces changes of it.
struct PciPlace {
    bus: Arc<PciBus>,
    ports: Arc<ConfigPorts>,
    hotplug: Arc<PciHotplug>,
    ejections: Arc<Ejections>,
    bars: GuestRange,
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
            Transport::Pci => Place::Pci(PciPlace::new(&router, &buses, layout)?),
            Transport::Mmio => Place::Mmio { windows: layout.virtio_mmio },
        };
        Ok(Self { vm, memory, router, buses, place, attached: BTreeMap::new() })
    }

    /// Attaches `device` at the lowest free place, which it returns. A guest that runs already
    /// doesn't hear of it: see [`plug`](Self::plug).
    ///
    /// # Errors
    /// [`VmmError::TooManyDevices`] when there is none, or what KVM or the host refused.
    pub(super) fn attach(&mut self, device: Box<dyn VirtioDevice>) -> Result<u8, VmmError> {
        let first = self.place.first();
        let free = (first..u8::MAX).find(|place| !self.attached.contains_key(place));
        let place = free.unwrap_or(u8::MAX);
        self.attach_at(place, device)?;
        Ok(place)
    }

    /// Attaches `device` at `place`, where a restored guest expects it.
    ///
    /// # Errors
    /// [`VmmError::TooManyDevices`] when there is no such place or it's taken, or what KVM or the
    /// host refused.
    pub(super) fn attach_at(
        &mut self,
        place: u8,
        device: Box<dyn VirtioDevice>,
    ) -> Result<(), VmmError> {
        if self.attached.contains_key(&place) {
            return Err(self.place.full());
        }
        let transport = match &self.place {
            Place::Pci(pci) => self.attach_pci(pci, place, device)?,
            Place::Mmio { windows } => self.attach_mmio(windows, place, device)?,
        };
        log::debug!("attached {:?} at place {place}", transport.device_type());
        self.attached.insert(place, transport);
        Ok(())
    }

    /// Returns all devices by their places.
    pub(super) fn devices(&self) -> impl Iterator<Item = (u8, &Arc<dyn VirtioTransport>)> {
        self.attached.iter().map(|(place, transport)| (*place, transport))
    }

    /// Returns where the guest finds `place`, in words: a PCI function, or a window's address.
    pub(super) fn address(&self, place: u8) -> String {
        match &self.place {
            Place::Pci(_) => format!("0000:00:{place:02x}.0"),
            Place::Mmio { windows } => mmio_place(windows, place)
                .map(|(window, _)| format!("{:#x}", window.start().0))
                .unwrap_or_default(),
        }
    }

    /// Returns where the guest finds what is attached.
    pub(super) fn places(&self) -> VirtioPlaces {
        match &self.place {
            Place::Pci(_) => VirtioPlaces::Pci,
            Place::Mmio { windows } => VirtioPlaces::Mmio(
                self.attached.keys().filter_map(|place| mmio_place(windows, *place)).collect(),
            ),
        }
    }

    fn attach_pci(
        &self,
        pci: &PciPlace,
        slot: u8,
        device: Box<dyn VirtioDevice>,
    ) -> Result<Arc<dyn VirtioTransport>, VmmError> {
        let bar = pci.bar(slot).ok_or_else(|| self.place.full())?;
        let msi = self.router.msi_sender(VirtioPci::vector_count(&*device))?;
        let resources =
            VirtioPciResources { msi, mmio: Arc::clone(&self.buses.mmio), bar_base: bar.start().0 };
        let function = VirtioPci::new(device, self.memory.clone(), resources)
            .map_err(|source| VmmError::os("make a virtio PCI function", source))?;
        let function = Arc::new(function);
        let points = function.notify_points();
        function.observe_bar(Arc::new(Doorbells { vm: Arc::clone(&self.vm), points }));
        pci.bus.insert(slot, Arc::clone(&function) as _).map_err(|_| self.place.full())?;
        Ok(function)
    }

    fn attach_mmio(
        &self,
        windows: &GuestRange,
        index: u8,
        device: Box<dyn VirtioDevice>,
    ) -> Result<Arc<dyn VirtioTransport>, VmmError> {
        let (window, line) = mmio_place(windows, index).ok_or_else(|| self.place.full())?;
        let base = window.start().0;
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
        Ok(transport)
    }
}

/// Changes while the guest runs. Only PCI can announce them.
impl Attacher {
    /// Attaches `device` and tells the guest. Returns its slot.
    ///
    /// # Errors
    /// As [`attach`](Self::attach); and [`VmmError::TooManyDevices`] without PCI.
    pub(super) fn plug(&mut self, device: Box<dyn VirtioDevice>) -> Result<u8, VmmError> {
        let Place::Pci(pci) = &self.place else { return Err(NO_HOTPLUG) };
        let hotplug = Arc::clone(&pci.hotplug);
        let slot = self.attach(device)?;
        hotplug.request_plug(slot).map_err(|_| self.place.full())?;
        Ok(slot)
    }

    /// Asks the guest to give up the device in `slot`; [`ejections`](Self::ejections) tell when it
    /// has, which a guest may never do. Returns whether there is such a device to ask for.
    pub(super) fn request_unplug(&self, slot: u8) -> bool {
        match &self.place {
            Place::Pci(pci) if self.attached.contains_key(&slot) => {
                pci.hotplug.request_unplug(slot).is_ok()
            }
            Place::Pci(_) | Place::Mmio { .. } => false,
        }
    }

    /// Returns what the guest has given up, for the main thread to watch and to
    /// [`detach`](Self::detach); none without PCI.
    pub(super) fn ejections(&self) -> Option<&Arc<Ejections>> {
        match &self.place {
            Place::Pci(pci) => Some(&pci.ejections),
            Place::Mmio { .. } => None,
        }
    }

    /// Takes the device in `slot` out of the machine, resets it, which joins its workers, and drops
    /// it. Its BAR, doorbells and interrupts are free then. Returns whether there was one.
    ///
    /// Works whether the guest gave the device up or not; a driver that still uses it reads all ones.
    pub(super) fn detach(&mut self, slot: u8) -> bool {
        let Place::Pci(pci) = &self.place else { return false };
        let Some(transport) = self.attached.remove(&slot) else { return false };
        pci.bus.remove(slot);
        transport.reset();
        log::debug!("detached {:?} from slot {slot}", transport.device_type());
        true
    }

    /// Returns what of the bus itself has to survive a snapshot; none without PCI. vCPUs must be
    /// paused and ejections served.
    pub(super) fn save_root(&self) -> Option<PciRootState> {
        let Place::Pci(pci) = &self.place else { return None };
        Some(PciRootState { config_address: pci.ports.save(), hotplug: pci.hotplug.save() })
    }

    /// Takes over what [`save_root`](Self::save_root) returned, once interrupt controllers are
    /// restored: the guest is told again what it may not have heard.
    pub(super) fn restore_root(&self, saved: &PciRootState) {
        if let Place::Pci(pci) = &self.place {
            pci.ports.restore(saved.config_address);
            pci.hotplug.restore(saved.hotplug);
        }
    }
}

const NO_HOTPLUG: VmmError =
    VmmError::TooManyDevices { what: "hot-plugged devices without PCI", max: 0 };

impl Place {
    fn first(&self) -> u8 {
        match self {
            // The host bridge is in slot 0.
            Self::Pci(_) => 1,
            Self::Mmio { .. } => 0,
        }
    }

    fn full(&self) -> VmmError {
        let (what, max) = match self {
            Self::Pci(_) => ("devices on PCI", usize::from(SLOTS) - 1),
            Self::Mmio { .. } => ("devices on virtio-mmio", gsi::VIRTIO_MMIO.len()),
        };
        VmmError::TooManyDevices { what, max }
    }
}

impl PciPlace {
    fn new(
        router: &InterruptRouter,
        buses: &Buses,
        layout: &MemoryLayout,
    ) -> Result<Self, VmmError> {
        let bus = Arc::new(PciBus::new());
        let ecam = Arc::new(Ecam::new(Arc::clone(&bus)));
        buses.mmio.insert(layout.pci_ecam.start().0, Ecam::SIZE, ecam)?;
        let ports = Arc::new(ConfigPorts::new(Arc::clone(&bus)));
        buses.pio.insert(ConfigPorts::BASE, ConfigPorts::SIZE, Arc::clone(&ports) as _)?;
        let ejections = Arc::new(Ejections::new()?);
        let line: Arc<dyn InterruptLine> = Arc::new(router.line(gsi::PCI_HOTPLUG)?);
        let hotplug = Arc::new(PciHotplug::new(line, Arc::clone(&ejections) as _));
        let registers = Arc::clone(&hotplug) as Arc<dyn BusDevice>;
        buses.pio.insert(ports::PCI_HOTPLUG.base.into(), PciHotplug::SIZE, registers)?;
        Ok(Self { bus, ports, hotplug, ejections, bars: layout.pci_mmio64 })
    }

    /// Returns where the BAR of the function in `slot` is at first: each slot has a place of its
    /// own, so that the next function in it finds that free.
    fn bar(&self, slot: u8) -> Option<GuestRange> {
        let index = u64::from(slot.checked_sub(1)?);
        let start = GuestAddress(self.bars.start().0 + index * VirtioPci::BAR_SIZE);
        let bar = GuestRange::new(start, VirtioPci::BAR_SIZE)?;
        (slot < SLOTS && self.bars.encloses(&bar)).then_some(bar)
    }
}

/// Returns the register window and the interrupt of the device at `index`.
fn mmio_place(windows: &GuestRange, index: u8) -> Option<(GuestRange, u32)> {
    let line = *gsi::VIRTIO_MMIO.get(usize::from(index))?;
    let base = windows.start().0 + u64::from(index) * layout::VIRTIO_MMIO_SLOT_SIZE;
    let window = GuestRange::new(GuestAddress(base), VirtioMmio::WINDOW_SIZE)?;
    windows.encloses(&window).then_some((window, line))
}

/// Creates both address spaces with nothing in them.
pub(super) fn empty_buses() -> Buses {
    Buses { pio: Arc::new(Bus::new()), mmio: Arc::new(Bus::new()) }
}
