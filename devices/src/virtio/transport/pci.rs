//! Virtio over PCI (VIRTIO 1.3 §4.1): one BAR of registers and MSI-X, without the interface from
//! before VIRTIO 1.0 and without INTx.

mod interrupt;
mod registers;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sys::memory::GuestRam;

use super::super::device::{DeviceType, VirtioDevice};
use super::core::{CoreState, VirtioTransportCore};
use super::{NotifyPoint, TransportState, VirtioTransport};
use crate::bus::{Bus, BusDevice};
use crate::interrupt::MsiSender;
use crate::pci::{
    BarObserver, BarWindow, ConfigSpace, ConfigSpaceState, Identity, MsixRegion, MsixTable,
    PciError, PciFunction,
};
use crate::state::{RestoreError, SaveError};
use interrupt::PciInterrupt;
use registers::{NOTIFY_MULTIPLIER, Registers, layout};

pub use interrupt::PciInterruptState;

/// The vendor of every virtio device (§4.1.2).
const VENDOR_ID: u16 = 0x1af4;

/// What is added to the device type to make a device number (§4.1.2), and here also to make the
/// number of the card, which says only that this isn't a transitional device.
const DEVICE_ID_BASE: u16 = 0x1040;
const SUBSYSTEM_ID_BASE: u16 = 0x40;

const BAR: u8 = 0;
const VENDOR_CAPABILITY: u8 = 0x09;

/// Types of virtio capabilities (§4.1.4).
const CAPABILITY_COMMON: u8 = 1;
const CAPABILITY_NOTIFY: u8 = 2;
const CAPABILITY_ISR: u8 = 3;
const CAPABILITY_DEVICE: u8 = 4;
const CAPABILITY_PCI: u8 = 5;

/// What the machine gives a virtio device on its PCI bus.
pub struct VirtioPciResources {
    /// Delivers [`VirtioPci::vector_count`] vectors.
    pub msi: Arc<dyn MsiSender>,
    /// The bus on which the BAR appears while the driver has memory decoding on.
    pub mmio: Arc<Bus>,
    /// Where the BAR is at first: a multiple of [`VirtioPci::BAR_SIZE`], not 0.
    pub bar_base: u64,
}

/// A virtio device that is a function on a PCI bus.
pub struct VirtioPci {
    registers: Arc<Registers>,
    state: Mutex<State>,
}

/// What configuration accesses change.
struct State {
    config: ConfigSpace,
    bar: BarWindow,
    /// Offset of MSI-X message control.
    msix_control: u16,
    /// Offset of the capability that reaches the BAR without memory accesses.
    window: u16,
}

impl VirtioPci {
    /// The size of BAR 0, the only one, in bytes. It's a 64-bit memory BAR.
    pub const BAR_SIZE: u64 = layout::SIZE;

    /// Returns how many MSI-X vectors `device` gets: one per queue and one for its configuration.
    pub fn vector_count(device: &dyn VirtioDevice) -> u16 {
        u16::try_from(device.queue_max_sizes().len()).unwrap_or(u16::MAX).saturating_add(1)
    }

    /// Makes `device` a PCI function whose BAR isn't mapped yet.
    ///
    /// # Errors
    /// When the device lists impossible or too many queues, the BAR's address is impossible, or an
    /// eventfd can't be made.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestRam,
        resources: VirtioPciResources,
    ) -> io::Result<Self> {
        let VirtioPciResources { msi, mmio, bar_base } = resources;
        let vectors = Self::vector_count(&*device);
        if vectors > layout::MAX_VECTORS {
            return Err(io::Error::other(PciError::InvalidVectorCount(vectors)));
        }
        let msix = MsixTable::new(vectors, msi).map_err(io::Error::other)?;
        let queues = vectors.saturating_sub(1);
        let interrupt = Arc::new(PciInterrupt::new(queues, msix));
        let core = VirtioTransportCore::new(device, memory, Arc::clone(&interrupt) as _)?;
        let registers = Arc::new(Registers::new(core, interrupt));
        let bar = BarWindow::new(&mmio, Arc::clone(&registers) as _, Self::BAR_SIZE);
        let state = State::new(&registers, bar, bar_base).map_err(io::Error::other)?;
        Ok(Self { registers, state: Mutex::new(state) })
    }

    /// Tells `observer` whenever the BAR appears, moves or goes.
    pub fn observe_bar(&self, observer: Arc<dyn BarObserver>) {
        self.state().bar.observe(observer);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VirtioTransport for VirtioPci {
    fn device_type(&self) -> DeviceType {
        self.registers.core().device_type()
    }

    fn notify_points(&self) -> Vec<NotifyPoint> {
        self.registers.notify_points()
    }

    fn is_active(&self) -> bool {
        self.registers.core().status() & super::status::DRIVER_OK != 0
    }

    fn reset(&self) {
        self.registers.core().reset();
    }

    fn request_pause(&self) {
        self.registers.core().request_pause();
    }

    fn pause(&self) {
        self.registers.core().pause();
    }

    fn resume(&self) {
        self.registers.core().resume();
    }

    fn save(&self) -> Result<TransportState, SaveError> {
        let Self { registers, state } = self;
        let core = registers.core().save()?;
        let State { config, bar: _, msix_control: _, window: _ } =
            &*state.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(TransportState::Pci(PciState {
            core,
            interrupt: registers.interrupt().save(),
            config: config.save(),
        }))
    }

    fn restore(&self, state: TransportState) -> Result<(), RestoreError> {
        let kind = state.kind();
        let TransportState::Pci(PciState { core, interrupt, config }) = state else {
            return RestoreError::expect("transport", kind, "virtio-pci");
        };
        let mut state = self.state();
        self.registers.interrupt().check(&interrupt)?;
        state.config.restore(&config)?;
        self.registers.core().restore(core)?;
        self.registers.interrupt().restore(&interrupt);
        state.apply(&self.registers);
        Ok(())
    }

    fn revive(&self) {
        self.registers.core().revive();
    }
}

/// What [`VirtioPci`] saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PciState {
    /// The device and its queues.
    pub core: CoreState,
    /// The MSI-X table, and which of its vectors is whose.
    pub interrupt: PciInterruptState,
    /// The configuration space: from the command register to where the BAR is.
    pub config: ConfigSpaceState,
}

impl PciFunction for VirtioPci {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let mut state = self.state();
        if state.is_window_data(offset, data.len()) {
            state.read_through_window(&self.registers);
        }
        state.config.read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let mut state = self.state();
        state.config.write(offset, data);
        if state.is_window_data(offset, data.len()) {
            state.write_through_window(&self.registers);
        }
        state.place_bar();
        if overlaps(offset, data.len(), state.msix_control, 2) {
            state.set_msix_control(&self.registers);
        }
    }

    fn removed(&self) {
        self.state().bar.close();
    }
}

impl State {
    fn new(registers: &Registers, bar: BarWindow, bar_base: u64) -> Result<Self, PciError> {
        let device_type = registers.core().device_type();
        let mut config = ConfigSpace::new(&identity(device_type));
        config.add_bar(BAR, layout::SIZE, bar_base)?;
        let region =
            MsixRegion { bar: BAR, table: layout::MSIX_TABLE, pending: layout::MSIX_PENDING };
        let msix_control = registers.msix().add_capability(&mut config, region)?;
        for (kind, start, len) in [
            (CAPABILITY_COMMON, layout::COMMON, layout::COMMON_LEN),
            (CAPABILITY_ISR, layout::ISR, layout::ISR_LEN),
            (CAPABILITY_DEVICE, layout::DEVICE, layout::DEVICE_LEN),
        ] {
            add_virtio_capability(&mut config, kind, start, len, &[], &[])?;
        }
        let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
        let notify_len = registers.notify_len();
        add_virtio_capability(
            &mut config,
            CAPABILITY_NOTIFY,
            layout::NOTIFY,
            notify_len,
            &multiplier,
            &[],
        )?;
        // BAR, offset, length and data are the driver's to write (§4.1.4.9).
        let writable = [&[0, 0, 0xff, 0, 0, 0][..], &[0xff; 12]].concat();
        let window = add_virtio_capability(&mut config, CAPABILITY_PCI, 0, 0, &[0; 4], &writable)?;
        Ok(Self { config, bar, msix_control, window })
    }

    fn place_bar(&mut self) {
        let window = self.config.bar_window(BAR);
        self.bar.place(window);
    }

    fn set_msix_control(&self, registers: &Registers) {
        let control = self.config.get(self.msix_control);
        registers.msix().set_control(u16::from_le_bytes(control));
    }

    /// Brings everything in line with a configuration space that was restored.
    fn apply(&mut self, registers: &Registers) {
        self.place_bar();
        self.set_msix_control(registers);
    }

    /// Returns the offset of the field through which the driver reaches the BAR.
    fn window_data(&self) -> u16 {
        self.window.saturating_add(16)
    }

    fn is_window_data(&self, offset: u16, len: usize) -> bool {
        overlaps(offset, len, self.window_data(), 4)
    }

    /// Returns where in the BAR the driver wants to read or write, and how many bytes, if it's
    /// something that exists: 1, 2 or 4 bytes, aligned, within the BAR (§4.1.4.9).
    fn window_target(&self) -> Option<(u64, usize)> {
        let field = |at: u16| u32::from_le_bytes(self.config.get(self.window.saturating_add(at)));
        let [bar] = self.config.get(self.window.saturating_add(4));
        let (offset, len) = (u64::from(field(8)), field(12));
        let inside = offset.checked_add(u64::from(len))? <= layout::SIZE;
        let aligned = matches!(len, 1 | 2 | 4) && offset.is_multiple_of(u64::from(len));
        (bar == BAR && inside && aligned).then_some((offset, usize::try_from(len).ok()?))
    }

    fn read_through_window(&mut self, registers: &Registers) {
        let mut value = [0; 4];
        if let Some((offset, len)) = self.window_target()
            && let Some(part) = value.get_mut(..len)
        {
            registers.read(offset, part);
        }
        self.config.set(self.window_data(), &value);
    }

    fn write_through_window(&self, registers: &Registers) {
        let value: [u8; 4] = self.config.get(self.window_data());
        if let Some((offset, len)) = self.window_target()
            && let Some(part) = value.get(..len)
        {
            registers.write(offset, part);
        }
    }
}

fn identity(device_type: DeviceType) -> Identity {
    let id = device_type.id();
    Identity {
        vendor: VENDOR_ID,
        device: DEVICE_ID_BASE.saturating_add(id),
        revision: 1,
        class: class(device_type),
        subsystem_vendor: VENDOR_ID,
        subsystem: SUBSYSTEM_ID_BASE.saturating_add(id),
    }
}

/// Returns class, subclass and programming interface: nothing but a hint, drivers match numbers.
fn class(device_type: DeviceType) -> u32 {
    match device_type {
        DeviceType::Net => 0x02_00_00,
        DeviceType::Block => 0x01_80_00,
        DeviceType::Console | DeviceType::Vsock => 0x07_80_00,
        DeviceType::Fs => 0x01_80_00,
        DeviceType::Rng | DeviceType::Balloon | DeviceType::Memory | DeviceType::Pmem => 0xff_00_00,
    }
}

/// Adds a `virtio_pci_cap` (§4.1.4) with `extra` after it; returns its offset.
fn add_virtio_capability(
    config: &mut ConfigSpace,
    kind: u8,
    start: u32,
    len: u32,
    extra: &[u8],
    writable: &[u8],
) -> Result<u16, PciError> {
    let cap_len = u8::try_from(extra.len()).unwrap_or(u8::MAX).saturating_add(16);
    let head = [cap_len, kind, BAR, 0, 0, 0];
    let body = [&head[..], &start.to_le_bytes(), &len.to_le_bytes(), extra].concat();
    config.add_capability(VENDOR_CAPABILITY, &body, writable)
}

fn overlaps(offset: u16, len: usize, field: u16, field_len: u16) -> bool {
    let end = usize::from(offset).saturating_add(len);
    end > usize::from(field) && offset < field.saturating_add(field_len)
}
