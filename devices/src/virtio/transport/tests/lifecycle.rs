//! What a well-behaved driver sees, from the first status write to the device's end.

use super::super::core::status::{self, DRIVER_OK, FEATURES_OK};
use super::device::{CONFIG, HONEST_FEATURES};
use super::driver::{
    Driver, VERSION_1, bring_up, negotiate, set_driver_ok, set_up_queue, start, take_kicks,
};
use super::on_both_transports;
use crate::virtio::testing::{Buffer, TestQueue};

on_both_transports!(
    request_goes_from_kick_to_interrupt,
    offered_features_are_those_that_work,
    both_queues_reach_the_device_in_order,
    device_without_queues_enabled_is_activated_without_queues,
    event_index_is_used_when_negotiated,
    configuration_reads_with_any_width_and_zero_past_its_end,
    configuration_change_bumps_the_generation_and_interrupts,
    reset_while_active_stops_the_device_and_returns_every_register,
    reset_drains_kicks_and_keeps_the_eventfds,
    late_signals_after_a_reset_go_nowhere,
    device_can_be_activated_again_after_a_reset,
    device_asks_for_a_reset,
    refused_activation_needs_a_reset,
    dropped_transport_resets_its_device,
    notify_points_are_where_the_driver_writes,
);

fn request_goes_from_kick_to_interrupt<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let mut queue = bring_up(&driver, &memory);
    assert_eq!(driver.status() & DRIVER_OK, DRIVER_OK);
    assert!(driver.queue_enabled());
    let head = queue.add_chain(&[Buffer::readable(0x8000, 16)]);
    driver.notify(0);

    let mut active = probe.record().active.take().unwrap();
    assert_eq!((active.features, active.queues.len()), (VERSION_1, 1));
    let device = &mut active.queues[0];
    assert_eq!((device.index(), device.size()), (0, 8));
    assert_eq!(device.kick().read().unwrap(), 1);
    assert!(device.pop(&memory).unwrap().is_some());
    device.add_used(&memory, head, 5).unwrap();
    device.signal_used(&memory).unwrap();

    assert_eq!(driver.take_interrupts(), 1);
    assert_eq!(queue.used(), [(u32::from(head), 5)]);
}

fn offered_features_are_those_that_work<D: Driver>() {
    let (driver, ..) = start::<D>();
    let offered = u64::from(driver.device_features(0)) | u64::from(driver.device_features(1)) << 32;
    assert_eq!(offered, HONEST_FEATURES | VERSION_1, "no packed ring, no queue reset");
}

fn both_queues_reach_the_device_in_order<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    negotiate(&driver, VERSION_1);
    set_up_queue(&driver, 1, &TestQueue::at(memory.clone(), 8, 0x7000).ring());
    set_up_queue(&driver, 0, &TestQueue::new(memory, 16).ring());
    set_driver_ok(&driver);
    let record = probe.record();
    let queues = &record.active.as_ref().unwrap().queues;
    let seen: Vec<_> = queues.iter().map(|queue| (queue.index(), queue.size())).collect();
    assert_eq!(seen, [(0, 16), (1, 8)]);
}

fn device_without_queues_enabled_is_activated_without_queues<D: Driver>() {
    let (driver, probe, _) = start::<D>();
    negotiate(&driver, VERSION_1);
    set_driver_ok(&driver);
    assert!(probe.record().active.as_ref().unwrap().queues.is_empty());
}

fn event_index_is_used_when_negotiated<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let mut queue = TestQueue::new(memory.clone(), 8);
    negotiate(&driver, VERSION_1 | HONEST_FEATURES);
    set_up_queue(&driver, 0, &queue.ring());
    set_driver_ok(&driver);
    // With event indices, the flag that asks for silence means nothing.
    queue.suppress_interrupts();
    let head = queue.add_chain(&[Buffer::readable(0x8000, 16)]);
    let mut record = probe.record();
    let device = &mut record.active.as_mut().unwrap().queues[0];
    device.add_used(&memory, head, 0).unwrap();
    device.signal_used(&memory).unwrap();
    assert_eq!(driver.take_interrupts(), 1);
}

fn configuration_reads_with_any_width_and_zero_past_its_end<D: Driver>() {
    let (driver, ..) = start::<D>();
    for width in 1..=8 {
        let mut data = vec![0xff; width];
        driver.read_config(4, &mut data);
        let mut expected = CONFIG[4..].to_vec();
        expected.resize(8, 0);
        assert_eq!(data, expected[..width]);
    }
    let mut data = [0xff; 8];
    driver.read_config(0xf8, &mut data);
    assert_eq!(data, [0; 8]);
}

fn configuration_change_bumps_the_generation_and_interrupts<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    let before = driver.config_generation();
    probe.record().active.as_ref().unwrap().notifier.config_changed();
    assert_ne!(driver.config_generation(), before);
    assert_eq!(driver.take_interrupts(), 1);
    assert_eq!(driver.take_interrupt_status() & 2, 2);
    assert_eq!(driver.take_interrupt_status(), 0, "acknowledged");
}

fn reset_while_active_stops_the_device_and_returns_every_register<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    probe.record().active.as_ref().unwrap().notifier.signal_queue(0);
    let resets = probe.record().resets;
    driver.set_status(0);
    assert_eq!(probe.record().resets, resets + 1);
    assert!(probe.record().active.is_none());
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.take_interrupt_status(), 0);
    driver.select_queue(0);
    assert!(!driver.queue_enabled());
    assert_eq!(driver.queue_max_size(), 16);
    // Neither are the agreed features there any more: nothing was written since.
    driver.set_status(status::ACKNOWLEDGE | status::DRIVER | FEATURES_OK);
    assert_eq!(driver.status() & FEATURES_OK, 0);
}

fn reset_drains_kicks_and_keeps_the_eventfds<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let points = driver.transport().notify_points();
    let _queue = bring_up(&driver, &memory);
    driver.notify(0);
    driver.set_status(0);
    assert_eq!(take_kicks(&points[0]), 0);
    let _queue = bring_up(&driver, &memory);
    driver.notify(0);
    assert_eq!(probe.record().active.as_ref().unwrap().queues[0].kick().read().unwrap(), 1);
    driver.notify(0);
    assert_eq!(take_kicks(&points[0]), 1);
}

fn late_signals_after_a_reset_go_nowhere<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    let late = probe.record().active.as_ref().unwrap().notifier.clone();
    driver.set_status(0);
    let _queue = bring_up(&driver, &memory);
    late.signal_queue(0);
    late.config_changed();
    late.needs_reset(&"too late");
    assert_eq!(driver.take_interrupts(), 0);
    assert_eq!(driver.take_interrupt_status(), 0);
    assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
}

fn device_can_be_activated_again_after_a_reset<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    for round in 1..=3 {
        let _queue = bring_up(&driver, &memory);
        assert_eq!(probe.record().activations, round);
        assert!(probe.record().active.is_some());
    }
}

fn device_asks_for_a_reset<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    let notifier = probe.record().active.as_ref().unwrap().notifier.clone();
    notifier.needs_reset(&"the test says so");
    notifier.needs_reset(&"the test says so again");
    assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, status::DEVICE_NEEDS_RESET);
    assert_eq!(driver.take_interrupts(), 1);
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
}

fn refused_activation_needs_a_reset<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    probe.record().refuses = true;
    let _queue = bring_up(&driver, &memory);
    assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, status::DEVICE_NEEDS_RESET);
    assert_eq!(driver.take_interrupts(), 1, "the driver is told");
    probe.record().refuses = false;
    let _queue = bring_up(&driver, &memory);
    assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
    assert!(probe.record().active.is_some());
}

fn dropped_transport_resets_its_device<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    drop(driver);
    assert!(probe.record().active.is_none());
}

fn notify_points_are_where_the_driver_writes<D: Driver>() {
    let (driver, _, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    let points = driver.transport().notify_points();
    assert_eq!(points.iter().map(|point| point.queue).collect::<Vec<_>>(), [0, 1]);
    for point in &points {
        let value = point.datamatch.unwrap_or(0xffff_ffff);
        driver.poke(point.offset, &value.to_le_bytes());
        for other in &points {
            assert_eq!(take_kicks(other), u64::from(other.queue == point.queue));
        }
        driver.notify(point.queue.into());
        assert_eq!(take_kicks(point), 1);
    }
}
