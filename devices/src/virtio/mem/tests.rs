use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use sys::memory::{GuestRam, RegionTracking};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::super::serve::testing::Loop;
use super::super::testing::{Buffer, RAM_SIZE, TestQueue};
use super::*;

const REQUEST: u64 = 0x8000;
const RESPONSE: u64 = 0x9000;
const MIB: u64 = 1 << 20;
const START: u64 = 1 << 30;
/// 4 slots of 4 blocks of 2 MiB.
const REGION: MemRegion = MemRegion {
    start: GuestAddress(START),
    size: 32 * MIB,
    block_size: 2 * MIB,
    slot_size: 8 * MIB,
};

const ACK: u16 = 0;
const NACK: u16 = 1;
const BUSY: u16 = 2;
const ERROR: u16 = 3;
const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

/// Remembers which slots are shown; may refuse.
#[derive(Default)]
struct Slots {
    shown: Mutex<[bool; 4]>,
    refuses_last: AtomicBool,
}

impl MemorySlots for Slots {
    fn show(&self, index: u64, shown: bool) -> io::Result<()> {
        if shown && index == 3 && self.refuses_last.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let old = std::mem::replace(&mut self.shown.lock().unwrap()[index as usize], shown);
        assert_ne!(old, shown, "only changes are told");
        Ok(())
    }
}

fn memory() -> GuestRam {
    let slots = (0..4).map(|slot| (GuestAddress(START + slot * 8 * MIB), 8 << 20));
    let ranges: Vec<_> = [(GuestAddress(0), RAM_SIZE)].into_iter().chain(slots).collect();
    GuestRam::from_ranges(&ranges).unwrap()
}

struct Setup {
    queue: TestQueue,
    port: Arc<MemPort>,
    slots: Arc<Slots>,
    events: Loop,
}

fn setup() -> Setup {
    let queue = TestQueue::new(memory(), 16);
    let slots = Arc::<Slots>::default();
    let port = MemPort::new(REGION, queue.memory().clone(), Arc::clone(&slots) as _);
    let port = Arc::new(port);
    let requests = ServedQueue::new(queue.device_queue(0), queue.memory().clone());
    let events = Loop::new(MemHandler { requests, port: Arc::clone(&port) });
    Setup { queue, port, slots, events }
}

impl Setup {
    fn put(&self, kind: u16, address: u64, count: u16) {
        let mut request = [0xff; 24];
        request[..2].copy_from_slice(&kind.to_le_bytes());
        request[8..16].copy_from_slice(&address.to_le_bytes());
        request[16..18].copy_from_slice(&count.to_le_bytes());
        self.queue.memory().write_slice(&request, GuestAddress(REQUEST)).unwrap();
        self.queue.memory().write_slice(&[0xee; 16], GuestAddress(RESPONSE)).unwrap();
    }

    fn send(&mut self, buffers: &[Buffer]) -> u32 {
        self.queue.add_chain(buffers);
        self.queue.kick();
        self.events.settle();
        let used = self.queue.used();
        assert_eq!(used.len(), 1, "the request comes back");
        used[0].1
    }

    /// Asks something of blocks by their numbers; returns the answer's type and state.
    fn ask_state(&mut self, kind: u16, block: u64, count: u16) -> (u16, u16) {
        self.put(kind, START + block * 2 * MIB, count);
        assert_eq!(self.send(&[Buffer::readable(REQUEST, 24), Buffer::writable(RESPONSE, 10)]), 10);
        let memory = self.queue.memory();
        let field = |offset| memory.read_obj(GuestAddress(RESPONSE + offset)).unwrap();
        (field(0), field(8))
    }

    fn ask(&mut self, kind: u16, block: u64, count: u16) -> u16 {
        self.ask_state(kind, block, count).0
    }

    fn shown(&self) -> [bool; 4] {
        *self.slots.shown.lock().unwrap()
    }
}

#[test]
fn blocks_are_plugged_up_to_what_is_requested_and_slots_follow() {
    let mut mem = setup();
    assert_eq!(mem.ask(PLUG, 0, 1), ERROR, "nothing is usable");
    mem.port.set_requested(12 * MIB);
    assert_eq!(mem.ask(PLUG, 3, 2), ACK);
    assert_eq!(mem.shown(), [true, true, false, false]);
    assert_eq!(mem.ask(PLUG, 0, 3), ACK);
    assert_eq!(mem.port.plugged(), 10 * MIB);
    assert_eq!(mem.ask(PLUG, 5, 2), NACK, "more than requested");
    assert_eq!(mem.ask(PLUG, 4, 1), ERROR, "plugged already");
    assert_eq!(mem.ask(PLUG, 7, 2), ERROR, "beyond what is usable");
    assert_eq!(mem.ask(PLUG, 5, 1), ACK);
    assert_eq!(mem.port.plugged(), mem.port.requested());
}

#[test]
fn unplugged_blocks_are_given_back_and_empty_slots_hidden() {
    let mut mem = setup();
    mem.port.set_requested(32 * MIB);
    assert_eq!(mem.ask(PLUG, 0, 16), ACK);
    let memory = mem.queue.memory().clone();
    let at = |block: u64| GuestAddress(START + block * 2 * MIB);
    (0..16).for_each(|block| memory.write_obj(7_u8, at(block)).unwrap());
    mem.port.set_requested(0);
    assert_eq!(mem.ask(UNPLUG, 2, 6), ACK);
    assert_eq!(mem.shown(), [true, false, true, true]);
    let content: Vec<u8> = (0..16).map(|block| memory.read_obj(at(block)).unwrap()).collect();
    assert_eq!(content, [7, 7, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7]);
    assert_eq!(mem.ask(UNPLUG, 1, 2), ERROR, "only one of them is plugged");
    assert_eq!(mem.ask_state(STATE, 0, 2), (ACK, 0));
    assert_eq!(mem.ask_state(STATE, 2, 6), (ACK, 1));
    assert_eq!(mem.ask_state(STATE, 1, 2), (ACK, 2));
    assert_eq!(mem.ask(UNPLUG_ALL, 0, 0), ACK);
    assert_eq!((mem.shown(), mem.port.plugged()), ([false; 4], 0));
    assert_eq!(memory.read_obj::<u8>(at(15)).unwrap(), 0);
    assert_eq!(mem.ask(STATE, 0, 1), ERROR, "nothing is usable any more");
}

#[test]
fn blocks_that_do_not_exist_are_an_error() {
    let mut mem = setup();
    mem.port.set_requested(32 * MIB);
    for kind in [PLUG, UNPLUG, STATE] {
        assert_eq!(mem.ask(kind, 0, 0), ERROR);
        assert_eq!(mem.ask(kind, 16, 1), ERROR);
        assert_eq!(mem.ask(kind, 15, 2), ERROR);
        assert_eq!(mem.ask(kind, 0, u16::MAX), ERROR);
        for address in
            [0, START - 2 * MIB, START + 1, START + MIB, u64::MAX, u64::MAX - 2 * MIB + 1]
        {
            mem.put(kind, address, 1);
            mem.send(&[Buffer::readable(REQUEST, 24), Buffer::writable(RESPONSE, 10)]);
            let answer: u16 = mem.queue.memory().read_obj(GuestAddress(RESPONSE)).unwrap();
            assert_eq!(answer, ERROR, "{kind} at {address:#x}");
        }
    }
    assert_eq!(mem.ask(4, 0, 1), ERROR);
    assert_eq!(mem.ask(UNPLUG, 0, 1), ERROR, "not plugged");
    assert_eq!((mem.shown(), mem.port.plugged()), ([false; 4], 0));
}

#[test]
fn short_and_bad_requests_come_back_without_effect() {
    let mut mem = setup();
    mem.port.set_requested(32 * MIB);
    let response = Buffer::writable(RESPONSE, 10);
    for (buffers, written) in [
        (vec![Buffer::readable(REQUEST, 23), response], 10),
        (vec![response], 10),
        (vec![Buffer::readable(REQUEST, 24), Buffer::writable(RAM_SIZE as u64 - 2, 10)], 0),
        (vec![response, Buffer::readable(REQUEST, 24)], 0),
    ] {
        mem.put(PLUG, START, 1);
        assert_eq!(mem.send(&buffers), written);
        assert_eq!(mem.port.plugged(), 0, "{buffers:?}");
    }
    // In pieces is fine.
    mem.put(PLUG, START, 1);
    let pieces = [
        Buffer::readable(REQUEST, 3),
        Buffer::readable(REQUEST + 3, 40),
        Buffer::writable(RESPONSE, 1),
        Buffer::writable(RESPONSE + 1, 20),
    ];
    assert_eq!(mem.send(&pieces), 10);
    assert_eq!(mem.port.plugged(), 2 * MIB);
    assert!(!mem.queue.needs_reset());
}

#[test]
fn slot_that_the_host_can_not_show_makes_the_request_busy_and_hides_the_others() {
    let mut mem = setup();
    mem.port.set_requested(32 * MIB);
    mem.slots.refuses_last.store(true, Ordering::Relaxed);
    assert_eq!(mem.ask(PLUG, 6, 10), BUSY);
    assert_eq!((mem.shown(), mem.port.plugged()), ([false; 4], 0));
    mem.slots.refuses_last.store(false, Ordering::Relaxed);
    assert_eq!(mem.ask(PLUG, 6, 10), ACK);
}

#[test]
fn memory_that_is_being_copied_stays_plugged() {
    let mut mem = setup();
    mem.port.set_requested(32 * MIB);
    mem.ask(PLUG, 0, 16);
    let memory = mem.queue.memory().clone();
    let second = memory.find_region(GuestAddress(START + 8 * MIB)).unwrap();
    second.tracking().hold(true);
    assert_eq!(mem.ask(UNPLUG, 3, 2), BUSY);
    assert_eq!(mem.port.plugged(), 32 * MIB);
    second.tracking().hold(false);
    assert_eq!(mem.ask(UNPLUG, 3, 2), ACK);
}

#[test]
fn configuration_shows_sizes_and_a_new_request_interrupts() {
    let mut mem = setup();
    let mut device = Mem::new(Arc::clone(&mem.port));
    device
        .activate(Activation {
            memory: mem.queue.memory().clone(),
            features: 0,
            queues: vec![mem.queue.device_queue(0)],
            notifier: mem.queue.notifier(),
        })
        .unwrap();
    mem.port.set_requested(10 * MIB);
    assert_eq!(mem.queue.config_interrupts(), 1);
    let config = |device: &Mem| {
        let mut config = [0; 56];
        device.read_config(0, &mut config);
        config.as_chunks().0.iter().map(|field| u64::from_le_bytes(*field)).collect::<Vec<_>>()
    };
    let sizes = [2 * MIB, 0, START, 32 * MIB, 16 * MIB, 0, 10 * MIB];
    assert_eq!(config(&device), sizes);
    device.reset();
    mem.ask(PLUG, 0, 1);
    device.reset();
    assert_eq!(mem.port.plugged(), 2 * MIB, "a reset unplugs nothing");
    mem.port.set_requested(u64::MAX);
    assert_eq!(mem.port.requested(), 32 * MIB);
    assert_eq!(mem.queue.config_interrupts(), 1, "nobody is there");
}

#[test]
fn plugged_blocks_are_shown_again_after_a_restore() {
    let mut old = setup();
    old.port.set_requested(20 * MIB);
    old.ask(PLUG, 1, 2);
    old.ask(PLUG, 8, 1);
    let saved = Mem::new(Arc::clone(&old.port)).save().unwrap();
    let mut new = setup();
    let mut device = Mem::new(Arc::clone(&new.port));
    device.restore(saved.clone()).unwrap();
    assert_eq!(device.save().unwrap(), saved);
    assert_eq!(new.shown(), [true, false, true, false]);
    assert_eq!((new.port.plugged(), new.port.requested()), (6 * MIB, 20 * MIB));
    assert_eq!(new.ask(UNPLUG, 1, 2), ACK);
    assert_eq!(new.shown(), [false, false, true, false]);
    assert!(matches!(device.restore(saved), Err(RestoreError::InUse)));
}

#[test]
fn impossible_states_are_refused() {
    let state = |key: &str, value: serde_json::Value| {
        let mut state = serde_json::json!({
            "start": START, "size": 32 * MIB, "block_size": 2 * MIB,
            "requested": 0, "usable": 0, "plugged": [],
        });
        state[key] = value;
        state
    };
    let run = |first: u64, count: u64| serde_json::json!({ "first": first, "count": count });
    for bad in [
        state("start", 0.into()),
        state("size", (64 * MIB).into()),
        state("block_size", 0.into()),
        state("requested", u64::MAX.into()),
        state("usable", 1.into()),
        state("plugged", serde_json::json!([run(0, 17)])),
        state("plugged", serde_json::json!([run(u64::MAX, 2)])),
        state("plugged", serde_json::json!([run(0, 0)])),
        state("plugged", serde_json::json!([run(0, 2), run(1, 1)])),
        serde_json::json!(null),
    ] {
        let mem = setup();
        assert!(Mem::new(Arc::clone(&mem.port)).restore(bad.clone()).is_err(), "{bad}");
    }
    let mem = setup();
    Mem::new(Arc::clone(&mem.port)).restore(state("requested", (2 * MIB).into())).unwrap();
}

#[test]
fn state_of_each_past_format_is_read_whole() {
    crate::state::kept::expect_read_whole::<super::port::MemState>("memory");
}
