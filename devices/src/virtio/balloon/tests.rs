use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::super::serve::testing::Loop;
use super::super::testing::{Buffer, RAM_SIZE, TestQueue, guest_ram};
use super::*;

const ALL: BalloonOptions = BalloonOptions {
    deflate_on_oom: true,
    free_page_reporting: true,
    free_page_hinting: true,
    stats: true,
};

const ALL_FEATURES: u64 = F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_REPORTING;
const LIST: u64 = 0x8000;
const PAGE: u64 = 4096;
/// Pages from here on are filled with [`FILL`], the rest is for rings and lists.
const FIRST_PAGE: u32 = 0x200;
const FILL: u8 = 0xaa;

struct Setup {
    queues: Vec<TestQueue>,
    port: Arc<BalloonPort>,
    events: Loop,
}

/// A balloon with the queues of these indices, whose worker runs on the test's thread.
fn setup(features: u64, indices: &[u16]) -> Setup {
    let memory = guest_ram();
    let start = u64::from(FIRST_PAGE) * PAGE;
    memory.write_slice(&vec![FILL; RAM_SIZE - start as usize], GuestAddress(start)).unwrap();
    let queues: Vec<_> = (0..)
        .zip(indices)
        .map(|(nth, _)| TestQueue::at(memory.clone(), 8, 0x10_0000 + nth * 0x1_0000))
        .collect();
    let device_queues =
        queues.iter().zip(indices).map(|(queue, index)| queue.device_queue(*index)).collect();
    let port = Arc::new(BalloonPort::new().unwrap());
    let handler = BalloonHandler::new(Arc::clone(&port), features, &memory, device_queues).unwrap();
    Setup { queues, port, events: Loop::new(handler) }
}

impl Setup {
    fn add(&mut self, nth: usize, buffers: &[Buffer]) {
        self.queues[nth].add_chain(buffers);
        self.queues[nth].kick();
        self.events.settle();
    }

    fn put_list(&self, numbers: &[u32]) -> u32 {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.queues[0].memory().write_slice(&bytes, GuestAddress(LIST)).unwrap();
        bytes.len() as u32
    }

    fn inflate(&mut self, numbers: &[u32]) {
        let len = self.put_list(numbers);
        self.add(0, &[Buffer::readable(LIST, len)]);
    }

    /// The filled pages that read as zeros now.
    fn given_back(&self) -> Vec<u32> {
        let memory = self.queues[0].memory();
        (FIRST_PAGE..(RAM_SIZE as u64 / PAGE) as u32)
            .filter(|number| {
                let mut page = [0xff; PAGE as usize];
                memory.read_slice(&mut page, GuestAddress(u64::from(*number) * PAGE)).unwrap();
                assert!(page == [0; PAGE as usize] || page == [FILL; PAGE as usize]);
                page[0] == 0
            })
            .collect()
    }
}

#[test]
fn inflated_pages_are_given_back_in_any_order_and_no_others() {
    let mut balloon = setup(0, &[0, 1]);
    balloon.inflate(&[0x303, 0x302, 0x301, 0x400, 0x402, 0x401, 0x301, 0xfff]);
    assert_eq!(balloon.given_back(), [0x301, 0x302, 0x303, 0x400, 0x401, 0x402, 0xfff]);
    assert_eq!(balloon.queues[0].used().len(), 1);
    assert_eq!(balloon.queues[0].interrupts(), 1);
    assert_eq!(balloon.port.refused_entries(), 0);
}

#[test]
fn deflated_page_can_be_used_again() {
    let mut balloon = setup(0, &[0, 1]);
    balloon.inflate(&[0x300]);
    let len = balloon.put_list(&[0x300]);
    balloon.add(1, &[Buffer::readable(LIST, len)]);
    assert_eq!(balloon.queues[1].used().len(), 1);
    let memory = balloon.queues[0].memory();
    memory.write_slice(&[FILL; PAGE as usize], GuestAddress(0x30_0000)).unwrap();
    assert!(balloon.given_back().is_empty());
}

#[test]
fn numbers_outside_memory_are_counted_and_the_others_served() {
    let mut balloon = setup(0, &[0, 1]);
    balloon.inflate(&[0x1000, 0x300, u32::MAX, 0x7fff_ffff]);
    assert_eq!(balloon.given_back(), [0x300]);
    assert_eq!(balloon.port.refused_entries(), 3);
    assert!(!balloon.queues[0].needs_reset());
}

#[test]
fn number_split_between_buffers_counts_and_half_a_number_does_not() {
    let mut balloon = setup(0, &[0, 1]);
    balloon.put_list(&[0x300, 0x301, 0x302]);
    balloon.add(0, &[Buffer::readable(LIST, 6), Buffer::readable(LIST + 6, 3)]);
    assert_eq!(balloon.given_back(), [0x300, 0x301]);
    assert_eq!(balloon.port.refused_entries(), 1);
}

#[test]
fn list_longer_than_a_batch_is_served_whole() {
    let mut balloon = setup(0, &[0, 1]);
    let numbers: Vec<u32> = (0x300..0xf00).collect();
    balloon.inflate(&numbers);
    assert_eq!(balloon.given_back(), numbers);
}

#[test]
fn endless_list_is_cut_off() {
    let mut balloon = setup(0, &[0, 1]);
    // 8 times 12 MiB of numbers, none of which is a page: they would take seconds.
    balloon.add(0, &[Buffer::readable(u64::from(FIRST_PAGE) * PAGE, 12 << 20); 8]);
    assert_eq!(balloon.queues[0].used().len(), 1);
    assert!(balloon.port.refused_entries() >= (8 * (12 << 20) - (1 << 20)) / 4);
    assert!(balloon.given_back().is_empty());
}

#[test]
fn bad_chains_come_back_and_give_nothing_back() {
    let mut balloon = setup(ALL_FEATURES, &[0, 1, 2, 4]);
    let len = balloon.put_list(&[0x300]);
    let start = 0x40_0000;
    // To the inflate queue: buffers for writing, empty ones, outside memory, misordered.
    balloon.add(0, &[Buffer::writable(LIST, len)]);
    balloon.add(0, &[Buffer::readable(LIST, 0)]);
    balloon.add(0, &[Buffer::readable(RAM_SIZE as u64 - 2, 4)]);
    balloon.add(0, &[Buffer::writable(LIST, len), Buffer::readable(LIST, len)]);
    assert_eq!(balloon.queues[0].used().len(), 4);
    // To the reporting queue: buffers for reading, wrapping ones, less than a page.
    balloon.add(3, &[Buffer::readable(start, 0x4000)]);
    balloon.add(3, &[Buffer::writable(u64::MAX - 8, 16)]);
    balloon.add(3, &[Buffer::writable(start + 1, 0x1ffe)]);
    assert_eq!(balloon.queues[3].used().len(), 3);
    assert!(balloon.given_back().is_empty());
    assert!(balloon.queues.iter().all(|queue| !queue.needs_reset()));
}

#[test]
fn broken_ring_asks_for_a_reset() {
    for nth in 0..4 {
        let mut balloon = setup(ALL_FEATURES, &[0, 1, 2, 4]);
        balloon.queues[nth].set_available_index(999);
        balloon.queues[nth].kick();
        balloon.events.settle();
        assert!(balloon.queues[nth].needs_reset());
    }
}

#[test]
fn reported_pages_are_given_back_wherever_the_driver_has_the_queue() {
    let without_stats = ALL_FEATURES & !F_STATS_VQ;
    for (features, indices) in [
        (ALL_FEATURES, vec![0, 1, 2, 4]),
        (ALL_FEATURES, vec![0, 1, 2, 3]),
        (without_stats, vec![0, 1, 4]),
        (without_stats, vec![0, 1, 2]),
    ] {
        let mut balloon = setup(features, &indices);
        let reporting = indices.len() - 1;
        balloon.add(
            reporting,
            &[Buffer::writable(0x30_0000, 0x2000), Buffer::writable(0x40_0800, 0x2000)],
        );
        assert_eq!(balloon.given_back(), [0x300, 0x301, 0x401], "queues {indices:?}");
        assert_eq!(balloon.queues[reporting].used(), [(0, 0)]);
    }
}

#[test]
fn queue_of_a_feature_that_was_not_negotiated_is_not_served() {
    let mut balloon = setup(0, &[0, 1, 2, 4]);
    balloon.add(2, &[Buffer::readable(LIST, 10)]);
    balloon.add(3, &[Buffer::writable(0x30_0000, 0x1000)]);
    assert_eq!(balloon.queues[2].used(), []);
    assert_eq!(balloon.queues[3].used(), []);
    assert!(balloon.given_back().is_empty());
}

fn put_stats(balloon: &Setup, entries: &[(u16, u64)]) -> u32 {
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|(tag, value)| {
            [tag.to_le_bytes().as_slice(), value.to_le_bytes().as_slice()].concat()
        })
        .collect();
    balloon.queues[0].memory().write_slice(&bytes, GuestAddress(LIST)).unwrap();
    bytes.len() as u32
}

#[test]
fn statistics_buffer_is_kept_until_new_ones_are_wanted() {
    let mut balloon = setup(ALL_FEATURES, &[0, 1, 2, 4]);
    balloon.port.request_stats();
    balloon.events.settle();
    let len = put_stats(&balloon, &[(4, 100), (5, 200), (0x1234, 7), (4, 101)]);
    balloon.add(2, &[Buffer::readable(LIST, len + 9)]);
    assert_eq!(balloon.queues[2].used(), []);
    let expected =
        BalloonStats { free_bytes: Some(101), total_bytes: Some(200), ..BalloonStats::default() };
    assert_eq!(balloon.port.stats(), Some(expected));

    balloon.port.request_stats();
    balloon.events.settle();
    assert_eq!(balloon.queues[2].used(), [(0, 0)]);
    assert_eq!(balloon.queues[2].interrupts(), 1);
    balloon.port.request_stats();
    balloon.events.settle();
    assert_eq!(balloon.queues[2].used(), [], "there is no buffer to return");

    let len = put_stats(&balloon, &[(9, 1)]);
    balloon.add(2, &[Buffer::readable(LIST, len)]);
    let expected = BalloonStats { huge_page_failures: Some(1), ..BalloonStats::default() };
    assert_eq!(balloon.port.stats(), Some(expected));
}

#[test]
fn second_statistics_buffer_sends_the_first_back_and_huge_ones_are_cut_off() {
    let mut balloon = setup(ALL_FEATURES, &[0, 1, 2, 4]);
    let size = RAM_SIZE as u32 - 0x8000;
    let entries: Vec<_> = (0..100).map(|nth| (if nth < 64 { 4 } else { 5 }, nth)).collect();
    put_stats(&balloon, &entries);
    balloon.add(2, &[Buffer::readable(LIST, size), Buffer::readable(LIST, size)]);
    let expected = BalloonStats { free_bytes: Some(63), ..BalloonStats::default() };
    assert_eq!(balloon.port.stats(), Some(expected));
    balloon.add(2, &[Buffer::writable(LIST, 10)]);
    balloon.add(2, &[Buffer::writable(LIST, 10), Buffer::readable(LIST, 10)]);
    let heads: Vec<u32> = balloon.queues[2].used().iter().map(|(head, _)| *head).collect();
    assert_eq!(heads, [0, 2]);
}

#[test]
fn target_and_actual_pages_show_in_the_configuration_and_changes_interrupt() {
    let port = Arc::new(BalloonPort::new().unwrap());
    let memory = guest_ram();
    let inflate = TestQueue::new(memory.clone(), 8);
    let deflate = TestQueue::at(memory.clone(), 8, 0x10_0000);
    let mut balloon = Balloon::new(Arc::clone(&port), ALL);
    port.set_target_pages(1);
    balloon
        .activate(Activation {
            memory,
            features: 0,
            queues: vec![inflate.device_queue(0), deflate.device_queue(1)],
            notifier: inflate.notifier(),
        })
        .unwrap();
    port.set_target_pages(0x1234);
    port.set_target_pages(0x1234);
    assert_eq!(inflate.config_interrupts(), 1);

    balloon.write_config(4, &0x0102_0304u32.to_le_bytes());
    balloon.write_config(0, &[0xff; 4]);
    balloon.write_config(4, &[0xff; 3]);
    assert_eq!(port.actual_pages(), 0x0102_0304);
    let mut config = [0; 12];
    balloon.read_config(0, &mut config);
    assert_eq!(config, [0x34, 0x12, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0]);

    balloon.reset();
    assert_eq!(port.actual_pages(), 0);
    assert_eq!(port.target_pages(), 0x1234, "the next driver is asked, too");
    port.set_target_pages(0);
    assert_eq!(inflate.config_interrupts(), 1);
}

#[test]
fn missing_queue_is_named() {
    let queue = TestQueue::new(guest_ram(), 8);
    let mut balloon = Balloon::new(Arc::new(BalloonPort::new().unwrap()), ALL);
    let refused = balloon.activate(Activation {
        memory: queue.memory().clone(),
        features: ALL_FEATURES,
        queues: vec![queue.device_queue(0), queue.device_queue(4)],
        notifier: queue.notifier(),
    });
    assert!(matches!(refused, Err(ActivateError::MissingQueue(DEFLATE_QUEUE))));
}

#[test]
fn only_what_was_asked_for_is_offered() {
    let offered = |options| {
        let port = Arc::new(BalloonPort::new().unwrap());
        Balloon::new(port, options).offered_features() & !RING_FEATURES
    };
    assert_eq!(offered(BalloonOptions::default()), 0);
    assert_eq!(offered(ALL), ALL_FEATURES | F_FREE_PAGE_HINT);
    let stats = BalloonOptions { stats: true, ..BalloonOptions::default() };
    assert_eq!(offered(stats), F_STATS_VQ);
}

#[test]
fn statistics_chain_that_the_device_holds_survives_a_restore() {
    let mut old = setup(ALL_FEATURES, &[0, 1, 2]);
    let len = put_stats(&old, &[(4, 100)]);
    old.add(2, &[Buffer::readable(LIST, len)]);
    old.port.set_target_pages(7);
    let stats = old.port.stats();
    let saved = Balloon::new(Arc::clone(&old.port), ALL).save().unwrap();

    let port = Arc::new(BalloonPort::new().unwrap());
    let mut balloon = Balloon::new(Arc::clone(&port), ALL);
    balloon.restore(saved.clone()).unwrap();
    assert_eq!((port.target_pages(), port.stats()), (7, stats));
    assert_eq!(balloon.save().unwrap(), saved);
    let memory = old.queues[0].memory().clone();
    let queues = (0..).zip(&old.queues).map(|(index, queue)| queue.restored_queue(index)).collect();
    let handler = BalloonHandler::new(Arc::clone(&port), ALL_FEATURES, &memory, queues).unwrap();
    let mut events = Loop::new(handler);
    events.settle();
    assert_eq!(old.queues[2].used(), [], "it's held until statistics are wanted");
    port.request_stats();
    events.settle();
    assert_eq!(old.queues[2].used(), [(0, 0)]);
    port.request_stats();
    events.settle();
    assert_eq!(old.queues[2].used(), [], "returned once");

    balloon.restore(saved).unwrap();
    balloon.reset();
    port.request_stats();
    assert_eq!(port.take_held_stats(), None, "a new driver has all of its buffers");
}

#[test]
fn impossible_statistics_chain_is_refused_or_asks_for_a_reset() {
    let port = Arc::new(BalloonPort::new().unwrap());
    let mut balloon = Balloon::new(Arc::clone(&port), ALL);
    let state = |held: u32| serde_json::json!({ "target_pages": u32::MAX, "actual_pages": 1, "held_stats": held });
    for held in [128, 65535, 65536] {
        assert!(balloon.restore(state(held)).is_err(), "{held}");
    }
    for wrong in [serde_json::json!(null), serde_json::json!({ "target_pages": -1 })] {
        assert!(matches!(balloon.restore(wrong), Err(RestoreError::Format { .. })));
    }
    // The driver's queue is smaller than the largest.
    balloon.restore(state(127)).unwrap();
    let memory = guest_ram();
    let queues = [0, 1, 2].map(|nth| TestQueue::at(memory.clone(), 8, 0x10_0000 + nth * 0x1_0000));
    let device_queues =
        (0..).zip(&queues).map(|(index, queue)| queue.device_queue(index)).collect();
    let handler = BalloonHandler::new(Arc::clone(&port), ALL_FEATURES, &memory, device_queues);
    let mut events = Loop::new(handler.unwrap());
    port.request_stats();
    events.settle();
    assert!(queues[2].needs_reset());
}

#[test]
fn each_statistic_has_its_tag() {
    let mut balloon = setup(ALL_FEATURES, &[0, 1, 2, 4]);
    let entries: Vec<_> = (0..17).map(|tag| (tag, 100 + u64::from(tag))).collect();
    let len = put_stats(&balloon, &entries);
    balloon.add(2, &[Buffer::readable(LIST, len)]);
    let stats = serde_json::to_value(balloon.port.stats().unwrap()).unwrap();
    let mut values: Vec<_> = stats.as_object().unwrap().values().map(|v| v.as_u64()).collect();
    values.sort_unstable();
    assert!(values.into_iter().eq((100..116).map(Some)));
    let stats = balloon.port.stats().unwrap();
    assert_eq!((stats.oom_kills, stats.direct_reclaimed_bytes), (Some(110), Some(115)));
}

#[test]
fn statistics_are_asked_for_at_each_interval_until_it_is_zero() {
    let mut balloon = setup(ALL_FEATURES, &[0, 1, 2, 4]);
    let len = put_stats(&balloon, &[(4, 1)]);
    balloon.port.set_stats_interval(Duration::from_millis(1)).unwrap();
    for _ in 0..3 {
        balloon.add(2, &[Buffer::readable(LIST, len)]);
        let start = Instant::now();
        while balloon.queues[2].used().is_empty() {
            assert!(start.elapsed().as_secs() < 20, "nobody asks");
            balloon.events.settle();
        }
    }
    balloon.port.set_stats_interval(Duration::ZERO).unwrap();
    balloon.port.acknowledge_timer();
    balloon.add(2, &[Buffer::readable(LIST, len)]);
    assert_eq!(balloon.queues[2].used(), []);
}

const HINTS: u64 = ALL_FEATURES | F_FREE_PAGE_HINT;
const COMMAND: u64 = 0x9000;

/// A balloon whose driver can be asked for hints, by its queue of this index among the others.
fn hinting(features: u64, indices: &[u16]) -> Setup {
    let balloon = setup(features, indices);
    balloon.port.attach(balloon.queues[0].notifier(), features & F_FREE_PAGE_HINT != 0);
    balloon
}

impl Setup {
    fn say(&mut self, nth: usize, command: u32) {
        self.queues[0].memory().write_slice(&command.to_le_bytes(), GuestAddress(COMMAND)).unwrap();
        self.add(nth, &[Buffer::readable(COMMAND, 4)]);
    }

    fn hint(&mut self, nth: usize, page: u64) {
        self.add(nth, &[Buffer::writable(page * PAGE, PAGE as u32)]);
    }

    fn commands(&self) -> (u32, Option<u32>) {
        let status = self.port.hinting_status();
        (status.host_command, status.guest_command)
    }
}

#[test]
fn pages_hinted_in_the_run_that_was_asked_for_are_given_back_and_the_end_is_acknowledged() {
    let mut balloon = hinting(HINTS, &[0, 1, 2, 3, 4]);
    balloon.hint(3, 0x300);
    assert!(balloon.port.start_hinting(true));
    assert_eq!(balloon.commands(), (2, None));
    assert_eq!(balloon.queues[0].config_interrupts(), 1);
    let mut config = [0; 4];
    Balloon::new(Arc::clone(&balloon.port), ALL).read_config(8, &mut config);
    assert_eq!(config, 2u32.to_le_bytes());

    balloon.hint(3, 0x301);
    balloon.say(3, 7);
    balloon.hint(3, 0x302);
    assert!(balloon.given_back().is_empty(), "no page was named for this run");
    balloon.say(3, 2);
    balloon.hint(3, 0x303);
    balloon.add(3, &[Buffer::writable(0x30_4000, 0x2000), Buffer::writable(0x31_0000, 0x1000)]);
    assert_eq!(balloon.given_back(), [0x303, 0x304, 0x305, 0x310]);
    balloon.say(3, 0);
    assert_eq!(balloon.commands(), (1, Some(0)));
    assert_eq!(balloon.queues[0].config_interrupts(), 2);
    balloon.hint(3, 0x306);
    balloon.say(3, 0);
    assert_eq!(balloon.queues[0].config_interrupts(), 2, "acknowledged once");
    assert_eq!(balloon.given_back(), [0x303, 0x304, 0x305, 0x310]);
    assert_eq!(balloon.queues[3].used().len(), 10, "every chain came back");
}

#[test]
fn run_that_is_not_acknowledged_ends_by_a_stop_and_the_next_has_another_number() {
    let mut balloon = hinting(HINTS, &[0, 1, 2, 3, 4]);
    assert!(balloon.port.start_hinting(false));
    balloon.say(3, 2);
    balloon.say(3, 0);
    assert_eq!(balloon.commands(), (2, Some(0)));
    assert!(balloon.port.stop_hinting());
    assert_eq!(balloon.commands(), (1, Some(0)));
    balloon.hint(3, 0x300);
    assert!(balloon.port.start_hinting(false));
    balloon.say(3, 3);
    assert!(balloon.port.stop_hinting());
    balloon.hint(3, 0x301);
    assert!(balloon.given_back().is_empty());
    balloon.port.detach();
    assert_eq!(balloon.commands(), (0, None));
    assert!(!balloon.port.start_hinting(true) && !balloon.port.stop_hinting(), "nobody is there");
}

#[test]
fn driver_without_hinting_is_not_asked() {
    let balloon = hinting(ALL_FEATURES, &[0, 1, 2, 4]);
    assert!(!balloon.port.start_hinting(true));
    assert_eq!(balloon.queues[0].config_interrupts(), 0);
}

#[test]
fn hinting_queue_is_found_with_and_without_gaps() {
    let only = F_FREE_PAGE_HINT;
    for (features, indices, nth) in [
        (only, vec![0, 1, 3], 2),
        (only, vec![0, 1, 2], 2),
        (only | F_PAGE_REPORTING, vec![0, 1, 3, 4], 2),
        (only | F_PAGE_REPORTING, vec![0, 1, 2, 3], 2),
        (only | F_PAGE_REPORTING, vec![0, 1, 3], 2),
        (only | F_STATS_VQ, vec![0, 1, 2, 3], 3),
        (HINTS, vec![0, 1, 2, 3, 4], 3),
    ] {
        let mut balloon = hinting(features, &indices);
        balloon.port.start_hinting(true);
        balloon.say(nth, 2);
        assert_eq!(balloon.commands(), (2, Some(2)), "{features:#x}, {indices:?}");
    }
}

#[test]
fn commands_of_another_size_and_bad_pages_change_nothing() {
    let mut balloon = hinting(HINTS, &[0, 1, 2, 3, 4]);
    balloon.port.start_hinting(true);
    balloon.say(3, 2);
    balloon.add(3, &[Buffer::readable(COMMAND, 3)]);
    balloon.add(3, &[Buffer::readable(COMMAND, 4), Buffer::readable(COMMAND, 4)]);
    balloon.add(3, &[Buffer::readable(RAM_SIZE as u64 - 2, 4)]);
    balloon.add(3, &[Buffer::readable(0x30_0000, 0x1000)]);
    balloon.add(3, &[Buffer::writable(RAM_SIZE as u64 - PAGE, 0x2000)]);
    balloon.add(3, &[Buffer::writable(0x30_0001, 0x1ffe)]);
    assert_eq!(balloon.queues[3].used().len(), 7);
    assert_eq!(balloon.commands(), (2, Some(2)));
    assert!(balloon.given_back().is_empty());
    assert!(!balloon.queues[3].needs_reset());
}

#[test]
fn run_goes_on_after_a_restore_under_its_number() {
    let mut old = hinting(HINTS, &[0, 1, 2, 3, 4]);
    old.port.start_hinting(true);
    old.say(3, 2);
    let saved = Balloon::new(Arc::clone(&old.port), ALL).save().unwrap();
    let port = Arc::new(BalloonPort::new().unwrap());
    let mut balloon = Balloon::new(Arc::clone(&port), ALL);
    balloon.restore(saved).unwrap();
    assert_eq!(port.hinting_status(), old.port.hinting_status());
    port.attach(old.queues[0].notifier(), true);
    port.guest_hinting_command(0);
    assert_eq!(port.hinting_status().host_command, 1);
    port.start_hinting(true);
    assert_eq!(port.hinting_status().host_command, 3);
    // A file's number can be anything; the reserved ones aren't used.
    balloon
        .restore(serde_json::json!({ "target_pages": 0, "actual_pages": 0,
            "hinting": { "last_run": u32::MAX } }))
        .unwrap();
    port.start_hinting(true);
    assert_eq!(port.hinting_status().host_command, 2);
}

#[test]
fn state_of_each_past_format_is_read_whole() {
    crate::state::kept::expect_read_whole::<super::port::BalloonState>("balloon");
}
