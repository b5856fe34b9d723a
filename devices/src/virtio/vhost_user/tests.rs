//! Against a back end in a thread of the test's.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sys::memory::{GuestRam, GuestRegion};
use vhost::vhost_user::{Listener, VhostUserProtocolFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap,
};
use vmm_sys_util::epoll::EventSet as EpollEvents;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::super::testing::{Buffer, RAM_SIZE, TestQueue, guest_ram};
use super::*;

const STATUS: u64 = 0x9000;
const FLUSH: u64 = 1 << 9;
const MQ: u64 = 1 << 12;
const FEATURES: u64 = FLUSH | MQ | 1 << 26 | 1 << 30 | 1 << 32 | 1 << 34;

/// What the back end's tests look at and change.
struct Shared {
    capacity: AtomicU64,
    protocol: VhostUserProtocolFeatures,
    features: u64,
}

struct Backend {
    shared: Arc<Shared>,
    memory: Option<GuestMemoryAtomic<GuestMemoryMmap>>,
}

impl VhostUserBackendMut for Backend {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        self.shared.features
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.shared.protocol
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        assert_eq!((offset, size), (0, 60));
        let mut config = vec![0; 60];
        config[..8].copy_from_slice(&self.shared.capacity.load(Ordering::Relaxed).to_le_bytes());
        config[34..36].copy_from_slice(&9_u16.to_le_bytes());
        config
    }

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    /// Writes a zero to the last byte of each request, its status.
    fn handle_event(
        &mut self,
        event: u16,
        _events: EpollEvents,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        let memory = self.memory.as_ref().unwrap().memory();
        let mut vring = vrings[usize::from(event)].get_mut();
        loop {
            use virtio_queue::QueueT;
            let chain = vring.get_queue_mut().pop_descriptor_chain(memory.clone());
            let Some(chain) = chain else { return Ok(()) };
            let head = chain.head_index();
            let status = chain.last().unwrap();
            memory.write_obj(0_u8, status.addr()).unwrap();
            vring.add_used(head, 1).unwrap();
            vring.signal_used_queue().unwrap();
        }
    }
}

struct Running {
    path: PathBuf,
    shared: Arc<Shared>,
    _folder: tempfile::TempDir,
}

fn run(protocol: VhostUserProtocolFeatures, features: u64) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backend.sock");
    let shared = Arc::new(Shared { capacity: AtomicU64::new(100), protocol, features });
    let backend = Backend { shared: Arc::clone(&shared), memory: None };
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon =
        VhostUserDaemon::new("backend".to_owned(), Arc::new(RwLock::new(backend)), memory).unwrap();
    let mut listener = Listener::new(&path, true).unwrap();
    // It ends with the connection, or with the process where nobody connects.
    std::thread::spawn(move || {
        if daemon.start(&mut listener).is_ok() {
            let _ = daemon.wait();
        }
    });
    Running { path, shared, _folder: folder }
}

fn usual() -> Running {
    run(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ, FEATURES)
}

fn shared_ram() -> GuestRam {
    let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(file);
    file.set_len(RAM_SIZE as u64).unwrap();
    let region = MmapRegionBuilder::new_with_bitmap(RAM_SIZE, Default::default())
        .with_file_offset(FileOffset::new(file, 0))
        .with_mmap_prot(3)
        .with_mmap_flags(1)
        .build()
        .unwrap();
    let region = GuestRegion::new(region, GuestAddress(0)).unwrap();
    GuestRam::from_regions(vec![region]).unwrap()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} doesn't come");
        std::thread::yield_now();
    }
}

fn activation(queue: &TestQueue) -> Activation {
    Activation {
        memory: queue.memory().clone(),
        features: FLUSH,
        queues: vec![queue.device_queue(0)],
        notifier: queue.notifier(),
    }
}

fn add(queue: &mut TestQueue) {
    queue.memory().write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
    queue.add_chain(&[Buffer::readable(0x8000, 16), Buffer::writable(STATUS, 1)]);
    queue.kick();
}

fn served(queue: &mut TestQueue) -> bool {
    let used = queue.used();
    let status: u8 = queue.memory().read_obj(GuestAddress(STATUS)).unwrap();
    used.len() == 1 && status == 0
}

#[test]
fn requests_are_served_by_the_back_end_also_after_a_pause_and_a_reset() {
    let backend = usual();
    let mut device = VhostUserBlock::connect(&backend.path, 1, 256).unwrap();
    let mut queue = TestQueue::new(shared_ram(), 16);
    device.activate(activation(&queue)).unwrap();
    add(&mut queue);
    wait_until("the answer", || served(&mut queue));
    wait_until("the interrupt", || queue.interrupts() != 0);

    device.pause();
    add(&mut queue);
    device.control().reload().unwrap();
    assert!(!served(&mut queue), "nothing is served meanwhile");
    device.resume();
    wait_until("the answer after the pause", || served(&mut queue));

    device.reset();
    let mut queue = TestQueue::new(queue.memory().clone(), 16);
    queue.memory().write_slice(&[0; 0x7000], GuestAddress(0)).unwrap();
    device.activate(activation(&queue)).unwrap();
    add(&mut queue);
    wait_until("the answer after the reset", || served(&mut queue));
    assert!(!queue.needs_reset());
}

#[test]
fn configuration_is_the_back_ends_but_for_the_number_of_queues() {
    let backend = usual();
    let mut device = VhostUserBlock::connect(&backend.path, 2, 256).unwrap();
    assert_eq!(device.offered_features(), FLUSH | MQ);
    let mut config = [0; 36];
    device.read_config(0, &mut config);
    assert_eq!((config[0], config[34]), (100, 2));
    let queue = TestQueue::new(shared_ram(), 16);
    device.activate(activation(&queue)).unwrap();
    assert!(!device.control().reload().unwrap());
    backend.shared.capacity.store(200, Ordering::Relaxed);
    assert!(device.control().reload().unwrap());
    assert_eq!(queue.config_interrupts(), 1);
    device.read_config(0, &mut config);
    assert_eq!(config[0], 200);
    assert!(matches!(device.save(), Err(SaveError::Unsupported { .. })));
}

#[test]
fn back_end_that_lacks_something_is_refused() {
    use VhostUserProtocolFeatures as Protocol;
    let connect =
        |backend: &Running, queues| VhostUserBlock::connect(&backend.path, queues, 256).err();
    let error = connect(&run(Protocol::MQ, FEATURES), 1);
    assert!(matches!(error, Some(VhostUserError::Missing(_))), "{error:?}");
    let error = connect(&run(Protocol::CONFIG, FEATURES & !(1 << 32)), 1);
    assert!(matches!(error, Some(VhostUserError::Missing(_))), "{error:?}");
    for (protocol, queues) in [(Protocol::CONFIG, 2), (Protocol::CONFIG | Protocol::MQ, 3)] {
        let error = connect(&run(protocol, FEATURES), queues);
        assert!(matches!(error, Some(VhostUserError::Queues { .. })), "{error:?}");
    }
    let missing = std::env::temp_dir().join("no-such-back-end.sock");
    let error = VhostUserBlock::connect(&missing, 1, 256).err();
    assert!(matches!(error, Some(VhostUserError::Connect(_))));
}

#[test]
fn memory_that_is_not_shared_is_refused() {
    let backend = usual();
    let mut device = VhostUserBlock::connect(&backend.path, 1, 256).unwrap();
    let queue = TestQueue::new(guest_ram(), 16);
    assert!(!is_shared(queue.memory()));
    assert!(matches!(device.activate(activation(&queue)), Err(ActivateError::Backend(_))));
    assert!(is_shared(&shared_ram()));
}

#[test]
fn back_end_that_hangs_up_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let peer = std::thread::spawn(move || drop(listener.accept().unwrap()));
    assert!(matches!(
        VhostUserBlock::connect(&path, 1, 256).err(),
        Some(VhostUserError::Protocol { .. })
    ));
    peer.join().unwrap();
}
