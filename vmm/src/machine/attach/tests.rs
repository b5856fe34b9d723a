//! On a real virtual machine of KVM's, without a vCPU: the test is the guest.

use std::os::fd::AsRawFd;

use arch::Arch;
use devices::virtio::rng::Rng;
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::machine::HostArch;
use crate::memory::{self, Backing};

const RAM_BYTES: u64 = 8 << 20;

/// Offset of the doorbells in a function's BAR, wherever the device says.
fn notify_offset(attacher: &Attacher, place: u8) -> u64 {
    let (_, transport) = attacher.devices().find(|(at, _)| *at == place).unwrap();
    transport.notify_points()[0].offset
}

struct Guest {
    attacher: Attacher,
    buses: Buses,
    ecam: u64,
    bars: u64,
}

fn guest(transport: Transport) -> Guest {
    let layout = HostArch::memory_layout(RAM_BYTES, 46).unwrap();
    let memory = memory::allocate(&[(GuestAddress(0), RAM_BYTES)], &Backing::default()).unwrap();
    let vm = Kvm::new().unwrap().create_vm().unwrap();
    vm.create_irq_chip().unwrap();
    let vm = Arc::new(vm);
    let router = InterruptRouter::new(Arc::clone(&vm));
    let buses = empty_buses();
    let attacher = Attacher::new(vm, memory, router, buses.clone(), &layout, transport).unwrap();
    Guest { attacher, buses, ecam: layout.pci_ecam.start().0, bars: layout.pci_mmio64.start().0 }
}

impl Guest {
    fn plug(&mut self) -> u8 {
        self.attacher.plug(Box::new(Rng::new())).unwrap()
    }

    fn config(&self, slot: u8, register: u64) -> u64 {
        self.ecam + (u64::from(slot) << 15) + register
    }

    fn read_config(&self, slot: u8, register: u64) -> u32 {
        let mut data = [0; 4];
        self.buses.mmio.read(self.config(slot, register), &mut data);
        u32::from_le_bytes(data)
    }

    /// Turns memory decoding on, which puts the BAR on the bus and the doorbells into KVM.
    fn decode(&self, slot: u8) {
        self.buses.mmio.write(self.config(slot, 4), &[2]);
    }

    /// Binds the first vector: MSI-X on, one message, unmasked.
    fn bind_vector(&self, slot: u8, data: u32) {
        let mut capability = u64::from(self.read_config(slot, 0x34) & 0xff);
        while self.read_config(slot, capability) & 0xff != 0x11 {
            capability = u64::from(self.read_config(slot, capability) >> 8 & 0xff);
        }
        self.buses.mmio.write(self.config(slot, capability + 2), &[0, 0x80]);
        let table = self.bar(slot) + u64::from(self.read_config(slot, capability + 4) & !7);
        for (offset, value) in [(0, 0xfee0_0000_u32), (8, data), (12, 0)] {
            self.buses.mmio.write(table + offset, &value.to_le_bytes());
        }
    }

    fn bar(&self, slot: u8) -> u64 {
        let high = u64::from(self.read_config(slot, 0x14)) << 32;
        high | u64::from(self.read_config(slot, 0x10) & !0xf)
    }

    fn answers(&self, address: u64) -> bool {
        self.buses.mmio.read(address, &mut [0; 4])
    }

    fn hotplug_register(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.buses.pio.read((ports::PCI_HOTPLUG.base + offset).into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn eject(&self, slot: u8) {
        let port = ports::PCI_HOTPLUG.base + 8;
        self.buses.pio.write(port.into(), &(1_u32 << slot).to_le_bytes());
    }

    /// Does what the main thread does when the guest has given slots up.
    fn serve_ejections(&mut self) -> Vec<u8> {
        let slots: Vec<u8> = self.attacher.ejections().unwrap().take().collect();
        for slot in &slots {
            assert!(self.attacher.detach(*slot));
        }
        slots
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Tells whether KVM has a doorbell at `address`, by asking for another one there.
fn has_doorbell(vm: &VmFd, address: u64) -> bool {
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    let address = IoEventAddress::Mmio(address);
    let taken = vm.register_ioevent(&event, &address, NoDatamatch).is_err();
    if !taken {
        vm.unregister_ioevent(&event, &address, NoDatamatch).unwrap();
    }
    taken
}

#[test]
fn plugged_device_is_announced_found_and_given_up() {
    let mut guest = guest(Transport::Pci);
    assert_eq!(guest.attacher.attach(Box::new(Rng::new())).unwrap(), 1);
    assert_eq!(guest.hotplug_register(0), 0, "what is there at boot isn't announced");
    let slot = guest.plug();
    assert_eq!((slot, guest.hotplug_register(0)), (2, 1 << 2));
    assert_eq!(guest.read_config(slot, 0), 0x1044_1af4);
    guest.decode(slot);
    let doorbell = guest.bar(slot) + notify_offset(&guest.attacher, slot);
    assert!(has_doorbell(&guest.attacher.vm, doorbell));

    assert!(guest.attacher.request_unplug(slot));
    assert_eq!(guest.hotplug_register(4), 1 << 2);
    assert!(guest.serve_ejections().is_empty());
    guest.eject(slot);
    assert_eq!(guest.serve_ejections(), [slot]);
    assert_eq!(guest.read_config(slot, 0), u32::MAX);
    assert!(!guest.answers(doorbell) && !has_doorbell(&guest.attacher.vm, doorbell));
    assert_eq!(guest.attacher.devices().count(), 1);
}

#[test]
fn devices_that_come_and_go_a_thousand_times_leave_nothing_behind() {
    let mut guest = guest(Transport::Pci);
    let before = open_descriptors();
    for round in 0..1000 {
        let slot = guest.plug();
        assert_eq!((slot, guest.bar(slot)), (1, guest.bars), "round {round}");
        guest.decode(slot);
        guest.bind_vector(slot, round);
        let doorbell = guest.bar(slot) + notify_offset(&guest.attacher, slot);
        assert!(guest.attacher.request_unplug(slot));
        guest.eject(slot);
        assert_eq!(guest.serve_ejections(), [slot]);
        // Each question makes KVM wait for all its readers, twice.
        assert!(round % 100 != 99 || !has_doorbell(&guest.attacher.vm, doorbell), "round {round}");
    }
    // Other tests of this process come and go as well.
    let after = open_descriptors();
    assert!(after < before + 500, "{before} descriptors became {after}");
}

#[test]
fn free_slots_are_used_again_lowest_first_and_end_at_31() {
    let mut guest = guest(Transport::Pci);
    for expected in 1..32 {
        assert_eq!(guest.plug(), expected);
    }
    let full = guest.attacher.plug(Box::new(Rng::new()));
    assert!(matches!(full, Err(VmmError::TooManyDevices { max: 31, .. })));
    for slot in [7, 3, 30] {
        assert!(guest.attacher.detach(slot) && !guest.attacher.detach(slot));
    }
    for expected in [3, 7, 30] {
        let slot = guest.plug();
        assert_eq!(
            (slot, guest.bar(slot)),
            (expected, guest.bars + (u64::from(slot) - 1) * VirtioPci::BAR_SIZE)
        );
    }
}

#[test]
fn restored_devices_are_at_their_old_places() {
    let mut guest = guest(Transport::Pci);
    for slot in [1, 5, 31] {
        guest.attacher.attach_at(slot, Box::new(Rng::new())).unwrap();
    }
    for slot in [0, 5, 32, 255] {
        assert!(guest.attacher.attach_at(slot, Box::new(Rng::new())).is_err(), "{slot}");
    }
    assert_eq!(guest.plug(), 2);
    let places: Vec<u8> = guest.attacher.devices().map(|(place, _)| place).collect();
    assert_eq!(places, [1, 2, 5, 31]);
}

#[test]
fn pending_requests_and_the_config_address_survive_a_snapshot() {
    let mut guest = guest(Transport::Pci);
    let slot = guest.plug();
    assert!(guest.attacher.request_unplug(slot));
    guest.buses.pio.write(ConfigPorts::BASE, &0x8000_0800_u32.to_le_bytes());
    let saved = guest.attacher.save_root().unwrap();

    let mut restored = self::guest(Transport::Pci);
    restored.attacher.attach_at(slot, Box::new(Rng::new())).unwrap();
    restored.attacher.restore_root(&saved);
    assert_eq!(restored.attacher.save_root(), Some(saved));
    assert_eq!((restored.hotplug_register(0), restored.hotplug_register(4)), (2, 2));
    let mut data = [0; 4];
    restored.buses.pio.read(ConfigPorts::BASE + 4, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x1044_1af4);
    restored.eject(slot);
    assert_eq!(restored.serve_ejections(), [slot]);
}

#[test]
fn ejections_wake_the_main_thread_until_they_are_taken() {
    let mut guest = guest(Transport::Pci);
    let (first, second) = (guest.plug(), guest.plug());
    let ejections = Arc::clone(guest.attacher.ejections().unwrap());
    let epoll = Epoll::new().unwrap();
    let event = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, ejections.event().as_raw_fd(), event).unwrap();
    let readable = || epoll.wait(0, &mut [EpollEvent::default()]).unwrap() == 1;
    assert!(!readable());
    for slot in [second, first] {
        assert!(guest.attacher.request_unplug(slot));
        guest.eject(slot);
    }
    assert!(readable());
    assert_eq!(guest.serve_ejections(), [first, second]);
    assert!(!readable());
}

#[test]
fn empty_slots_cannot_be_asked_for() {
    let mut guest = guest(Transport::Pci);
    for slot in [0, 1, 31, 32, 255] {
        assert!(!guest.attacher.request_unplug(slot) && !guest.attacher.detach(slot));
    }
    assert_eq!(guest.hotplug_register(4), 0);
    assert_eq!(guest.read_config(0, 0), 0x0008_1b36, "the host bridge is still there");
}

#[test]
fn nothing_is_plugged_without_pci() {
    let mut guest = guest(Transport::Mmio);
    assert_eq!(guest.attacher.attach(Box::new(Rng::new())).unwrap(), 0);
    assert_eq!(guest.attacher.attach(Box::new(Rng::new())).unwrap(), 1);
    let refused = guest.attacher.plug(Box::new(Rng::new()));
    assert!(matches!(refused, Err(VmmError::TooManyDevices { max: 0, .. })));
    assert!(!guest.attacher.request_unplug(0) && !guest.attacher.detach(0));
    assert!(guest.attacher.ejections().is_none() && guest.attacher.save_root().is_none());
    let VirtioPlaces::Mmio(places) = guest.attacher.places() else { panic!("on PCI") };
    let windows: Vec<_> = places.iter().map(|(window, gsi)| (window.start().0, *gsi)).collect();
    assert_eq!(windows, [(0xf000_0000, 5), (0xf000_1000, 6)]);
}
