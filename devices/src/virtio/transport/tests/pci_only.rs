//! What only the PCI layout has (VIRTIO 1.3 §4.1).

use std::sync::{Arc, Mutex};

use super::super::{VirtioPci, VirtioPciResources, VirtioTransport};
use super::device::{CONFIG, Probe};
use super::driver::{BAR, Counter, Driver, Pci, bring_up, start, take_kicks};
use crate::bus::Bus;
use crate::pci::{BarObserver, PciFunction};
use crate::virtio::testing::guest_ram;

const COMMON_STATUS: u32 = 0x14;

fn config_u32(driver: &Pci, register: u16) -> u32 {
    let mut data = [0; 4];
    driver.config(register, &mut data);
    u32::from_le_bytes(data)
}

fn is_mapped(driver: &Pci, address: u64) -> bool {
    driver.mmio.read(address, &mut [0])
}

#[test]
fn function_is_a_modern_virtio_device_without_an_interrupt_pin() {
    let (driver, ..) = start::<Pci>();
    assert_eq!(config_u32(&driver, 0x00), 0x1042_1af4);
    assert_eq!(config_u32(&driver, 0x08), 0x0180_0001);
    assert_eq!(config_u32(&driver, 0x2c) & 0xffff, 0x1af4);
    assert!(config_u32(&driver, 0x2c) >> 16 >= 0x40, "a transitional device's number");
    assert_eq!(config_u32(&driver, 0x3c) >> 8, 0);
    let mut past = [0; 4];
    driver.config(0x100, &mut past);
    assert_eq!(past, [0xff; 4], "no extended space");
}

#[test]
fn capabilities_name_structures_inside_the_bar_that_do_not_overlap() {
    let (driver, ..) = start::<Pci>();
    let mut places: Vec<(u32, u32)> = driver
        .capabilities()
        .iter()
        .filter(|(_, bytes)| bytes[0] == 9 && bytes[3] != 5)
        .map(|(_, bytes)| {
            let field = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            (field(8), field(12))
        })
        .collect();
    let msix = driver.capabilities().into_iter().find(|(_, bytes)| bytes[0] == 0x11).unwrap().1;
    let field = |at: usize| u32::from_le_bytes(msix[at..at + 4].try_into().unwrap());
    assert_eq!(u16::from_le_bytes([msix[2], msix[3]]), 2, "three vectors");
    places.extend([(field(4), 3 * 16), (field(8), 8)]);
    places.sort_unstable();
    assert_eq!(places.len(), 6);
    for pair in places.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
    }
    assert!(u64::from(places[5].0) < VirtioPci::BAR_SIZE);
}

#[test]
fn vectors_that_do_not_exist_read_back_as_none() {
    let (driver, ..) = start::<Pci>();
    for (written, read) in [(0, 0), (2, 2), (3, 0xffff), (0x800, 0xffff), (0xffff, 0xffff)] {
        driver.set_u16(0x10, written);
        assert_eq!(driver.get_u16(0x10), read);
        driver.set_u16(0x16, 1);
        driver.set_u16(0x1a, written);
        assert_eq!(driver.get_u16(0x1a), read);
    }
    driver.set_u16(0x16, 2);
    driver.set_u16(0x1a, 0);
    assert_eq!(driver.get_u16(0x1a), 0xffff, "no such queue");
}

#[test]
fn reset_takes_vectors_and_pending_bits_away() {
    let (driver, probe, memory) = start::<Pci>();
    let _queue = bring_up(&driver, &memory);
    driver.set_msix_control(0xc000);
    probe.record().active.as_ref().unwrap().notifier.signal_queue(0);
    assert_eq!(driver.read(0x6000), [0b10]);
    driver.set_status(0);
    assert_eq!(driver.read(0x6000), [0]);
    assert_eq!(driver.get_u16(0x10), 0xffff);
    driver.set_u16(0x16, 0);
    assert_eq!(driver.get_u16(0x1a), 0xffff);
    driver.set_msix_control(0x8000);
    assert_eq!(driver.take_interrupts(), 0);
}

#[test]
fn masked_function_keeps_its_interrupts_for_later() {
    let (driver, probe, memory) = start::<Pci>();
    let _queue = bring_up(&driver, &memory);
    driver.set_msix_control(0xc000);
    probe.record().active.as_ref().unwrap().notifier.signal_queue(0);
    assert_eq!(driver.take_interrupts(), 0);
    driver.set_msix_control(0x8000);
    assert_eq!(driver.take_interrupts(), 1);
    assert_eq!(driver.take_interrupt_status(), 0, "queues have vectors, not the ISR");
}

#[test]
fn without_msix_only_the_isr_says_what_happened() {
    let (driver, probe, memory) = start::<Pci>();
    let _queue = bring_up(&driver, &memory);
    driver.set_msix_control(0);
    let notifier = probe.record().active.as_ref().unwrap().notifier.clone();
    notifier.signal_queue(0);
    assert_eq!(driver.take_interrupt_status(), 1);
    notifier.config_changed();
    notifier.signal_queue(0);
    assert_eq!(driver.take_interrupt_status(), 3);
    assert_eq!(driver.take_interrupt_status(), 0);
    assert_eq!(driver.take_interrupts(), 0);
    driver.set_msix_control(0x8000);
    assert_eq!(driver.take_interrupts(), 0, "nothing was pending");
}

#[test]
fn queue_without_a_vector_interrupts_no_one() {
    let (driver, probe, memory) = start::<Pci>();
    let _queue = bring_up(&driver, &memory);
    driver.set_u16(0x16, 0);
    driver.set_u16(0x1a, 0xffff);
    probe.record().active.as_ref().unwrap().notifier.signal_queue(0);
    assert_eq!(driver.take_interrupts(), 0);
}

#[test]
fn ring_address_can_be_written_at_once() {
    let (driver, ..) = start::<Pci>();
    super::driver::negotiate(&driver, super::driver::VERSION_1);
    driver.set_u16(0x16, 0);
    driver.write(0x28, &0x1234_5678_9abc_def0u64.to_le_bytes());
    assert_eq!(u64::from_le_bytes(driver.read(0x28)), 0x1234_5678_9abc_def0);
    driver.write(0x24, &[0xff; 8]);
    driver.write(0x08, &[0xff; 8]);
    assert_eq!(u64::from_le_bytes(driver.read(0x20)), 0);
    assert_eq!(u64::from_le_bytes(driver.read(0x28)), 0x1234_5678_9abc_def0);
    assert_eq!(driver.read(0x08), [1, 0, 0, 0], "the feature selector");
}

#[test]
fn queue_is_not_disabled_by_writing_0() {
    let (driver, probe, memory) = start::<Pci>();
    let _queue = bring_up(&driver, &memory);
    driver.set_u16(0x16, 0);
    driver.set_u16(0x1c, 0);
    assert!(driver.queue_enabled());
    assert!(probe.record().active.is_some());
}

#[test]
fn registers_read_the_same_with_every_width() {
    let (driver, _, memory) = start::<Pci>();
    let _queue = bring_up(&driver, &memory);
    let bytes: Vec<u8> = (0..0x38).map(|at| driver.read::<1>(at)[0]).collect();
    assert_eq!(bytes[0x12..0x14], [2, 0], "two queues");
    for at in (0..0x38).step_by(8) {
        assert_eq!(driver.read::<8>(at), bytes[at as usize..][..8]);
    }
}

/// Sets up the window in configuration space and accesses its data.
fn through_window(driver: &Pci, bar: u8, offset: u32, len: u32, write: Option<u32>) -> u32 {
    let (window, _) = driver.virtio_capability(5);
    driver.set_config(window + 4, &[bar]);
    driver.set_config(window + 8, &offset.to_le_bytes());
    driver.set_config(window + 12, &len.to_le_bytes());
    if let Some(value) = write {
        driver.set_config(window + 16, &value.to_le_bytes());
    }
    config_u32(driver, window + 16)
}

#[test]
fn bar_is_reached_through_configuration_space_while_it_is_not_mapped() {
    let (driver, ..) = start::<Pci>();
    driver.set_config(0x04, &[0]);
    assert!(!is_mapped(&driver, BAR));
    through_window(&driver, 0, COMMON_STATUS, 1, Some(3));
    assert_eq!(through_window(&driver, 0, COMMON_STATUS, 1, None), 3);
    assert_eq!(
        through_window(&driver, 0, 0x2004, 4, None),
        u32::from_le_bytes(CONFIG[4..].try_into().unwrap())
    );
    assert_eq!(through_window(&driver, 0, 0x2000, 2, None), 0x0201);
    let points = driver.transport.notify_points();
    through_window(&driver, 0, 0x3004, 2, Some(1));
    assert_eq!(take_kicks(&points[1]), 1);
}

#[test]
fn window_to_what_does_not_exist_reads_zero_and_writes_nothing() {
    let (driver, probe, memory) = start::<Pci>();
    let _queue = bring_up(&driver, &memory);
    let end = VirtioPci::BAR_SIZE as u32;
    for (bar, offset, len) in [
        (1, COMMON_STATUS, 1),
        (0xff, COMMON_STATUS, 1),
        (0, COMMON_STATUS, 0),
        (0, COMMON_STATUS, 3),
        (0, COMMON_STATUS, 5),
        (0, COMMON_STATUS, u32::MAX),
        (0, COMMON_STATUS - 1, 2),
        (0, end, 1),
        (0, end - 2, 4),
        (0, u32::MAX, 1),
        (0, u32::MAX - 3, 4),
    ] {
        assert_eq!(through_window(&driver, bar, offset, len, Some(0)), 0, "{bar} {offset} {len}");
        assert!(probe.record().active.is_some());
    }
    let (window, bytes) = driver.virtio_capability(5);
    driver.set_config(window, &[0; 4]);
    assert_eq!(driver.virtio_capability(5).1[..4], bytes[..4], "its header");
}

#[derive(Default)]
struct Moves(Mutex<Vec<(Option<u64>, Option<u64>)>>);

impl BarObserver for Moves {
    fn moved(&self, old: Option<u64>, new: Option<u64>) {
        self.0.lock().unwrap().push((old, new));
    }
}

#[test]
fn bar_follows_memory_decoding_and_moves_with_its_observer() {
    let (driver, ..) = start::<Pci>();
    let moves = Arc::new(Moves::default());
    driver.transport.observe_bar(moves.clone());
    let moved = BAR + 0x10_0000;
    driver.set_config(0x04, &[0]);
    driver.set_config(0x10, &(moved as u32).to_le_bytes());
    assert!(!is_mapped(&driver, BAR) && !is_mapped(&driver, moved));
    driver.set_config(0x04, &[2]);
    assert!(!is_mapped(&driver, BAR) && is_mapped(&driver, moved));
    driver.set_config(0x14, &[1]);
    assert!(!is_mapped(&driver, moved) && is_mapped(&driver, moved + (1 << 32)));
    let (a, b, c) = (Some(BAR), Some(moved), Some(moved + (1 << 32)));
    assert_eq!(*moves.0.lock().unwrap(), [(None, a), (a, None), (None, b), (b, c)]);
}

#[test]
fn size_is_probed_in_halves_without_mapping_anything() {
    let (driver, ..) = start::<Pci>();
    let moves = Arc::new(Moves::default());
    driver.set_config(0x04, &[0]);
    driver.transport.observe_bar(moves.clone());
    for (decoding, seen) in [(0u8, 0), (2, 5)] {
        driver.set_config(0x04, &[decoding]);
        driver.set_config(0x10, &[0xff; 4]);
        assert_eq!(config_u32(&driver, 0x10), 0xffff_8004);
        driver.set_config(0x10, &(BAR as u32).to_le_bytes());
        driver.set_config(0x14, &[0xff; 4]);
        assert_eq!(config_u32(&driver, 0x14), 0xffff_ffff);
        driver.set_config(0x14, &[0; 4]);
        let moves = moves.0.lock().unwrap();
        assert_eq!(moves.len(), seen);
        assert!(moves.iter().all(|(_, new)| new.is_none_or(|new| new == BAR)));
    }
    assert!(is_mapped(&driver, BAR));
}

#[test]
fn bar_moved_onto_another_device_is_nowhere_until_it_moves_on() {
    let (driver, ..) = start::<Pci>();
    let (other, other_probe) = (0x5000_0000, Probe::default());
    let resources = VirtioPciResources {
        msi: Arc::new(Counter::default()),
        mmio: Arc::clone(&driver.mmio),
        bar_base: other,
    };
    let second = VirtioPci::new(other_probe.device(), guest_ram(), resources).unwrap();
    second.write_config(0x04, &[2]);
    driver.set_config(0x10, &(other as u32).to_le_bytes());
    assert!(!is_mapped(&driver, BAR));
    driver.mmio.write(other + u64::from(COMMON_STATUS), &[1]);
    assert!(is_mapped(&driver, other), "the other device is gone");
    driver.set_config(0x10, &(BAR as u32).to_le_bytes());
    assert_eq!(driver.status(), 0, "this device was meant");
    drop(second);
    assert!(!is_mapped(&driver, other));
}

#[test]
fn dropped_function_leaves_the_bus_and_the_bus_leaves_it() {
    let (driver, probe, memory) = start::<Pci>();
    let _queue = bring_up(&driver, &memory);
    let Pci { transport, mmio, bus, .. } = driver;
    assert!(bus.remove(3).is_some());
    drop(transport);
    assert!(!mmio.read(BAR, &mut [0]));
    assert!(probe.record().active.is_none());
}

#[test]
fn removed_function_is_nowhere_though_a_vcpu_is_in_the_middle_of_an_access() {
    let (driver, ..) = start::<Pci>();
    driver.set_config(0x04, &[2]);
    assert!(is_mapped(&driver, BAR));
    driver.bus.remove(3).unwrap();
    assert!(!is_mapped(&driver, BAR));
    // What the vCPU had begun before arrives now.
    driver.transport.write_config(0x04, &[0]);
    driver.transport.write_config(0x04, &[2]);
    assert!(!is_mapped(&driver, BAR));
}

#[test]
fn impossible_resources_are_refused() {
    for bar_base in [BAR + 0x1000, 0u64.wrapping_sub(VirtioPci::BAR_SIZE)] {
        let resources = VirtioPciResources {
            msi: Arc::new(Counter::default()),
            mmio: Arc::new(Bus::new()),
            bar_base,
        };
        assert!(VirtioPci::new(Probe::default().device(), guest_ram(), resources).is_err());
    }
}
