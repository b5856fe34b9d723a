//! Machines that are saved in the middle of something, and state files that nobody should trust.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vm_memory::{Bytes, GuestAddress};

use super::super::TransportState;
use super::super::core::status::{ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, FEATURES_OK};
use super::device::{HONEST_FEATURES, Probe};
use super::driver::{
    BAR, Driver, Mmio, Pci, VERSION_1, bring_up, negotiate, set_driver_ok, set_up_queue, start,
    take_kicks,
};
use super::on_both_transports;
use crate::disk::{Disk, DiskOptions, Engine};
use crate::pci::BarObserver;
use crate::state::{RestoreError, SaveError};
use crate::virtio::block::{Block, BlockConfig};
use crate::virtio::testing::{Buffer, TestQueue, guest_ram};

on_both_transports!(
    restored_device_goes_on_where_its_rings_were,
    restored_device_is_told_of_everything_once,
    registers_survive_whatever_step_the_driver_was_at,
    device_that_asked_for_a_reset_still_does,
    running_device_is_not_saved_and_used_one_not_restored,
    requests_in_flight_at_pause_complete_exactly_once,
    state_of_another_device_is_refused,
    impossible_queues_are_refused,
    no_value_in_a_state_file_makes_the_device_panic,
);

/// Pauses, saves, and passes the state through a file's text.
fn save<D: Driver>(driver: &D) -> TransportState {
    let transport = driver.transport();
    transport.request_pause();
    transport.pause();
    let text = serde_json::to_string(&transport.save().unwrap()).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Pops one chain of queue `index` and returns it used.
fn serve(probe: &Probe, index: usize) -> Option<u16> {
    let mut record = probe.record();
    let active = record.active.as_mut().unwrap();
    let memory = active.memory.clone();
    let head = active.queues[index].pop(&memory).unwrap()?.head_index();
    active.queues[index].add_used(&memory, head, 1).unwrap();
    active.queues[index].signal_used(&memory).unwrap();
    Some(head)
}

fn restored_device_goes_on_where_its_rings_were<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let mut queue = bring_up(&driver, &memory);
    let heads = [(); 5].map(|()| queue.add_chain(&[Buffer::writable(0x8000, 16)]));
    assert_eq!([(); 2].map(|()| serve(&probe, 0)), [Some(heads[0]), Some(heads[1])]);
    probe.record().saved = json!({ "own": 7 });
    let state = save(&driver);
    drop(driver);

    let probe = Probe::default();
    let driver = D::new(&probe, memory);
    driver.transport().restore(state).unwrap();
    assert_eq!(probe.record().restored, Some(json!({ "own": 7 })));
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    driver.transport().revive();
    driver.transport().resume();
    for head in &heads[2..] {
        assert_eq!(serve(&probe, 0), Some(*head));
    }
    assert_eq!(serve(&probe, 0), None);
    let used: Vec<_> = queue.used().into_iter().map(|(head, _)| head).collect();
    assert_eq!(used, heads.map(u32::from), "each chain once, in one ring");
}

fn restored_device_is_told_of_everything_once<D: Driver>() {
    let (driver, _, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    let generation = driver.config_generation();
    let state = save(&driver);
    drop(driver);

    let (restored, probe) = (Probe::default(), guest_ram());
    let (driver, probe) = (D::new(&restored, probe), restored);
    driver.transport().restore(state).unwrap();
    assert!(probe.record().active.as_ref().unwrap().notifier.workers_start_paused());
    assert_eq!(driver.take_interrupts(), 0, "nobody listens yet");
    driver.transport().revive();
    assert_eq!(driver.take_interrupts(), 2, "one queue, and the configuration");
    assert_eq!(driver.take_interrupt_status() & 2, 2);
    assert_ne!(driver.config_generation(), generation);
    let kicks: Vec<_> = driver.transport().notify_points().iter().map(take_kicks).collect();
    assert_eq!(kicks, [1, 0], "only the queue that is enabled");
}

fn registers_survive_whatever_step_the_driver_was_at<D: Driver>() {
    let ready = |driver: &D| {
        negotiate(driver, VERSION_1 | HONEST_FEATURES);
        set_up_queue(driver, 1, &TestQueue::new(guest_ram(), 4).ring());
    };
    let steps: [&dyn Fn(&D); 4] =
        [&|_| {}, &|driver| driver.set_status(ACKNOWLEDGE), &ready, &|driver| {
            ready(driver);
            set_driver_ok(driver);
        }];
    for step in steps {
        let (driver, ..) = start::<D>();
        step(&driver);
        let state = save(&driver);
        let (new, probe, _) = start::<D>();
        new.transport().restore(state.clone()).unwrap();
        assert_eq!(new.status(), driver.status());
        assert_eq!(probe.record().active.is_some(), driver.status() & DRIVER_OK != 0);
        for queue in 0..3 {
            driver.select_queue(queue);
            new.select_queue(queue);
            assert_eq!(new.queue_enabled(), driver.queue_enabled());
            assert_eq!(new.queue_max_size(), driver.queue_max_size());
        }
        // The driver takes its next steps as if nothing had happened.
        if new.status() & DRIVER_OK == 0 && new.status() & FEATURES_OK != 0 {
            set_driver_ok(&new);
            assert_eq!(probe.record().active.as_ref().unwrap().queues[0].size(), 4);
        }
        new.set_status(0);
        new.transport().resume();
        let _queue = bring_up(&new, &guest_ram());
        assert_eq!(new.status() & DEVICE_NEEDS_RESET, 0);
    }
}

fn device_that_asked_for_a_reset_still_does<D: Driver>() {
    let (driver, probe, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    probe.record().active.as_ref().unwrap().notifier.needs_reset(&"the test says so");
    let state = save(&driver);
    let (new, probe, memory) = start::<D>();
    new.transport().restore(state).unwrap();
    assert_eq!(new.status() & DEVICE_NEEDS_RESET, DEVICE_NEEDS_RESET);
    assert!(probe.record().active.is_none(), "it would only break again");
    new.transport().revive();
    assert!(new.take_interrupts() > 0, "the driver is told");
    let _queue = bring_up(&new, &memory);
    assert!(probe.record().active.is_some());
}

fn running_device_is_not_saved_and_used_one_not_restored<D: Driver>() {
    let (driver, _, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    assert!(matches!(driver.transport().save(), Err(SaveError::NotPaused)));
    let state = save(&driver);
    driver.transport().resume();
    assert!(matches!(driver.transport().save(), Err(SaveError::NotPaused)));
    assert!(matches!(driver.transport().restore(state), Err(RestoreError::InUse)));
    assert_eq!(driver.status() & DRIVER_OK, DRIVER_OK, "and goes on");
}

const SECTOR: u64 = 512;
const REQUESTS: u64 = 32;

/// Makes read requests of 4 KiB each for the sectors from 8 times their number on.
fn add_reads(queue: &mut TestQueue) {
    for number in 0..REQUESTS {
        let (header, data, status) =
            (0x10_0000 + number * 16, 0x20_0000 + number * 4096, 0x1f_0000 + number);
        let memory = queue.memory();
        memory.write_obj(0u64, GuestAddress(header)).unwrap();
        memory.write_obj((number * 8).to_le(), GuestAddress(header + 8)).unwrap();
        memory.write_obj(0xffu8, GuestAddress(status)).unwrap();
        queue.add_chain(&[
            Buffer::readable(header, 16),
            Buffer::writable(data, 4096),
            Buffer::writable(status, 1),
        ]);
    }
}

fn requests_in_flight_at_pause_complete_exactly_once<D: Driver>() {
    let image = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..REQUESTS * 8 * SECTOR).map(|at| (at / 4096) as u8 + 1).collect();
    std::fs::write(image.path(), &content).unwrap();
    let open = |engine| {
        let options = DiskOptions { engine, read_only: true, ..DiskOptions::new(image.path()) };
        Box::new(Block::new(&BlockConfig::default(), Disk::open(&options).unwrap()).unwrap())
    };
    for engine in [None, Some(Engine::Sync)] {
        for round in 0..8 {
            let memory = guest_ram();
            let mut driver = D::with_device(open(engine), memory.clone());
            let mut queue = TestQueue::new(memory.clone(), 128);
            negotiate(&driver, VERSION_1);
            set_up_queue(&driver, 0, &queue.ring());
            set_driver_ok(&driver);
            add_reads(&mut queue);
            driver.notify(0);
            let mut used = Vec::new();
            for _ in 0..4 {
                // As far as it happens to be.
                (0..round).for_each(|_| std::thread::yield_now());
                let state = save(&driver);
                let before = driver.take_interrupts();
                drop(driver);
                let returned = queue.used();
                assert_eq!(before > 0, !returned.is_empty(), "told of what was returned");
                used.extend(returned);
                driver = D::with_device(open(engine), memory.clone());
                driver.transport().restore(state).unwrap();
                assert_eq!(queue.used(), [], "served before it was resumed");
                driver.transport().revive();
                driver.take_interrupts();
                driver.transport().resume();
            }
            let start = Instant::now();
            while used.len() < REQUESTS as usize {
                assert!(start.elapsed() < Duration::from_secs(60), "only {used:?} came back");
                used.extend(queue.used());
                std::thread::yield_now();
            }
            driver.transport().pause();
            used.extend(queue.used());
            used.sort_unstable();
            let expected: Vec<_> = (0..REQUESTS as u32).map(|n| (n * 3, 4097)).collect();
            assert_eq!(used, expected, "each request once");
            let mut read = vec![0; content.len()];
            memory.read_slice(&mut read, GuestAddress(0x20_0000)).unwrap();
            assert!(read == content);
        }
    }
}

/// Saves an active device and lets `change` tamper with what is common to both transports.
fn tampered<D: Driver>(change: impl FnOnce(&mut Value)) -> Result<(), RestoreError> {
    let (driver, _, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    let mut state = serde_json::to_value(save(&driver)).unwrap();
    let transport = state.as_object_mut().unwrap().values_mut().next().unwrap();
    change(&mut transport["core"]);
    let (new, probe, _) = start::<D>();
    let restored = new.transport().restore(serde_json::from_value(state).unwrap());
    if restored.is_err() {
        assert!(probe.record().active.is_none());
        assert_eq!(new.status(), 0, "as after a reset");
        let _queue = bring_up(&new, &guest_ram());
    }
    restored
}

fn state_of_another_device_is_refused<D: Driver>() {
    tampered::<D>(|_| {}).unwrap();
    let missing = 1 << 40;
    let refused = tampered::<D>(|core| {
        core["driver_features"] = json!(core["driver_features"].as_u64().unwrap() | missing);
    });
    assert!(matches!(refused, Err(RestoreError::Features { missing: bits }) if bits == missing));
    for (field, value) in [("device_type", json!(1)), ("queues", json!([]))] {
        let refused = tampered::<D>(|core| core[field] = value);
        assert!(matches!(refused, Err(RestoreError::Mismatch { .. })), "{field}");
    }
    for status in [DRIVER_OK, ACKNOWLEDGE | DRIVER | DRIVER_OK, FEATURES_OK, 0x20, 0x40, 0xff] {
        let refused = tampered::<D>(|core| core["status"] = json!(status));
        assert!(matches!(refused, Err(RestoreError::Invalid { .. })), "{status:#x}");
    }
    let refused = tampered::<D>(|core| core["driver_features"] = json!(0));
    assert!(matches!(refused, Err(RestoreError::Invalid { .. })), "before VIRTIO 1.0");

    let (mmio, ..) = start::<Mmio>();
    let (pci, ..) = start::<Pci>();
    for refused in [mmio.transport().restore(save(&pci)), pci.transport().restore(save(&mmio))] {
        assert!(matches!(refused, Err(RestoreError::Mismatch { what: "transport", .. })));
    }
}

fn impossible_queues_are_refused<D: Driver>() {
    for (field, value) in [
        ("size", json!(0)),
        ("size", json!(3)),
        ("size", json!(32)),
        ("descriptors", json!(1)),
        ("descriptors", json!(u64::MAX)),
        ("available", json!(u64::MAX - 1)),
        ("used", json!(1u64 << 40)),
        ("used", json!(0x1000)),
        ("next_available", json!(9)),
        ("next_used", json!(30000)),
    ] {
        let refused = tampered::<D>(|core| core["queues"][0][field] = value.clone());
        assert!(matches!(refused, Err(RestoreError::Invalid { .. })), "{field} {value}");
    }
    // A ring's indices wrap, and may be anywhere as long as they are near each other.
    tampered::<D>(|core| {
        core["queues"][0]["next_available"] = json!(3);
        core["queues"][0]["next_used"] = json!(65531);
    })
    .unwrap();
    // Of a queue that isn't enabled, registers can say what they like.
    tampered::<D>(|core| core["queues"][1]["descriptors"] = json!(u64::MAX)).unwrap();
}

/// Calls `visit` with the path of every value in `state`.
fn paths(state: &Value, path: String, visit: &mut impl FnMut(String)) {
    match state {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| paths(value, format!("{path}/{name}"), visit));
        }
        Value::Array(values) => {
            let all = values.iter().enumerate();
            all.take(8).for_each(|(at, value)| paths(value, format!("{path}/{at}"), visit));
        }
        _ => {}
    }
    visit(path);
}

fn no_value_in_a_state_file_makes_the_device_panic<D: Driver>() {
    let (driver, _, memory) = start::<D>();
    let _queue = bring_up(&driver, &memory);
    let state = serde_json::to_value(save(&driver)).unwrap();
    let mut all = Vec::new();
    paths(&state, String::new(), &mut |path| all.push(path));
    assert!(all.len() > 20);
    for path in all {
        for wild in [
            json!(0),
            json!(1),
            json!(255),
            json!(65535),
            json!(u32::MAX),
            json!(u64::MAX),
            json!(true),
            json!(null),
            json!([]),
            json!(vec![255; 256]),
            json!({}),
        ] {
            let mut hostile = state.clone();
            *hostile.pointer_mut(&path).unwrap() = wild;
            let Ok(hostile) = serde_json::from_value::<TransportState>(hostile) else { continue };
            let (new, probe, memory) = start::<D>();
            if new.transport().restore(hostile).is_ok() {
                new.transport().revive();
                new.transport().resume();
                if let Some(active) = &mut probe.record().active {
                    for queue in &mut active.queues {
                        let _ = queue.pop(&memory).map(|chain| chain.is_some());
                        let _ = queue.add_used(&memory, 0, 0);
                        let _ = queue.signal_used(&memory);
                    }
                }
                new.transport().reset();
            }
        }
    }
}

/// Where a BAR went.
#[derive(Default)]
struct Moves(std::sync::Mutex<Vec<Option<u64>>>);

impl BarObserver for Moves {
    fn moved(&self, _old: Option<u64>, new: Option<u64>) {
        self.0.lock().unwrap().push(new);
    }
}

#[test]
fn restored_function_has_its_bar_where_the_guest_moved_it_and_its_vectors_masked() {
    const ELSEWHERE: u64 = 0x8000_0000;
    let (driver, probe, memory) = start::<Pci>();
    let _queue = bring_up(&driver, &memory);
    driver.set_vector(1, 0xfee0_1000, 0x77, true);
    probe.record().active.as_ref().unwrap().notifier.signal_queue(0);
    assert_eq!(driver.take_interrupts(), 0, "it waits behind its mask");
    driver.set_config(0x10, &(ELSEWHERE as u32).to_le_bytes());
    let state = save(&driver);

    let (new, ..) = start::<Pci>();
    let moves = std::sync::Arc::new(Moves::default());
    new.transport.observe_bar(moves.clone());
    new.transport().restore(state.clone()).unwrap();
    assert_eq!(*moves.0.lock().unwrap(), [Some(BAR), Some(ELSEWHERE)]);
    assert_eq!(new.take_interrupts(), 0);
    let mut entry = [0; 16];
    assert!(new.mmio.read(ELSEWHERE + 0x4000 + 16, &mut entry[..8]));
    assert!(new.mmio.read(ELSEWHERE + 0x4000 + 24, &mut entry[8..]));
    assert_eq!(entry[..5], [0, 0x10, 0xe0, 0xfe, 0]);
    assert_eq!((entry[8], entry[12]), (0x77, 1));
    let mut pending = [0];
    assert!(new.mmio.read(ELSEWHERE + 0x6000, &mut pending));
    assert_eq!(pending, [0b10]);
    assert!(new.mmio.write(ELSEWHERE + 0x4000 + 28, &[0; 4]));
    assert_eq!(new.take_interrupts(), 1, "sent when the mask goes");

    // Another number of vectors, or another function's header, is another device's.
    let change = |change: &dyn Fn(&mut Value)| {
        let mut hostile = serde_json::to_value(&state).unwrap();
        change(&mut hostile["pci"]);
        let (new, ..) = start::<Pci>();
        new.transport().restore(serde_json::from_value(hostile).unwrap())
    };
    change(&|_| {}).unwrap();
    for refused in [
        change(&|pci| pci["interrupt"]["vectors"] = json!([])),
        change(&|pci| pci["interrupt"]["queue_vectors"] = json!(vec![0; 2000])),
        change(&|pci| pci["config"] = json!([])),
        change(&|pci| pci["config"][2] = json!(0)),
    ] {
        assert!(matches!(refused, Err(RestoreError::Mismatch { .. })));
    }
}
