//! The bus from the driver's side: through the memory window and through the ports.

use super::*;
use crate::bus::{Bus, BusDevice};

/// Reads back what was written, wherever.
#[derive(Default)]
struct Scratch(std::sync::Mutex<Vec<(u16, Vec<u8>)>>);

impl PciFunction for Scratch {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = at as u8;
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        self.0.lock().unwrap().push((offset, data.to_vec()));
    }
}

fn bus_with_scratch_in(slot: u8) -> (Arc<PciBus>, Arc<Scratch>) {
    let (bus, scratch) = (Arc::new(PciBus::new()), Arc::new(Scratch::default()));
    bus.insert(slot, scratch.clone()).unwrap();
    (bus, scratch)
}

fn read_u32(device: &dyn BusDevice, offset: u64) -> u32 {
    let mut data = [0xff; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn host_bridge_is_in_slot_0_and_nothing_anywhere_else() {
    let ecam = Ecam::new(Arc::new(PciBus::new()));
    assert_eq!(read_u32(&ecam, 0), 0x0008_1b36);
    assert_eq!(read_u32(&ecam, 8) >> 16, 0x0600);
    for function in 1..256 {
        assert_eq!(read_u32(&ecam, function << 12), u32::MAX);
    }
}

#[test]
fn ecam_reaches_every_byte_of_a_function_with_every_width() {
    let (bus, scratch) = bus_with_scratch_in(31);
    let ecam = Ecam::new(bus);
    let base = 31 << 15;
    assert_eq!(read_u32(&ecam, base + 0x104), 0x0706_0504);
    for width in 1..=8 {
        ecam.write(base + 0xff8, &vec![1; width]);
    }
    assert_eq!(scratch.0.lock().unwrap().len(), 8);
    assert_eq!(scratch.0.lock().unwrap()[7], (0xff8, vec![1; 8]));
}

#[test]
fn accesses_across_a_functions_end_or_past_the_bus_reach_no_one() {
    let (bus, scratch) = bus_with_scratch_in(1);
    let ecam = Ecam::new(bus);
    for offset in [(1 << 15) + 0xffd, (1 << 15) + (1 << 12), (1 << 20) + (1 << 15), u64::MAX] {
        assert_eq!(read_u32(&ecam, offset), u32::MAX);
        ecam.write(offset, &[0; 4]);
    }
    assert!(scratch.0.lock().unwrap().is_empty());
}

#[test]
fn slots_are_taken_once_and_end_at_32() {
    let (bus, scratch) = bus_with_scratch_in(1);
    assert_eq!(bus.insert(0, scratch.clone()), Err(PciError::SlotTaken(0)));
    assert_eq!(bus.insert(1, scratch.clone()), Err(PciError::SlotTaken(1)));
    assert_eq!(bus.insert(32, scratch.clone()), Err(PciError::NoSuchSlot(32)));
    assert!(bus.remove(1).is_some());
    assert!(bus.remove(1).is_none());
    assert!(bus.remove(32).is_none());
    bus.insert(1, scratch).unwrap();
}

/// Notes when it has been removed.
#[derive(Default)]
struct Leaver(std::sync::atomic::AtomicU32);

impl PciFunction for Leaver {
    fn read_config(&self, _offset: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&self, _offset: u16, _data: &[u8]) {}

    fn removed(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
    }
}

#[test]
fn removed_function_is_told_once_and_its_slot_reads_as_empty() {
    let (bus, leaver) = (Arc::new(PciBus::new()), Arc::new(Leaver::default()));
    let ecam = Ecam::new(bus.clone());
    bus.insert(7, leaver.clone()).unwrap();
    assert_eq!(read_u32(&ecam, 7 << 15), 0);
    bus.remove(7).unwrap();
    assert_eq!(read_u32(&ecam, 7 << 15), u32::MAX);
    assert!(bus.remove(7).is_none());
    assert_eq!(leaver.0.load(std::sync::atomic::Ordering::Acquire), 1);
    assert_eq!(Arc::strong_count(&leaver), 1, "the bus let go of it");
}

#[test]
fn functions_that_come_and_go_under_a_vcpus_accesses_are_there_or_not() {
    let (bus, leaver) = (Arc::new(PciBus::new()), Arc::new(Leaver::default()));
    let ecam = Ecam::new(bus.clone());
    std::thread::scope(|scope| {
        let vcpu = scope.spawn(|| {
            for _ in 0..20_000 {
                assert!([0, u32::MAX].contains(&read_u32(&ecam, 7 << 15)));
                ecam.write((7 << 15) + 4, &[2]);
            }
        });
        while !vcpu.is_finished() {
            bus.insert(7, leaver.clone()).unwrap();
            bus.remove(7).unwrap();
        }
    });
}

fn ports_on_a_bus(bus: Arc<PciBus>) -> Bus {
    let ports = Bus::new();
    ports.insert(ConfigPorts::BASE, ConfigPorts::SIZE, Arc::new(ConfigPorts::new(bus))).unwrap();
    ports
}

#[test]
fn ports_pass_linuxs_test_for_mechanism_1() {
    let (bus, _) = bus_with_scratch_in(1);
    let ports = ports_on_a_bus(bus);
    ports.write(0xcfb, &[1]);
    ports.write(0xcf8, &0x8000_0000u32.to_le_bytes());
    let mut data = [0; 4];
    ports.read(0xcf8, &mut data);
    assert_eq!(data, 0x8000_0000u32.to_le_bytes());
    ports.read(0xcfc, &mut data);
    assert_eq!(data, 0x0008_1b36u32.to_le_bytes());
}

#[test]
fn ports_reach_bytes_and_words_of_the_addressed_double_word() {
    let (bus, scratch) = bus_with_scratch_in(1);
    let ports = ports_on_a_bus(bus);
    ports.write(0xcf8, &0x8000_0843u32.to_le_bytes());
    let mut data = [0; 2];
    ports.read(0xcfe, &mut data);
    assert_eq!(data, [0x42, 0x43]);
    ports.write(0xcff, &[7]);
    assert_eq!(*scratch.0.lock().unwrap(), [(0x43, vec![7])]);
}

#[test]
fn restored_ports_go_on_between_address_and_data() {
    let (bus, _) = bus_with_scratch_in(1);
    let (saved, restored) = (ConfigPorts::new(bus.clone()), ConfigPorts::new(bus));
    saved.write(0, &0x8000_0840u32.to_le_bytes());
    restored.restore(saved.save() | 3);
    assert_eq!(read_u32(&restored, 0), 0x8000_0840);
    assert_eq!(read_u32(&restored, 4), 0x4342_4140);
}

#[test]
fn data_port_ends_with_its_double_word_whatever_the_bus_passes_on() {
    let (bus, scratch) = bus_with_scratch_in(1);
    let ports = ConfigPorts::new(bus);
    ports.write(0, &0x8000_0840u32.to_le_bytes());
    for (offset, width) in [(6, 4), (4, 8), (7, 2), (8, 1), (u64::MAX, 1)] {
        let mut data = vec![0xff; width];
        ports.read(offset, &mut data);
        assert_eq!(data, vec![0xff; width]);
        ports.write(offset, &data);
    }
    assert!(scratch.0.lock().unwrap().is_empty());
}

#[test]
fn ports_reach_nothing_while_disabled_elsewhere_or_across_their_end() {
    let (bus, scratch) = bus_with_scratch_in(1);
    let ports = ports_on_a_bus(bus);
    for address in [0x0000_0800u32, 0x8001_0800, 0x8000_0900, 0xffff_ffff] {
        ports.write(0xcf8, &address.to_le_bytes());
        let mut data = [0; 4];
        ports.read(0xcfc, &mut data);
        assert_eq!(data, [0xff; 4], "{address:#x}");
        ports.write(0xcfc, &[0; 4]);
    }
    ports.write(0xcf8, &0x8000_0800u32.to_le_bytes());
    ports.write(0xcf9, &[6]);
    ports.write(0xcfa, &[0; 4]);
    ports.write(0xcf8, &[0; 8]);
    ports.write(0xcfe, &[0; 4]);
    assert!(scratch.0.lock().unwrap().is_empty());
    let mut data = [0; 4];
    ports.read(0xcf8, &mut data);
    assert_eq!(data, 0x8000_0800u32.to_le_bytes(), "the reset port is another device's");
}
