use std::io::{PipeReader, Read, pipe};

use vm_memory::GuestAddress;

use super::super::serve::testing::Loop;
use super::super::testing::{Buffer, RAM_SIZE, TestQueue, guest_ram};
use super::*;
use crate::console::{ConsoleOutput, InputTarget};

/// A device whose worker runs on the test's thread, and the host's end of its output.
struct Setup {
    receive: TestQueue,
    transmit: TestQueue,
    port: Arc<ConsolePort>,
    reader: PipeReader,
    events: Loop,
}

fn port() -> (Arc<ConsolePort>, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    let output = Arc::new(ConsoleOutput::new(writer.into()).unwrap());
    (Arc::new(ConsolePort::new(output).unwrap()), reader)
}

fn setup() -> Setup {
    let memory = guest_ram();
    let receive = TestQueue::new(memory.clone(), 8);
    let transmit = TestQueue::at(memory.clone(), 8, 0x10_0000);
    let (port, reader) = port();
    let handler = ConsoleHandler::new(
        Arc::clone(&port),
        Arc::default(),
        &memory,
        receive.device_queue(RECEIVE_QUEUE),
        transmit.device_queue(TRANSMIT_QUEUE),
    );
    Setup { receive, transmit, port, reader, events: Loop::new(handler) }
}

impl Setup {
    fn put(&self, address: u64, bytes: &[u8]) {
        self.transmit.memory().write_slice(bytes, GuestAddress(address)).unwrap();
    }

    fn get(&self, address: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        self.receive.memory().read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn kick_transmit(&mut self) {
        self.transmit.kick();
        self.events.settle();
    }

    fn kick_receive(&mut self) {
        self.receive.kick();
        self.events.settle();
    }

    /// Everything that the host has seen; ends the output.
    fn output(self) -> Vec<u8> {
        let Setup { port, mut reader, events, .. } = self;
        drop(events);
        drop(port);
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        seen
    }
}

#[test]
fn transmitted_buffers_reach_the_host_in_order() {
    let mut console = setup();
    console.put(0x8000, b"hello ");
    console.put(0x9000, b"world\n");
    console.transmit.add_chain(&[Buffer::readable(0x8000, 6)]);
    console.transmit.add_chain(&[Buffer::readable(0x9000, 2), Buffer::readable(0x9002, 4)]);
    console.kick_transmit();
    assert!(console.transmit.used().iter().map(|(_, written)| *written).eq([0, 0]));
    assert_eq!(console.transmit.interrupts(), 1);
    assert_eq!(console.output(), b"hello world\n");
}

#[test]
fn buffer_larger_than_a_copy_is_transmitted_whole() {
    let mut console = setup();
    let bytes: Vec<u8> = (0..2 * COPY_BYTES + 5).map(|position| (position % 251) as u8).collect();
    console.put(0x8000, &bytes);
    console.transmit.add_chain(&[Buffer::readable(0x8000, bytes.len() as u32)]);
    console.kick_transmit();
    assert_eq!(console.output(), bytes);
}

#[test]
fn bad_transmit_chains_come_back_and_print_nothing() {
    let mut console = setup();
    console.put(0x8000, b"x");
    console.transmit.add_chain(&[Buffer::writable(0x8000, 1)]);
    console.transmit.add_chain(&[Buffer::readable(0x8000, 0)]);
    console.transmit.add_chain(&[Buffer::readable(RAM_SIZE as u64, 1)]);
    console.transmit.add_chain(&[Buffer::writable(0x8000, 1), Buffer::readable(0x8000, 1)]);
    console.kick_transmit();
    assert_eq!(console.transmit.used().len(), 4);
    assert!(!console.transmit.needs_reset());
    assert_eq!(console.output(), b"");
}

#[test]
fn input_waits_for_a_buffer_and_fills_it_only_as_far_as_it_goes() {
    let mut console = setup();
    assert_eq!(console.port.offer(b"exit\n"), 5);
    console.events.settle();
    assert_eq!(console.receive.used(), []);

    let head = console.receive.add_chain(&[Buffer::writable(0x8000, 64)]);
    console.kick_receive();
    assert_eq!(console.receive.used(), [(u32::from(head), 5)]);
    assert_eq!(console.get(0x8000, 6), b"exit\n\0");
    assert_eq!(console.receive.interrupts(), 1);
}

#[test]
fn buffers_wait_for_input_and_share_it() {
    let mut console = setup();
    console.receive.add_chain(&[Buffer::writable(0x8000, 2), Buffer::writable(0x9000, 2)]);
    console.receive.add_chain(&[Buffer::writable(0xa000, 16)]);
    console.kick_receive();
    assert_eq!(console.receive.used(), [], "no buffer is used up without input");
    console.port.offer(b"abcdef");
    console.events.settle();
    assert!(console.receive.used().iter().map(|(_, written)| *written).eq([4, 2]));
    assert_eq!(console.get(0x8000, 2), b"ab");
    assert_eq!(console.get(0x9000, 2), b"cd");
    assert_eq!(console.get(0xa000, 3), b"ef\0");
}

#[test]
fn unread_input_is_bounded_and_resumes_without_loss() {
    let mut console = setup();
    let input: Vec<u8> = (0..3 * COPY_BYTES).map(|position| (position % 251) as u8).collect();
    let mut offered = console.port.offer(&input);
    assert!(offered < input.len());
    assert_eq!(console.port.offer(&input[offered..]), 0);
    assert!(console.port.room().read().is_err());

    let mut seen = Vec::new();
    while seen.len() < input.len() {
        console.receive.add_chain(&[Buffer::writable(0x8000, 1000)]);
        console.kick_receive();
        let written = console.receive.used()[0].1 as usize;
        seen.extend(console.get(0x8000, written));
        if console.port.room().read().is_ok() {
            offered += console.port.offer(&input[offered..]);
        }
    }
    assert_eq!(seen, input);
}

#[test]
fn receive_chains_without_room_lose_no_input() {
    let mut console = setup();
    console.receive.add_chain(&[Buffer::readable(0x8000, 16)]);
    console.receive.add_chain(&[Buffer::writable(0x8000, 0)]);
    console.receive.add_chain(&[Buffer::writable(u64::MAX - 4, 16)]);
    console.receive.add_chain(&[Buffer::writable(0x9000, 16)]);
    console.port.offer(b"ls");
    console.kick_receive();
    assert!(console.receive.used().iter().map(|(_, written)| *written).eq([0, 0, 0, 2]));
    assert_eq!(console.get(0x9000, 2), b"ls");
}

#[test]
fn broken_receive_ring_asks_for_a_reset_and_transmitting_goes_on() {
    let mut console = setup();
    console.receive.set_available_index(50);
    console.port.offer(b"ls");
    console.kick_receive();
    assert!(console.receive.needs_reset());
    console.put(0x8000, b"still here");
    console.transmit.add_chain(&[Buffer::readable(0x8000, 10)]);
    console.kick_transmit();
    assert_eq!(console.output(), b"still here");
}

#[test]
fn resize_changes_the_configuration_and_tells_an_active_driver_once() {
    let (port, _reader) = port();
    let memory = guest_ram();
    let receive = TestQueue::new(memory.clone(), 8);
    let transmit = TestQueue::at(memory.clone(), 8, 0x10_0000);
    let mut console = Console::new(Arc::clone(&port));
    port.resize(80, 25);
    console
        .activate(Activation {
            memory,
            features: 0,
            queues: vec![receive.device_queue(0), transmit.device_queue(1)],
            notifier: receive.notifier(),
        })
        .unwrap();
    assert_eq!(receive.config_interrupts(), 0);
    port.resize(132, 43);
    port.resize(132, 43);
    assert_eq!(receive.config_interrupts(), 1);

    let mut config = [0; 16];
    console.read_config(0, &mut config);
    assert_eq!(config, [132, 0, 43, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut rows = [0; 2];
    console.read_config(2, &mut rows);
    assert_eq!(rows, [43, 0]);
    console.read_config(u64::MAX, &mut [0; 4]);

    console.reset();
    port.resize(80, 25);
    assert_eq!(receive.config_interrupts(), 1, "nobody is there to be told");
}

#[test]
fn missing_queue_is_named() {
    let (port, _reader) = port();
    let queue = TestQueue::new(guest_ram(), 8);
    let mut console = Console::new(port);
    let refused = console.activate(Activation {
        memory: queue.memory().clone(),
        features: 0,
        queues: vec![queue.device_queue(0)],
        notifier: queue.notifier(),
    });
    assert!(matches!(refused, Err(ActivateError::MissingQueue(TRANSMIT_QUEUE))));
}

#[test]
fn emergency_write_prints_its_low_byte_without_a_driver() {
    let (port, mut reader) = port();
    let mut console = Console::new(port);
    console.write_config(8, &[b'!', 0, 0, 0]);
    console.write_config(0, b"size");
    console.write_config(8, &[]);
    drop(console);
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"!");
}

#[test]
fn reset_does_not_wait_for_output_that_nobody_reads() {
    let (port, mut reader) = port();
    let memory = guest_ram();
    let receive = TestQueue::new(memory.clone(), 8);
    let mut transmit = TestQueue::at(memory.clone(), 8, 0x10_0000);
    // 8 times 8 MiB: far more than pipe and buffer hold.
    transmit.add_chain(&[Buffer::readable(0x20_0000, 8 << 20); 8]);
    let mut console = Console::new(Arc::clone(&port));
    console
        .activate(Activation {
            memory,
            features: 0,
            queues: vec![receive.device_queue(0), transmit.device_queue(1)],
            notifier: receive.notifier(),
        })
        .unwrap();
    // The worker is in the middle of it.
    reader.read_exact(&mut [0]).unwrap();
    console.reset();
    // One that waited would have met the output's time limit and dropped the rest of the 64 MiB.
    let dropped = port.output().dropped_bytes();
    assert!(dropped <= COPY_BYTES as u64, "{dropped} bytes");
}

#[test]
fn input_that_no_driver_has_taken_survives_a_restore_and_comes_first() {
    let (old, _reader) = port();
    old.resize(80, 25);
    assert_eq!(old.offer(b"ls"), 2);
    let saved = Console::new(old).save().unwrap();

    let mut new = setup();
    assert_eq!(new.port.offer(b"\n"), 1);
    Console::new(Arc::clone(&new.port)).restore(saved).unwrap();
    assert_eq!(new.port.size(), (80, 25));
    let head = new.receive.add_chain(&[Buffer::writable(0x8000, 16)]);
    new.kick_receive();
    assert_eq!(new.receive.used(), [(u32::from(head), 3)]);
    assert_eq!(new.get(0x8000, 3), b"ls\n");

    let state = serde_json::json!({ "input": vec![1; 4097] });
    assert!(Console::new(Arc::clone(&new.port)).restore(state).is_err());
    let state = serde_json::json!({ "input": "ls" });
    assert!(Console::new(Arc::clone(&new.port)).restore(state).is_err());
    assert!(!new.port.has_input());
}

#[test]
fn state_of_each_past_format_is_read_whole() {
    crate::state::kept::expect_read_whole::<super::port::ConsoleState>("console");
}
