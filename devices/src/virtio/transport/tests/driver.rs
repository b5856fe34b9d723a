//! The driver's side of each transport: nothing here knows more than the registers say.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sys::memory::GuestRam;
use virtio_queue::QueueT;

use super::super::core::status;
use super::super::{NotifyPoint, Ring, VirtioMmio, VirtioPci, VirtioPciResources, VirtioTransport};
use super::device::Probe;
use crate::bus::{Bus, BusDevice};
use crate::interrupt::{InterruptLine, MsiMessage, MsiSender};
use crate::pci::{ConfigAddress, PciBus};
use crate::virtio::VirtioDevice;
use crate::virtio::testing::{TestQueue, guest_ram};

pub(super) const VERSION_1: u64 = 1 << 32;

/// A driver of one device. The functions do one register access each, or the few that belong
/// together.
pub(super) trait Driver: Sized {
    fn new(probe: &Probe, memory: GuestRam) -> Self {
        Self::with_device(probe.device(), memory)
    }
    fn with_device(device: Box<dyn VirtioDevice>, memory: GuestRam) -> Self;
    fn transport(&self) -> &dyn VirtioTransport;

    fn status(&self) -> u8;
    fn set_status(&self, value: u8);
    fn device_features(&self, word: u32) -> u32;
    fn set_driver_features(&self, word: u32, value: u32);
    fn config_generation(&self) -> u32;
    fn read_config(&self, offset: u64, data: &mut [u8]);
    fn write_config(&self, offset: u64, data: &[u8]);

    fn select_queue(&self, index: u32);
    fn queue_max_size(&self) -> u32;
    fn set_queue_size(&self, size: u16);
    fn set_ring(&self, ring: Ring, address: u64);
    fn enable_queue(&self);
    fn queue_enabled(&self) -> bool;
    fn notify(&self, index: u32);
    /// Says how the queue is interrupted, where that is the driver's choice.
    fn bind_interrupts(&self);

    /// Counts interrupts since the last call.
    fn take_interrupts(&self) -> usize;
    /// Reads, and so acknowledges, why there was an interrupt.
    fn take_interrupt_status(&self) -> u32;

    /// Accesses any offset of the registers.
    fn peek(&self, offset: u64, data: &mut [u8]);
    fn poke(&self, offset: u64, data: &[u8]);
    fn register_bytes(&self) -> u64;
    /// Accesses what the bus would have refused to pass on.
    fn poke_unbounded(&self, offset: u64, data: &mut [u8]);
}

/// Starts a driver with a fresh device.
pub(super) fn start<D: Driver>() -> (D, Probe, GuestRam) {
    let (probe, memory) = (Probe::default(), guest_ram());
    (D::new(&probe, memory.clone()), probe, memory)
}

/// Takes every step up to the agreement on `features`.
pub(super) fn negotiate<D: Driver>(driver: &D, features: u64) {
    driver.set_status(0);
    driver.set_status(status::ACKNOWLEDGE);
    driver.set_status(status::ACKNOWLEDGE | status::DRIVER);
    driver.set_driver_features(0, features as u32);
    driver.set_driver_features(1, (features >> 32) as u32);
    driver.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    driver.bind_interrupts();
}

/// Describes `ring` as queue `index` and enables it.
pub(super) fn set_up_queue<D: Driver>(driver: &D, index: u32, ring: &virtio_queue::Queue) {
    driver.select_queue(index);
    driver.set_queue_size(ring.size());
    driver.set_ring(Ring::Descriptors, ring.desc_table());
    driver.set_ring(Ring::Available, ring.avail_ring());
    driver.set_ring(Ring::Used, ring.used_ring());
    driver.enable_queue();
}

pub(super) fn set_driver_ok<D: Driver>(driver: &D) {
    driver
        .set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK);
}

/// Goes from nothing to an active device with queue 0 of 8 entries.
pub(super) fn bring_up<D: Driver>(driver: &D, memory: &GuestRam) -> TestQueue {
    let queue = TestQueue::new(memory.clone(), 8);
    negotiate(driver, VERSION_1);
    set_up_queue(driver, 0, &queue.ring());
    set_driver_ok(driver);
    queue
}

/// Counts edges of a line, or messages.
#[derive(Default)]
pub(super) struct Counter(AtomicUsize);

impl Counter {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn take(&self) -> usize {
        self.0.swap(0, Ordering::AcqRel)
    }
}

impl InterruptLine for Counter {
    fn trigger(&self) {
        self.add();
    }
}

impl MsiSender for Counter {
    fn route(&self, _vector: u16, _message: MsiMessage) -> std::io::Result<()> {
        Ok(())
    }

    fn signal(&self, _vector: u16) {
        self.add();
    }
}

pub(super) struct Mmio {
    pub(super) transport: VirtioMmio,
    line: Arc<Counter>,
}

impl Mmio {
    fn get(&self, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }
}

impl Driver for Mmio {
    fn with_device(device: Box<dyn VirtioDevice>, memory: GuestRam) -> Self {
        let line = Arc::new(Counter::default());
        let transport = VirtioMmio::new(device, memory, line.clone()).unwrap();
        Self { transport, line }
    }

    fn transport(&self) -> &dyn VirtioTransport {
        &self.transport
    }

    fn status(&self) -> u8 {
        self.get(0x70) as u8
    }

    fn set_status(&self, value: u8) {
        self.set(0x70, value.into());
    }

    fn device_features(&self, word: u32) -> u32 {
        self.set(0x14, word);
        self.get(0x10)
    }

    fn set_driver_features(&self, word: u32, value: u32) {
        self.set(0x24, word);
        self.set(0x20, value);
    }

    fn config_generation(&self) -> u32 {
        self.get(0xfc)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.transport.read(0x100 + offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.transport.write(0x100 + offset, data);
    }

    fn select_queue(&self, index: u32) {
        self.set(0x30, index);
    }

    fn queue_max_size(&self) -> u32 {
        self.get(0x34)
    }

    fn set_queue_size(&self, size: u16) {
        self.set(0x38, size.into());
    }

    fn set_ring(&self, ring: Ring, address: u64) {
        let at = match ring {
            Ring::Descriptors => 0x80,
            Ring::Available => 0x90,
            Ring::Used => 0xa0,
        };
        self.set(at, address as u32);
        self.set(at + 4, (address >> 32) as u32);
    }

    fn enable_queue(&self) {
        self.set(0x44, 1);
    }

    fn queue_enabled(&self) -> bool {
        self.get(0x44) == 1
    }

    fn notify(&self, index: u32) {
        self.set(0x50, index);
    }

    fn bind_interrupts(&self) {}

    fn take_interrupts(&self) -> usize {
        self.line.take()
    }

    fn take_interrupt_status(&self) -> u32 {
        let causes = self.get(0x60);
        self.set(0x64, causes);
        causes
    }

    fn peek(&self, offset: u64, data: &mut [u8]) {
        self.transport.read(offset, data);
    }

    fn poke(&self, offset: u64, data: &[u8]) {
        self.transport.write(offset, data);
    }

    fn register_bytes(&self) -> u64 {
        VirtioMmio::WINDOW_SIZE
    }

    fn poke_unbounded(&self, offset: u64, data: &mut [u8]) {
        self.transport.read(offset, data);
        self.transport.write(offset, data);
    }
}

/// Where [`Pci`] has its BAR.
pub(super) const BAR: u64 = 0x4000_0000;

pub(super) struct Pci {
    pub(super) transport: Arc<VirtioPci>,
    pub(super) mmio: Arc<Bus>,
    pub(super) bus: PciBus,
    pub(super) messages: Arc<Counter>,
    common: u64,
    notify: u64,
    notify_multiplier: u64,
    isr: u64,
    device: u64,
    msix_control: u16,
}

impl Pci {
    pub(super) fn config(&self, register: u16, data: &mut [u8]) {
        self.bus.read_config(Self::address(register), data);
    }

    pub(super) fn set_config(&self, register: u16, data: &[u8]) {
        self.bus.write_config(Self::address(register), data);
    }

    fn address(register: u16) -> ConfigAddress {
        ConfigAddress { bus: 0, slot: 3, function: 0, register }
    }

    /// Returns the bytes of each capability with its offset.
    pub(super) fn capabilities(&self) -> Vec<(u16, [u8; 20])> {
        let mut found = Vec::new();
        let mut next = [0];
        self.config(0x34, &mut next);
        while next[0] != 0 && found.len() < 48 {
            let at = u16::from(next[0]);
            let mut bytes = [0; 20];
            for (byte, place) in bytes.iter_mut().zip(at..) {
                self.config(place, std::slice::from_mut(byte));
            }
            next = [bytes[1]];
            found.push((at, bytes));
        }
        found
    }

    /// Finds a virtio capability as a driver does; returns its offset and its bytes.
    pub(super) fn virtio_capability(&self, kind: u8) -> (u16, [u8; 20]) {
        let matches = |(_, bytes): &(u16, [u8; 20])| bytes[0] == 9 && bytes[3] == kind;
        self.capabilities().into_iter().find(matches).unwrap()
    }

    pub(super) fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        assert!(self.mmio.read(BAR + offset, &mut data), "the BAR isn't mapped");
        data
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        assert!(self.mmio.write(BAR + offset, data), "the BAR isn't mapped");
    }

    pub(super) fn get_u16(&self, field: u64) -> u16 {
        u16::from_le_bytes(self.read(self.common + field))
    }

    pub(super) fn set_u16(&self, field: u64, value: u16) {
        self.write(self.common + field, &value.to_le_bytes());
    }

    fn set_u32(&self, field: u64, value: u32) {
        self.write(self.common + field, &value.to_le_bytes());
    }

    pub(super) fn set_msix_control(&self, control: u16) {
        self.set_config(self.msix_control, &control.to_le_bytes());
    }

    /// Writes one entry of the MSI-X table.
    pub(super) fn set_vector(&self, vector: u64, address: u64, data: u32, masked: bool) {
        let entry = 0x4000 + vector * 16;
        self.write(entry, &address.to_le_bytes());
        self.write(entry + 8, &data.to_le_bytes());
        self.write(entry + 12, &u32::from(masked).to_le_bytes());
    }
}

impl Driver for Pci {
    fn with_device(device: Box<dyn VirtioDevice>, memory: GuestRam) -> Self {
        let (mmio, bus) = (Arc::new(Bus::new()), PciBus::new());
        let messages = Arc::new(Counter::default());
        let resources =
            VirtioPciResources { msi: messages.clone(), mmio: Arc::clone(&mmio), bar_base: BAR };
        let transport = Arc::new(VirtioPci::new(device, memory, resources).unwrap());
        bus.insert(3, transport.clone()).unwrap();
        let mut this = Self {
            transport,
            mmio,
            bus,
            messages,
            common: 0,
            notify: 0,
            notify_multiplier: 0,
            isr: 0,
            device: 0,
            msix_control: 0,
        };
        let place = |kind| {
            let (_, bytes) = this.virtio_capability(kind);
            assert_eq!(bytes[4], 0, "another BAR");
            u64::from(u32::from_le_bytes(bytes[8..12].try_into().unwrap()))
        };
        let [common, notify, isr, device] = [1, 2, 3, 4].map(place);
        (this.common, this.notify, this.isr, this.device) = (common, notify, isr, device);
        let (_, notify) = this.virtio_capability(2);
        this.notify_multiplier = u32::from_le_bytes(notify[16..20].try_into().unwrap()).into();
        let msix = this.capabilities().into_iter().find(|(_, bytes)| bytes[0] == 0x11).unwrap();
        this.msix_control = msix.0 + 2;
        this.set_config(0x04, &[0x06, 0]);
        this
    }

    fn transport(&self) -> &dyn VirtioTransport {
        &*self.transport
    }

    fn status(&self) -> u8 {
        self.read::<1>(self.common + 0x14)[0]
    }

    fn set_status(&self, value: u8) {
        self.write(self.common + 0x14, &[value]);
    }

    fn device_features(&self, word: u32) -> u32 {
        self.set_u32(0x00, word);
        u32::from_le_bytes(self.read(self.common + 0x04))
    }

    fn set_driver_features(&self, word: u32, value: u32) {
        self.set_u32(0x08, word);
        self.set_u32(0x0c, value);
    }

    fn config_generation(&self) -> u32 {
        self.read::<1>(self.common + 0x15)[0].into()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        assert!(self.mmio.read(BAR + self.device + offset, data));
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.write(self.device + offset, data);
    }

    fn select_queue(&self, index: u32) {
        self.set_u16(0x16, u16::try_from(index).unwrap_or(u16::MAX));
    }

    fn queue_max_size(&self) -> u32 {
        self.get_u16(0x18).into()
    }

    fn set_queue_size(&self, size: u16) {
        self.set_u16(0x18, size);
    }

    fn set_ring(&self, ring: Ring, address: u64) {
        let field = match ring {
            Ring::Descriptors => 0x20,
            Ring::Available => 0x28,
            Ring::Used => 0x30,
        };
        self.set_u32(field, address as u32);
        self.set_u32(field + 4, (address >> 32) as u32);
    }

    fn enable_queue(&self) {
        self.set_u16(0x1c, 1);
    }

    fn queue_enabled(&self) -> bool {
        self.get_u16(0x1c) == 1
    }

    fn notify(&self, index: u32) {
        let at = self.notify + u64::from(index) * self.notify_multiplier;
        self.mmio.write(BAR + at, &(index as u16).to_le_bytes());
    }

    fn bind_interrupts(&self) {
        for vector in 0..3 {
            self.set_vector(vector, 0xfee0_0000, 0x40 + vector as u32, false);
        }
        self.set_msix_control(0x8000);
        self.set_u16(0x10, 0);
        for queue in 0..2 {
            self.set_u16(0x16, queue);
            self.set_u16(0x1a, queue + 1);
        }
    }

    fn take_interrupts(&self) -> usize {
        self.messages.take()
    }

    fn take_interrupt_status(&self) -> u32 {
        self.read::<1>(self.isr)[0].into()
    }

    fn peek(&self, offset: u64, data: &mut [u8]) {
        self.mmio.read(BAR + offset, data);
    }

    fn poke(&self, offset: u64, data: &[u8]) {
        self.mmio.write(BAR + offset, data);
    }

    fn register_bytes(&self) -> u64 {
        VirtioPci::BAR_SIZE
    }

    fn poke_unbounded(&self, offset: u64, data: &mut [u8]) {
        let registers = self.mmio.remove(BAR).unwrap();
        registers.read(offset, data);
        registers.write(offset, data);
        self.mmio.insert(BAR, VirtioPci::BAR_SIZE, registers).unwrap();
    }
}

/// Returns how many notifications `point` has seen since the last call.
pub(super) fn take_kicks(point: &NotifyPoint) -> u64 {
    point.kick.read().unwrap_or(0)
}
