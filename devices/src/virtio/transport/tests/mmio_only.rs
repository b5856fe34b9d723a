//! What only the MMIO layout has (VIRTIO 1.3 §4.2).

use super::super::core::status::DEVICE_NEEDS_RESET;
use super::driver::{Driver, Mmio, VERSION_1, bring_up, negotiate, set_up_queue, start};
use crate::virtio::testing::TestQueue;

fn read(driver: &Mmio, offset: u64) -> u32 {
    let mut data = [0xff; 4];
    driver.peek(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write(driver: &Mmio, offset: u64, value: u32) {
    driver.poke(offset, &value.to_le_bytes());
}

#[test]
fn window_says_what_it_is() {
    let (driver, ..) = start::<Mmio>();
    assert_eq!(read(&driver, 0x00), 0x7472_6976);
    assert_eq!(read(&driver, 0x04), 2);
    assert_eq!(read(&driver, 0x08), 2, "a block device");
    for shared_memory in [0xb0, 0xb4, 0xb8, 0xbc] {
        assert_eq!(read(&driver, shared_memory), u32::MAX);
    }
    assert_eq!(read(&driver, 0xc0), 0, "no queue reset");
}

#[test]
fn narrow_wide_and_misaligned_register_accesses_do_nothing() {
    let (driver, ..) = start::<Mmio>();
    for (offset, width) in [(0x00, 1), (0x00, 2), (0x00, 8), (0x02, 4), (0x01, 4), (0xfe, 4)] {
        let mut data = vec![0xff; width];
        driver.peek(offset, &mut data);
        assert_eq!(data, vec![0; width]);
    }
    driver.poke(0x70, &[1]);
    driver.poke(0x70, &[1; 8]);
    driver.poke(0x6f, &[0, 1, 0, 0]);
    assert_eq!(driver.status(), 0);
}

#[test]
fn high_bits_of_a_status_write_are_no_reset() {
    let (driver, probe, memory) = start::<Mmio>();
    let _queue = bring_up(&driver, &memory);
    write(&driver, 0x70, 0x100);
    assert!(probe.record().active.is_some());
}

#[test]
fn queue_size_past_16_bits_is_not_cut_to_a_valid_one() {
    let (driver, ..) = start::<Mmio>();
    negotiate(&driver, VERSION_1);
    write(&driver, 0x38, 0x1_0008);
    driver.enable_queue();
    assert!(!driver.queue_enabled());
}

#[test]
fn queue_disabled_before_activation_can_be_set_up_again() {
    let (driver, probe, memory) = start::<Mmio>();
    negotiate(&driver, VERSION_1);
    set_up_queue(&driver, 0, &TestQueue::new(memory.clone(), 8).ring());
    write(&driver, 0x44, 0);
    assert!(!driver.queue_enabled());
    set_up_queue(&driver, 0, &TestQueue::new(memory, 16).ring());
    super::driver::set_driver_ok(&driver);
    assert_eq!(probe.record().active.as_ref().unwrap().queues[0].size(), 16);
}

#[test]
fn queue_disabled_while_active_stops_the_device() {
    let (driver, probe, memory) = start::<Mmio>();
    let _queue = bring_up(&driver, &memory);
    write(&driver, 0x44, 0);
    assert!(!driver.queue_enabled());
    assert!(probe.record().active.is_none(), "the device still works on the queue");
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, DEVICE_NEEDS_RESET);
    assert_eq!(driver.take_interrupts(), 1);
    driver.enable_queue();
    assert!(!driver.queue_enabled());
    let _queue = bring_up(&driver, &memory);
    assert!(probe.record().active.is_some());
}

#[test]
fn acknowledging_one_cause_leaves_the_other() {
    let (driver, probe, memory) = start::<Mmio>();
    let _queue = bring_up(&driver, &memory);
    {
        let record = probe.record();
        let notifier = &record.active.as_ref().unwrap().notifier;
        notifier.signal_queue(0);
        notifier.config_changed();
    }
    assert_eq!(read(&driver, 0x60), 3);
    write(&driver, 0x64, 1);
    assert_eq!(read(&driver, 0x60), 2);
    write(&driver, 0x64, u32::MAX);
    assert_eq!(read(&driver, 0x60), 0);
}
