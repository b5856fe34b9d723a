use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;

use event_manager::{EventManager, SubscriberOps};
use tempfile::TempDir;

use super::*;

/// A device with room for as much as a test says.
struct Device {
    seen: Mutex<Vec<u8>>,
    room_left: Mutex<usize>,
    room: EventFd,
}

impl Device {
    fn make_room(&self, bytes: usize) {
        *self.room_left.lock().unwrap() += bytes;
        self.room.write(1).unwrap();
    }

    fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
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

struct Fixture {
    dir: TempDir,
    output: ConsoleOutput,
    device: Arc<Device>,
    manager: EventManager<ConsoleServer>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = ConsoleSocket::bind(&dir.path().join("console.sock")).unwrap();
        let output = socket.output();
        let device = Arc::new(Device {
            seen: Mutex::default(),
            room_left: Mutex::new(usize::MAX / 2),
            room: EventFd::new(EFD_NONBLOCK).unwrap(),
        });
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(socket.serve(Arc::clone(&device) as Arc<dyn InputTarget>));
        Self { dir, output, device, manager }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("console.sock")
    }

    fn connect(&mut self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_nonblocking(true).unwrap();
        self.settle();
        stream
    }

    /// Handles events until there are none; panics when they never end.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.manager.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the event loop never rests");
    }

    /// Reads all that the client gets, as fast as it can.
    fn drain(&mut self, client: &mut UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            self.settle();
            let before = all.len();
            match client.read_to_end(&mut all) {
                Ok(_) => return all,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            if all.len() == before {
                return all;
            }
        }
    }
}

#[test]
fn later_client_gets_the_newest_64_kib_first_and_then_what_follows() {
    let mut fixture = Fixture::new();
    let text: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
    for piece in text.chunks(1000) {
        fixture.output.write(piece);
    }
    let mut client = fixture.connect();
    assert!(fixture.drain(&mut client) == text[text.len() - CAPACITY..]);
    fixture.output.write(b"more");
    assert_eq!(fixture.drain(&mut client), b"more");
    assert_eq!(fixture.output.dropped_bytes(), 0);
}

#[test]
fn every_client_sees_all_output_and_may_type() {
    let mut fixture = Fixture::new();
    let mut clients = [fixture.connect(), fixture.connect()];
    fixture.output.write(b"login: ");
    for (client, typed) in clients.iter_mut().zip([b"ro", b"ot"]) {
        assert_eq!(fixture.drain(client), b"login: ");
        client.write_all(typed).unwrap();
        fixture.settle();
    }
    assert_eq!(fixture.device.seen(), b"root");
}

#[test]
fn client_that_never_reads_blocks_nobody_and_misses_the_oldest_bytes() {
    let mut fixture = Fixture::new();
    let mut stuck = fixture.connect();
    let mut reader = fixture.connect();
    let chunk = [b'x'; 4096];
    for _ in 0..500 {
        fixture.output.write(&chunk);
        assert_eq!(fixture.drain(&mut reader).len(), chunk.len());
    }
    fixture.output.write(b"end");
    assert!(!fixture.output.flush(std::time::Duration::ZERO));
    assert!(fixture.output.dropped_bytes() > 0);
    let seen = fixture.drain(&mut stuck);
    assert!(seen.len() < 500 * chunk.len() && seen.ends_with(b"xend"), "{}", seen.len());
}

#[test]
fn input_waits_for_room_and_none_is_lost_even_if_its_client_hangs_up() {
    let mut fixture = Fixture::new();
    *fixture.device.room_left.lock().unwrap() = 0;
    let mut client = fixture.connect();
    let text: Vec<u8> = (0..3 * READ_AHEAD as u32).map(|number| (number % 251) as u8).collect();
    client.write_all(&text).unwrap();
    drop(client);
    // Would never rest if the hang-up were reported again and again.
    fixture.settle();
    for _ in 0..8 {
        fixture.device.make_room(READ_AHEAD);
        fixture.settle();
    }
    assert!(fixture.device.seen() == text);
}

#[test]
fn client_whose_input_has_ended_still_gets_output() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    client.write_all(b"ls\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    fixture.settle();
    fixture.output.write(b"files");
    assert_eq!(fixture.drain(&mut client), b"files");
    assert_eq!(fixture.device.seen(), b"ls\n");
}

#[test]
fn client_that_is_one_too_many_is_turned_away_until_another_leaves() {
    let mut fixture = Fixture::new();
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| fixture.connect()).collect();
    let mut late = fixture.connect();
    assert_eq!(late.read(&mut [0]).unwrap(), 0, "it's closed");
    clients.pop();
    fixture.settle();
    let mut next = fixture.connect();
    fixture.output.write(b"welcome");
    assert_eq!(fixture.drain(&mut next), b"welcome");
}

#[test]
fn socket_is_the_owners_only_is_never_taken_over_and_vanishes_with_its_server() {
    let fixture = Fixture::new();
    let path = fixture.path();
    let mode = std::fs::symlink_metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777 & !0o600, 0, "{mode:o}");
    let error = ConsoleSocket::bind(&path).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    drop(fixture.manager);
    assert!(!path.exists());
}

#[test]
fn file_that_replaced_the_socket_is_left_alone() {
    let fixture = Fixture::new();
    std::fs::remove_file(fixture.path()).unwrap();
    std::fs::write(fixture.path(), "someone else's").unwrap();
    let path = fixture.path();
    drop(fixture.manager);
    assert!(path.exists());
}
