use std::fs::File;
use std::io::{PipeWriter, Seek, Write, pipe};
use std::sync::Mutex;

use event_manager::{EventManager, SubscriberOps};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

/// A device with room for as much as a test says.
struct Device {
    seen: Mutex<Vec<u8>>,
    room_left: Mutex<usize>,
    room: EventFd,
}

impl Device {
    fn new(room_left: usize) -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::default(),
            room_left: Mutex::new(room_left),
            room: EventFd::new(EFD_NONBLOCK).unwrap(),
        })
    }

    fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
    }

    fn make_room(&self, bytes: usize) {
        *self.room_left.lock().unwrap() += bytes;
        self.room.write(1).unwrap();
    }
}

impl InputTarget for Device {
    fn offer(&self, bytes: &[u8]) -> usize {
        let mut room = self.room_left.lock().unwrap();
        let taken = bytes.len().min(*room);
        *room -= taken;
        self.seen.lock().unwrap().extend(&bytes[..taken]);
        taken
    }

    fn room(&self) -> &EventFd {
        &self.room
    }
}

struct Loop(EventManager<ConsoleInput>);

impl Loop {
    fn new(input: ConsoleInput) -> Self {
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(input);
        Self(manager)
    }

    /// Handles events until there are none; panics when they never end.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.0.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the loop spins");
    }
}

fn piped(room: usize) -> (Loop, PipeWriter, Arc<Device>) {
    let (reader, writer) = pipe().unwrap();
    let device = Device::new(room);
    (Loop::new(ConsoleInput::new(reader.into(), device.clone())), writer, device)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|position| (position % 251) as u8).collect()
}

#[test]
fn input_reaches_the_device() {
    let (mut events, mut writer, device) = piped(100);
    writer.write_all(b"ls\n").unwrap();
    events.settle();
    assert_eq!(device.seen(), b"ls\n");
}

#[test]
fn guest_that_does_not_read_leaves_the_rest_in_the_pipe() {
    let (mut events, mut writer, device) = piped(0);
    let input = pattern(32 << 10);
    writer.write_all(&input).unwrap();
    events.settle();
    assert!(device.seen().is_empty());
    let mut fits = 0;
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[0; 4096]).is_ok() {
        fits += 4096;
    }
    assert!(fits <= (32 << 10) + READ_AHEAD, "{fits} more bytes fit in a pipe of 64 KiB");

    // Little by little, nothing is lost or swapped.
    while device.seen().len() < input.len() {
        device.make_room(700);
        events.settle();
    }
    assert_eq!(device.seen()[..input.len()], input);
}

#[test]
fn end_of_a_pipe_ends_the_input_after_its_last_byte() {
    let (mut events, mut writer, device) = piped(1);
    writer.write_all(b"bye").unwrap();
    drop(writer);
    events.settle();
    assert_eq!(device.seen(), b"b");
    device.make_room(100);
    events.settle();
    assert_eq!(device.seen(), b"bye");
}

#[test]
fn closed_pipe_with_a_full_read_ahead_does_not_spin() {
    let (mut events, mut writer, device) = piped(0);
    let input = pattern(2 * READ_AHEAD);
    writer.write_all(&input).unwrap();
    drop(writer);
    events.settle();
    device.make_room(usize::MAX);
    events.settle();
    assert_eq!(device.seen(), input);
}

#[test]
fn regular_file_is_read_to_its_end_as_the_guest_takes_it() {
    let mut file = tempfile::tempfile().unwrap();
    let input = pattern(3 * READ_AHEAD + 5);
    file.write_all(&input).unwrap();
    file.rewind().unwrap();
    let device = Device::new(10);
    let mut events = Loop::new(ConsoleInput::new(file.into(), device.clone()));
    events.settle();
    assert_eq!(device.seen(), input[..10]);
    device.make_room(input.len());
    events.settle();
    assert_eq!(device.seen(), input);
}

#[test]
fn null_device_is_no_input() {
    let device = Device::new(10);
    let null = File::open("/dev/null").unwrap();
    let mut events = Loop::new(ConsoleInput::new(null.into(), device.clone()));
    events.settle();
    assert!(device.seen().is_empty());
}

#[test]
fn directory_ends_the_input() {
    let device = Device::new(10);
    let directory = File::open("/").unwrap();
    Loop::new(ConsoleInput::new(directory.into(), device)).settle();
}
