//! What a driver may not do: each costs it its device at most.

use std::sync::Arc;

use virtio_queue::QueueT;

use super::super::core::status::{
    ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FAILED, FEATURES_OK,
};
use super::super::{Ring, TransportOps, VirtioMmio, VirtioTransportCore};
use super::device::Probe;
use super::driver::{
    Counter, Driver, VERSION_1, bring_up, negotiate, set_driver_ok, set_up_queue, start, take_kicks,
};
use super::on_both_transports;
use crate::virtio::device::{
    ActivateError, Activation, DeviceType, TransportInterrupt, VirtioDevice,
};
use crate::virtio::testing::{RAM_SIZE, TestQueue, guest_ram};

on_both_transports!(
    features_that_were_not_offered_are_not_agreed_on,
    features_without_version_1_are_not_agreed_on,
    features_are_not_agreed_on_without_a_driver,
    feature_selectors_past_the_second_word_select_nothing,
    features_written_after_the_agreement_change_nothing,
    driver_ok_without_features_ok_activates_nothing,
    second_driver_ok_activates_nothing,
    status_bits_cannot_be_taken_back,
    nothing_but_a_reset_counts_after_failed,
    queue_selectors_out_of_range_select_nothing,
    queue_is_not_set_up_before_features_are_agreed_on,
    queue_of_impossible_size_is_not_enabled,
    queue_enabled_twice_stays_as_it_was,
    queue_resized_after_activation_stays_as_it_was,
    queue_enabled_after_activation_stays_disabled,
    misaligned_rings_need_a_reset,
    rings_outside_memory_need_a_reset,
    rings_that_wrap_need_a_reset,
    rings_that_overlap_need_a_reset,
    rings_of_two_queues_that_overlap_need_a_reset,
    rings_that_touch_are_sound,
    notifications_out_of_range_kick_nothing,
    configuration_is_not_written_without_a_driver,
    configuration_accesses_at_any_offset_are_bounds_checked,
);

fn features_that_were_not_offered_are_not_agreed_on<D: Driver>() {
    for excess in [1 << 1, 1 << 34, 1 << 40, 1 << 63] {
        let (driver, ..) = start::<D>();
        negotiate(&driver, VERSION_1 | excess);
        assert_eq!(driver.status() & FEATURES_OK, 0);
        set_driver_ok(&driver);
        assert_eq!(driver.status() & (FEATURES_OK | DRIVER_OK), 0);
    }
}

fn features_without_version_1_are_not_agreed_on<D: Driver>() {
    let (driver, probe, _) = start::<D>();
    negotiate(&driver, 1);
    assert_eq!(driver.status() & FEATURES_OK, 0);
    set_driver_ok(&driver);
    assert_eq!(probe.record().activations, 0);
    // A driver may think again.
    driver.set_driver_features(1, 1);
    driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert_eq!(driver.status() & FEATURES_OK, FEATURES_OK);
}

fn features_are_not_agreed_on_without_a_driver<D: Driver>() {
    let (driver, ..) = start::<D>();
    driver.set_driver_features(1, 1);
    driver.set_status(FEATURES_OK);
    assert_eq!(driver.status(), 0);
}

fn feature_selectors_past_the_second_word_select_nothing<D: Driver>() {
    let (driver, ..) = start::<D>();
    for word in [2, 3, 0x8000_0000, u32::MAX] {
        assert_eq!(driver.device_features(word), 0);
        driver.set_driver_features(word, u32::MAX);
    }
    negotiate(&driver, VERSION_1);
    assert_eq!(driver.status() & FEATURES_OK, FEATURES_OK);
}

fn features_written_after_the_agreement_change_nothing<D: Driver>() {
    let (driver, probe, _) = start::<D>();
    negotiate(&driver, VERSION_1);
    driver.set_driver_features(0, u32::MAX);
    driver.set_driver_features(1, u32::MAX);
    set_driver_ok(&driver);
    assert_eq!(probe.record().active.as_ref().unwrap().features, VERSION_1);
}

fn driver_ok_without_features_ok_activates_nothing<D: Driver>() {
    let (driver, probe, _) = start::<D>();
    driver.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
    assert_eq!(probe.record().activations, 0);
}

fn second_driver_ok_activates_nothing<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    set_driver_ok(&driver);
    set_driver_ok(&driver);
    assert_eq!(probe.record().activations, 1);
}

fn status_bits_cannot_be_taken_back<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    driver.set_status(ACKNOWLEDGE);
    driver.set_status(DEVICE_NEEDS_RESET | 0x30);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    set_driver_ok(&driver);
    assert_eq!(probe.record().activations, 1);
}

fn nothing_but_a_reset_counts_after_failed<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    negotiate(&driver, VERSION_1);
    driver.set_status(FAILED);
    set_up_queue(&driver, 0, &TestQueue::new(memory.clone(), 8).ring());
    set_driver_ok(&driver);
    driver.write_config(0, &[1]);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED);
    assert!(!driver.queue_enabled());
    assert_eq!(probe.record().activations, 0);
    assert!(probe.record().config_writes.is_empty());

    let (driver, probe, _) = start::<D>();
    driver.set_driver_features(1, 1);
    driver.set_status(FAILED | ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(driver.status() & (FEATURES_OK | DRIVER_OK), 0, "all at once");
    let _queue = bring_up(&driver, &memory);
    assert!(probe.record().active.is_some());
}

fn queue_selectors_out_of_range_select_nothing<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    negotiate(&driver, VERSION_1);
    let ring = TestQueue::new(memory, 8).ring();
    for index in [2, 0xffff, 0x1_0000, u32::MAX] {
        set_up_queue(&driver, index, &ring);
        assert_eq!(driver.queue_max_size(), 0);
        assert!(!driver.queue_enabled());
    }
    for index in 0..2 {
        driver.select_queue(index);
        assert!(!driver.queue_enabled(), "another queue was meant");
    }
    set_driver_ok(&driver);
    assert!(probe.record().active.as_ref().unwrap().queues.is_empty());
}

fn queue_is_not_set_up_before_features_are_agreed_on<D: Driver>() {
    let (driver, _, memory) = start::<D>();
    driver.set_status(ACKNOWLEDGE | DRIVER);
    set_up_queue(&driver, 0, &TestQueue::new(memory, 8).ring());
    assert!(!driver.queue_enabled());
}

fn queue_of_impossible_size_is_not_enabled<D: Driver>() {
    for size in [0, 3, 15, 17, 32, 0x8000, 0xffff] {
        let (driver, probe, memory) = start::<D>();
        negotiate(&driver, VERSION_1);
        let ring = TestQueue::new(memory, 8).ring();
        driver.select_queue(0);
        driver.set_queue_size(size);
        driver.set_ring(Ring::Descriptors, ring.desc_table());
        driver.set_ring(Ring::Available, ring.avail_ring());
        driver.set_ring(Ring::Used, ring.used_ring());
        driver.enable_queue();
        assert!(!driver.queue_enabled(), "size {size}");
        set_driver_ok(&driver);
        assert!(probe.record().active.as_ref().unwrap().queues.is_empty());
    }
}

fn queue_enabled_twice_stays_as_it_was<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    negotiate(&driver, VERSION_1);
    set_up_queue(&driver, 0, &TestQueue::new(memory.clone(), 8).ring());
    set_up_queue(&driver, 0, &TestQueue::at(memory, 16, 0x7000).ring());
    set_driver_ok(&driver);
    let record = probe.record();
    let queues = &record.active.as_ref().unwrap().queues;
    assert_eq!((queues.len(), queues[0].size()), (1, 8));
}

fn queue_resized_after_activation_stays_as_it_was<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    set_up_queue(&driver, 0, &TestQueue::at(memory, 16, 0x7000).ring());
    set_driver_ok(&driver);
    let record = probe.record();
    assert_eq!(record.activations, 1);
    assert_eq!(record.active.as_ref().unwrap().queues[0].size(), 8);
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
}

fn queue_enabled_after_activation_stays_disabled<D: Driver>() {
    let (driver, _, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    set_up_queue(&driver, 1, &TestQueue::at(memory, 8, 0x7000).ring());
    assert!(!driver.queue_enabled());
}

/// Activates queue 0 of 16 entries with the given rings; returns whether the device took it.
fn accepts_rings<D: Driver>(descriptors: u64, available: u64, used: u64) -> bool {
    let (driver, probe, memory) = start::<D>();
    negotiate(&driver, VERSION_1);
    driver.select_queue(0);
    driver.set_ring(Ring::Descriptors, descriptors);
    driver.set_ring(Ring::Available, available);
    driver.set_ring(Ring::Used, used);
    driver.enable_queue();
    set_driver_ok(&driver);
    let accepted = probe.record().active.is_some();
    let broken = driver.status() & DEVICE_NEEDS_RESET != 0;
    assert_ne!(accepted, broken);
    assert_eq!(driver.take_interrupts(), usize::from(broken), "the driver is told");

    // Whatever it was, a reset helps.
    let _queue = bring_up(&driver, &memory);
    assert!(probe.record().active.is_some());
    accepted
}

fn misaligned_rings_need_a_reset<D: Driver>() {
    assert!(accepts_rings::<D>(0x1000, 0x2000, 0x3000));
    assert!(!accepts_rings::<D>(0x1008, 0x2000, 0x3000));
    assert!(!accepts_rings::<D>(0x1000, 0x2001, 0x3000));
    assert!(!accepts_rings::<D>(0x1000, 0x2000, 0x3002));
}

fn rings_outside_memory_need_a_reset<D: Driver>() {
    let end = RAM_SIZE as u64;
    // 16 entries take 256, 36 and 132 bytes.
    assert!(accepts_rings::<D>(end - 0x100, 0x2000, 0x3000));
    assert!(accepts_rings::<D>(0x1000, end - 36, 0x3000));
    assert!(accepts_rings::<D>(0x1000, 0x2000, end - 132));
    assert!(!accepts_rings::<D>(end - 0xf0, 0x2000, 0x3000));
    assert!(!accepts_rings::<D>(0x1000, end - 34, 0x3000));
    assert!(!accepts_rings::<D>(0x1000, 0x2000, end - 128));
    assert!(!accepts_rings::<D>(0x40_0000_0000, 0x2000, 0x3000));
}

fn rings_that_wrap_need_a_reset<D: Driver>() {
    assert!(!accepts_rings::<D>(0u64.wrapping_sub(0x10), 0x2000, 0x3000));
    assert!(!accepts_rings::<D>(0x1000, 0u64.wrapping_sub(2), 0x3000));
    assert!(!accepts_rings::<D>(0x1000, 0x2000, 0u64.wrapping_sub(4)));
}

fn rings_that_overlap_need_a_reset<D: Driver>() {
    assert!(!accepts_rings::<D>(0x1000, 0x1000, 0x3000));
    assert!(!accepts_rings::<D>(0x1000, 0x2000, 0x2000));
    assert!(!accepts_rings::<D>(0x1000, 0x10fe, 0x3000));
    assert!(!accepts_rings::<D>(0x1080, 0x2000, 0x1000));
    assert!(!accepts_rings::<D>(0, 0, 0));
}

fn rings_of_two_queues_that_overlap_need_a_reset<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    negotiate(&driver, VERSION_1);
    set_up_queue(&driver, 0, &TestQueue::new(memory.clone(), 8).ring());
    set_up_queue(&driver, 1, &TestQueue::new(memory, 8).ring());
    set_driver_ok(&driver);
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, DEVICE_NEEDS_RESET);
    assert_eq!(probe.record().activations, 0);
}

fn rings_that_touch_are_sound<D: Driver>() {
    assert!(accepts_rings::<D>(0x1000, 0x1100, 0x1124));
}

fn notifications_out_of_range_kick_nothing<D: Driver>() {
    let (driver, _, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    for index in [2, 3, 0x1_0000, u32::MAX] {
        driver.notify(index);
    }
    for point in driver.transport().notify_points() {
        assert_eq!(take_kicks(&point), 0);
    }
}

fn configuration_is_not_written_without_a_driver<D: Driver>() {
    let (driver, probe, _) = start::<D>();
    driver.write_config(0, &[1]);
    assert!(probe.record().config_writes.is_empty());
    driver.set_status(ACKNOWLEDGE | DRIVER);
    driver.write_config(2, &[1, 2]);
    assert_eq!(probe.record().config_writes, [(2, vec![1, 2])]);
}

fn configuration_accesses_at_any_offset_are_bounds_checked<D: Driver>() {
    let (driver, ..) = start::<D>();
    driver.set_status(ACKNOWLEDGE | DRIVER);
    for back in 0..16 {
        for width in [1, 2, 4, 8] {
            driver.poke_unbounded(u64::MAX - back, &mut vec![0xff; width]);
        }
    }
    driver.poke_unbounded(u64::MAX / 2, &mut [0xff; 8]);
}

struct NoInterrupts;

impl TransportInterrupt for NoInterrupts {
    fn signal_queue(&self, _index: u16) {}
    fn signal_config(&self) {}
}

impl TransportOps for NoInterrupts {
    fn reset(&self) {}
}

#[test]
fn configuration_accesses_that_wrap_never_reach_the_device() {
    let probe = Probe::default();
    let mut core =
        VirtioTransportCore::new(probe.device(), guest_ram(), Arc::new(NoInterrupts)).unwrap();
    core.write_status(u32::from(ACKNOWLEDGE | DRIVER));
    for back in 0..8 {
        let mut data = [0xff; 8];
        core.read_config(u64::MAX - back, &mut data[back as usize..]);
        assert_eq!(data[back as usize..], vec![0; 8 - back as usize]);
        core.write_config(u64::MAX - back, &[0; 8]);
    }
    assert!(probe.record().config_writes.is_empty());
}

/// A device whose only property is its queues.
struct Queues(Vec<u16>);

impl VirtioDevice for Queues {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.0
    }

    fn offered_features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
        Ok(())
    }

    fn reset(&mut self) {}
}

#[test]
fn device_with_impossible_queues_is_refused() {
    let mmio = |sizes: &[u16]| {
        VirtioMmio::new(Box::new(Queues(sizes.to_vec())), guest_ram(), Arc::new(Counter::default()))
    };
    assert!(mmio(&[0x8000, 1]).is_ok());
    for sizes in [&[0][..], &[3], &[16, 0xffff], &[1; 1025]] {
        assert!(mmio(sizes).is_err());
    }
}
